"""A GGUF file served by the embedded llama.cpp server."""
