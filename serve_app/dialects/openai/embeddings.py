"""OpenAI's POST /v1/embeddings: decodes texts or token ids, encodes vectors as numbers or base64. Pure."""

import base64
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from serve_app.dialects.base import Embed, EmbedContext, JsonObject, WireBody
from serve_app.encoding import Embedding, EmbedRequest, Ids
from serve_app.errors import InvalidRequest

_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXT = {"type": "string", "minLength": 1}
_INPUT = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}


class EmbeddingBody(WireBody):
    """POST /v1/embeddings."""

    model: str | None = None
    input: Annotated[Any, WithJsonSchema(_INPUT)]
    """Read by `decode_inputs`: pydantic would report a fault of each of a million numbers."""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


class EmbeddingCodec:
    """POST /v1/embeddings."""

    body = EmbeddingBody

    def decode(self, body: EmbeddingBody, request_id: str) -> EmbedRequest:
        """See `EmbedCodec.decode`."""
        return EmbedRequest(
            request_id=request_id,
            inputs=decode_inputs(body.input),
            model=body.model or None,
            demands_model=True,
            dimensions=body.dimensions,
        )

    def encode(self, embedding: Embedding, context: EmbedContext[EmbeddingBody]) -> JsonObject:
        """See `EmbedCodec.encode`."""
        if context.body.encoding_format == "base64":
            shown: list[Any] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in embedding.vectors]
        else:
            shown = embedding.vectors.tolist()
        tokens = embedding.prompt_tokens
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": at, "embedding": each} for at, each in enumerate(shown)],
            "model": context.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def decode_inputs(given: Any) -> tuple[str | Ids, ...]:
    """Return the inputs: a text, token ids, or a list of either; raises `InvalidRequest` naming the first that is neither."""
    if isinstance(given, str):
        return (_require_text(given, "input"),)
    if not isinstance(given, list):
        raise InvalidRequest("input must be a string, a list of strings, or one or more lists of token ids", param="input")
    if not given:
        raise InvalidRequest("input must not be an empty list", param="input")
    if isinstance(given[0], str):
        return tuple(_require_text(each, f"input.{at}") for at, each in enumerate(given))
    if isinstance(given[0], list):
        return tuple(_require_ids(each, f"input.{at}") for at, each in enumerate(given))
    return (_require_ids(given, "input"),)


def _require_text(given: Any, place: str) -> str:
    if not isinstance(given, str):
        raise InvalidRequest(f"{place} must be a string, as the first input is", param=place)
    if not given:
        raise InvalidRequest(f"{place} must not be an empty string", param=place)
    return given


def _require_ids(given: Any, place: str) -> Ids:
    if not isinstance(given, list) or not given:
        raise InvalidRequest(f"{place} must be a list of at least one token id", param=place)
    wrong = next((at for at, each in enumerate(given) if type(each) is not int or each < 0), None)
    if wrong is not None:
        raise InvalidRequest(
            f"{place}.{wrong} must be a string or a token id, a whole number of at least 0", param=f"{place}.{wrong}"
        )
    return tuple(given)


EMBEDDINGS = Embed("/v1/embeddings", EmbeddingCodec())
