"""OpenAI's API: chat completions, completions, models; and where a request would go."""

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
    "messages",
    "moderations",
    "rerank",
    "responses",
    "score",
)
"""What OpenAI's API and vLLM's additions to it have besides; some are names in other APIs too."""
DIALECT = replace(
    codec.DIALECT,
    endpoints=(*codec.DIALECT.endpoints, ROUTE),
    base_url="the base URL of an OpenAI client ends in /v1",
    absent=frozenset(ABSENT),
)

__all__ = ["DIALECT"]
