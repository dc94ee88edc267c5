"""Anthropic's endpoints: messages, counting their tokens, and the models for clients that name its version."""

from datetime import UTC, datetime

from serve_app.dialects.anthropic.codec import MessagesCodec
from serve_app.dialects.anthropic.messages import decode_chat
from serve_app.dialects.anthropic.shapes import ERROR_SCHEMA, encode_error, show_status, write_headers
from serve_app.dialects.anthropic.stream import MEDIA_TYPE
from serve_app.dialects.anthropic.tools import decode_tools
from serve_app.dialects.anthropic.wire import CountBody
from serve_app.dialects.base import Dialect, Generate, JsonObject, Query, QueryContext
from serve_app.model_info import ModelInfo


def _show_model(model: ModelInfo) -> JsonObject:
    created = datetime.fromtimestamp(int(model.modified), UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": model.name, "display_name": model.name, "created_at": created}


def _is_client(context: QueryContext) -> bool:
    """Return whether the client speaks this API: OpenAI's has the same path, and Anthropic's clients send their version."""
    return "anthropic-version" in context.headers


async def _list_models(context: QueryContext, _: None) -> JsonObject | None:
    if not _is_client(context):
        return None
    models = [_show_model(model) for model in context.models.list()]
    first, last = (models[0]["id"], models[-1]["id"]) if models else (None, None)
    return {"data": models, "has_more": False, "first_id": first, "last_id": last}


async def _find_model(context: QueryContext, _: None) -> JsonObject | None:
    if not _is_client(context):
        return None
    name = context.parameters["model"]
    return _show_model(context.models.find(name)) | {"id": name}


async def _count_tokens(context: QueryContext, body: CountBody) -> JsonObject:
    rendered = await context.render(body.model, decode_chat(body, decode_tools(body)[0]))
    return {"input_tokens": len(rendered.ids)}


DIALECT = Dialect(
    name="anthropic",
    prefix="/v1/messages/",
    base_url="the base URL of an Anthropic client has no path",
    endpoints=(
        Generate("/v1/messages", MessagesCodec(), MEDIA_TYPE),
        Query(path="/v1/messages/count_tokens", method="POST", body=CountBody, answer=_count_tokens),
        Query(path="/v1/models", answer=_list_models),
        Query(path="/v1/models/{model:path}", answer=_find_model),
    ),
    encode_error=encode_error,
    error_schema=ERROR_SCHEMA,
    show_status=show_status,
    write_headers=write_headers,
)
