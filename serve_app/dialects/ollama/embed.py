"""Ollama's two endpoints for embeddings: /api/embed, and /api/embeddings of earlier versions. Pure.

As in Ollama, /api/embed always gives vectors of the length 1 and cuts texts that are too long; /api/embeddings gives the model's
own vectors and refuses such texts. Without any text both only say that the model is loaded.
"""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from serve_app.dialects.base import Embed, EmbedContext, JsonObject, WireBody
from serve_app.dialects.ollama.codec import check_options, require_keep_alive
from serve_app.dialects.ollama.shapes import NS_PER_S
from serve_app.encoding import Embedding, EmbedRequest
from serve_app.errors import InvalidRequest

_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}


class EncodingBody(WireBody):
    """Fields that both endpoints share."""

    model: str = ""
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None


class EmbedBody(EncodingBody):
    """POST /api/embed."""

    input: Annotated[Any, WithJsonSchema(_TEXTS)] = None
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=0)


class EmbeddingsBody(EncodingBody):
    """POST /api/embeddings."""

    prompt: str | None = None


class EmbedCodec:
    """POST /api/embed."""

    body = EmbedBody

    def decode(self, body: EmbedBody, request_id: str) -> EmbedRequest:
        """See `EmbedCodec.decode` in the base module."""
        _require_valid(body)
        return EmbedRequest(
            request_id=request_id,
            inputs=_decode_texts(body.input),
            model=body.model,
            dimensions=body.dimensions or None,
            normalized=True,
            truncate=body.truncate is not False,
        )

    def encode(self, embedding: Embedding, context: EmbedContext[EmbedBody]) -> JsonObject:
        """See `EmbedCodec.encode` in the base module. The model is loaded before any request arrives."""
        shown: JsonObject = {"model": context.model, "embeddings": embedding.vectors.tolist()}
        if not embedding.prompt_tokens:
            return shown
        times = {"total_duration": round(context.elapsed_s * NS_PER_S), "load_duration": 0}
        return shown | times | {"prompt_eval_count": embedding.prompt_tokens}


class EmbeddingsCodec:
    """POST /api/embeddings."""

    body = EmbeddingsBody

    def decode(self, body: EmbeddingsBody, request_id: str) -> EmbedRequest:
        """See `EmbedCodec.decode` in the base module."""
        _require_valid(body)
        return EmbedRequest(request_id=request_id, inputs=(body.prompt,) if body.prompt else (), model=body.model)

    def encode(self, embedding: Embedding, context: EmbedContext[EmbeddingsBody]) -> JsonObject:
        """See `EmbedCodec.encode` in the base module."""
        return {"embedding": embedding.vectors[0].tolist() if len(embedding.vectors) else []}


def _require_valid(body: EncodingBody) -> None:
    if not body.model:
        raise InvalidRequest("model is required", param="model")
    require_keep_alive(body.keep_alive)
    check_options(body.options or {})


def _decode_texts(given: Any) -> tuple[str, ...]:
    if given is None or given == "":
        return ()
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise InvalidRequest("input must be a string or a list of strings", param="input")
    return tuple(given)


EMBED = Embed("/api/embed", EmbedCodec())
EMBEDDINGS = Embed("/api/embeddings", EmbeddingsCodec())
