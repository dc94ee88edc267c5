"""Ollama's API: generate, chat, and the verbs about models."""

from serve_app.dialects.ollama.dialect import DIALECT

__all__ = ["DIALECT"]
