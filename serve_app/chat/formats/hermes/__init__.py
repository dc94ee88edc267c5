"""The syntax of tool calls that Hermes models began and Qwen and SmolLM models write."""
