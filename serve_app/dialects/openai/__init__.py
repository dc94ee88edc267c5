"""OpenAI's API: chat completions, completions, models."""

from serve_app.dialects.openai.codec import DIALECT

__all__ = ["DIALECT"]
