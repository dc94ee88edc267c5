"""The API of the tutorial's reasoning server: one endpoint, one JSON object."""

from serve_app.dialects.reasoning.codec import DIALECT

__all__ = ["DIALECT"]
