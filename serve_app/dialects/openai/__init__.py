"""OpenAI's API: chat completions, completions, models; and our preview of routes."""

from dataclasses import replace

from serve_app.dialects.openai import codec
from serve_app.dialects.openai.route import ROUTE

ABSENT = (
    "audio",
    "batches",
    "embeddings",
    "files",
    "fine_tuning",
    "images",
    "moderations",
    "rerank",
    "responses",
    "score",
)
"""First path segments that OpenAI's API or vLLM's additions have, and this server lacks; other APIs use some of them too."""
DIALECT = replace(
    codec.DIALECT,
    endpoints=(*codec.DIALECT.endpoints, ROUTE),
    base_url="the base URL of an OpenAI client ends in /v1",
    absent=frozenset(ABSENT),
)

__all__ = ["DIALECT"]
