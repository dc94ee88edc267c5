"""The commands of `phi-serve` that talk to a running application, over Ollama's API. Knows no internals of the application."""
