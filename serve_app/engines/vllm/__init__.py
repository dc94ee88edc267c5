"""The vLLM engine, and what it adds to vLLM's own processes."""
