"""The syntax of tool calls that Llama 3.1 and 3.2 write."""
