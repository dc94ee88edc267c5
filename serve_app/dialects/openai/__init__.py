"""OpenAI's API: chat completions, completions, models; and where a request would go."""

from dataclasses import replace

from serve_app.dialects.openai import codec
from serve_app.dialects.openai.trial import ROUTE

DIALECT = replace(codec.DIALECT, endpoints=(*codec.DIALECT.endpoints, ROUTE))

__all__ = ["DIALECT"]
