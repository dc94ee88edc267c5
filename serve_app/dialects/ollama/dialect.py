"""Ollama's endpoints: the generating ones, those for embeddings, and the commands about models."""

from serve_app.caller import Scope
from serve_app.dialects.base import Dialect, Generate, JsonObject, Query, QueryContext, Reply, dump
from serve_app.dialects.ollama import create
from serve_app.dialects.ollama.codec import ChatCodec, GenerateCodec
from serve_app.dialects.ollama.describe import show_details, show_model, show_summary
from serve_app.dialects.ollama.embed import EMBED, EMBEDDINGS
from serve_app.dialects.ollama.shapes import ERROR_SCHEMA, MEDIA_TYPE, encode_error, encode_line, format_time
from serve_app.dialects.ollama.wire import CopyBody, CreateBody, ModelBody
from serve_app.errors import InvalidRequest, ModelNotFound, NotFound, Unsupported
from serve_app.model_info import LoadedGroup, ModelInfo
from serve_app.model_names import add_tag

PORT = 11434
"""Where Ollama listens; a request that names it in its Host header gets Ollama's own `GET /`."""
API_VERSION = "0.13.4"
"""The version of Ollama whose API this is; clients query it to learn which features they may use."""
_TEXT = "text/plain"
_PROGRESS = ("application/json", MEDIA_TYPE)
_NEVER_S = (2**63 - 1) / 1e9
"""How far ahead Ollama puts the expiry of a model that is never unloaded."""


async def _greet(context: QueryContext, _: None) -> Reply | None:
    """Answer on Ollama's own port only: another dialect has this path too, and the port shows which one the client means."""
    if not context.host.endswith(f":{PORT}"):
        return None
    return Reply(body=b"Ollama is running", media_type=_TEXT)


async def _version(context: QueryContext, _: None) -> JsonObject:
    return {"version": API_VERSION}


async def _tags(context: QueryContext, _: None) -> JsonObject:
    return {"models": [show_summary(model) for model in context.models.list()]}


async def _ps(context: QueryContext, _: None) -> JsonObject:
    """List one entry a model: all its names share the weights, which the ready groups hold until the operator removes them."""
    groups: dict[str, list[LoadedGroup]] = {}
    for group in context.loaded_groups():
        groups.setdefault(group.model, []).append(group)
    return {"models": [_show_loaded(context.models.find(name), held_by) for name, held_by in groups.items()]}


def _show_loaded(model: ModelInfo, groups: list[LoadedGroup]) -> JsonObject:
    return {
        "name": add_tag(model.name),
        "model": add_tag(model.name),
        "size": sum(group.weight_bytes for group in groups),
        "digest": model.digest,
        "details": show_details(model),
        "expires_at": format_time(model.created + _NEVER_S),
        "size_vram": sum(group.gpu_bytes for group in groups),
        "context_length": max(group.context_length for group in groups),
        "groups": [
            {
                "name": group.group,
                "engine": group.engine,
                "precision": group.precision,
                "replicas": group.replicas,
                "context_length": group.context_length,
                "size": group.weight_bytes,
                "memory": group.memory_bytes,
                "kv_tokens": group.kv_tokens,
                "kv_used_tokens": group.kv_used_tokens,
            }
            for group in groups
        ],
    }


async def _show(context: QueryContext, body: ModelBody) -> JsonObject:
    return show_model(context.models.find(_require_name(body)))


async def _create(context: QueryContext, body: CreateBody) -> Reply:
    name = _require_name(body)
    parent, changes = create.decode(body)
    variant = await context.models.create(name, parent, changes)
    using = f"using existing model {add_tag(context.models.find(parent).name)}"
    steps = [using, f"creating new layer sha256:{variant.digest}", "writing manifest"]
    return _reply_progress(body, [{"status": step} for step in steps])


async def _copy(context: QueryContext, body: CopyBody) -> Reply:
    if not body.source or not body.destination:
        raise InvalidRequest("source and destination are required")
    await context.models.copy(body.source, body.destination)
    return _reply_empty()


async def _delete(context: QueryContext, body: ModelBody) -> Reply:
    await context.models.delete(_require_name(body))
    return _reply_empty()


async def _pull(context: QueryContext, body: ModelBody) -> Reply:
    """Report a served model as complete; no other model can be pulled."""
    try:
        model = context.models.find(_require_name(body))
    except ModelNotFound as error:
        raise NotFound("pull model manifest: file does not exist; the operator configures which models are served") from error
    digest, size = model.digest, model.stored_bytes
    layer = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": size, "completed": size}
    steps: list[JsonObject] = [{"status": "pulling manifest"}, layer, {"status": "verifying sha256 digest"}]
    return _reply_progress(body, [*steps, {"status": "writing manifest"}])


async def _push(context: QueryContext, body: ModelBody) -> Reply:
    context.models.find(_require_name(body))
    raise Unsupported("you are not authorized to push from here: this server publishes no models", param="model")


async def _has_blob(context: QueryContext, _: None) -> Reply:
    if not await context.models.has_blob(context.parameters["digest"]):
        raise NotFound("no such blob")
    return _reply_empty()


async def _put_blob(context: QueryContext, raw: bytes) -> Reply:
    await context.models.put_blob(context.parameters["digest"], raw)
    return Reply(body=b"", media_type=_TEXT, status=201)


def _require_name(body: ModelBody) -> str:
    name = body.model or body.name
    if not name:
        raise InvalidRequest("model is required", param="model")
    return name


def _reply_empty() -> Reply:
    return Reply(body=b"", media_type=_TEXT)


def _reply_progress(body: ModelBody, steps: list[JsonObject]) -> Reply:
    """Return the steps of a finished operation; all at once, since they take no time."""
    success = {"status": "success"}
    if body.stream is False:
        return Reply(body=dump(success))
    return Reply(body=b"".join(map(encode_line, [*steps, success])), media_type=MEDIA_TYPE)


DIALECT = Dialect(
    name="ollama",
    prefix="/api/",
    base_url="the address of an Ollama client has no path",
    endpoints=(
        Generate("/api/generate", GenerateCodec(), MEDIA_TYPE),
        Generate("/api/chat", ChatCodec(), MEDIA_TYPE),
        Query(path="/", answer=_greet, media_types=(_TEXT,)),
        Query(path="/api/version", answer=_version),
        Query(path="/api/tags", answer=_tags),
        Query(path="/api/ps", answer=_ps),
        Query(path="/api/show", method="POST", body=ModelBody, answer=_show),
        Query(
            path="/api/create",
            method="POST",
            body=CreateBody,
            answer=_create,
            media_types=_PROGRESS,
            scope=Scope.OPERATE,
            writes=True,
        ),
        Query(path="/api/copy", method="POST", body=CopyBody, answer=_copy, media_types=(_TEXT,), scope=Scope.OPERATE, writes=True),
        Query(
            path="/api/delete",
            method="DELETE",
            body=ModelBody,
            answer=_delete,
            media_types=(_TEXT,),
            scope=Scope.OPERATE,
            writes=True,
        ),
        Query(path="/api/pull", method="POST", body=ModelBody, answer=_pull, media_types=_PROGRESS),
        Query(path="/api/push", method="POST", body=ModelBody, answer=_push),
        EMBED,
        EMBEDDINGS,
        Query(path="/api/blobs/{digest}", method="HEAD", answer=_has_blob, scope=Scope.OPERATE),
        Query(
            path="/api/blobs/{digest}",
            method="POST",
            body=bytes,
            answer=_put_blob,
            media_types=(_TEXT,),
            success=201,
            scope=Scope.OPERATE,
            writes=True,
        ),
    ),
    encode_error=encode_error,
    error_schema=ERROR_SCHEMA,
)
