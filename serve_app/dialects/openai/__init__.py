"""OpenAI's API: chat completions, completions, responses, embeddings, models; and our preview of routes."""

from dataclasses import replace

from serve_app.dialects.base import Generate
from serve_app.dialects.openai import codec
from serve_app.dialects.openai.embeddings import EMBEDDINGS
from serve_app.dialects.openai.responses.codec import COUNT, ResponsesCodec
from serve_app.dialects.openai.responses.stored import STORED
from serve_app.dialects.openai.route import ROUTE
from serve_app.dialects.openai.stream import MEDIA_TYPE

ABSENT = (
    "audio",
    "batches",
    "files",
    "fine_tuning",
    "images",
    "moderations",
    "rerank",
    "responses/compact",
    "score",
)
"""First path segments, or paths, that OpenAI's API or vLLM's additions have, and this server lacks; other APIs use some too."""
DIALECT = replace(
    codec.DIALECT,
    endpoints=(
        *codec.DIALECT.endpoints,
        Generate("/v1/responses", ResponsesCodec(), MEDIA_TYPE),
        COUNT,
        *STORED,
        EMBEDDINGS,
        ROUTE,
    ),
    base_url="the base URL of an OpenAI client ends in /v1",
    absent=frozenset(ABSENT),
)

__all__ = ["DIALECT"]
