"""The commands of `phi-serve` that talk to a running application, over Ollama's API. Knows nothing of the application's inside."""
