"""Anthropic's API: messages, counting their tokens, and models for its clients."""

from serve_app.dialects.anthropic.dialect import DIALECT

__all__ = ["DIALECT"]
