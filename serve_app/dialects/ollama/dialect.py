"""Ollama's endpoints: the generating ones, and the verbs about models over the catalog."""

from typing import Any

from serve_app.dialects.base import Act, Dialect, Generate, JsonObject, Lookup, Reply, Scene, dump
from serve_app.dialects.ollama import create
from serve_app.dialects.ollama.codec import ChatCodec, GenerateCodec
from serve_app.dialects.ollama.describe import details, show, summary
from serve_app.dialects.ollama.shapes import ERROR_SCHEMA, MEDIA_TYPE, encode_error, line, moment
from serve_app.dialects.ollama.wire import CopyBody, CreateBody, ModelBody
from serve_app.errors import InvalidRequest, ModelNotFound, NotFound, Unsupported
from serve_app.models.names import shown, tagged

PORT = 11434
"""Where Ollama listens; a request that names it in its Host header gets Ollama's own `GET /`."""
API_VERSION = "0.12.6"
"""The Ollama whose API this is; clients ask it to know what they may send."""
_TEXT = "text/plain"
_PROGRESS = ("application/json", MEDIA_TYPE)
_NEVER_S = (2**63 - 1) / 1e9
"""How far off Ollama puts the end of a model that is kept for good."""


def _running(scene: Scene) -> Reply | None:
    """The reasoning API has an answer at this path too; which is meant only the port tells."""
    if not scene.host.endswith(f":{PORT}"):
        return None
    return Reply(body=b"Ollama is running", media_type=_TEXT)


def _version(scene: Scene) -> JsonObject:
    return {"version": API_VERSION}


def _tags(scene: Scene) -> JsonObject:
    return {"models": [summary(scene.catalog, model) for model in scene.catalog.models]}


def _ps(scene: Scene) -> JsonObject:
    """One entry: all names share the weights, which the ready groups hold until the operator takes them away."""
    if not scene.held:
        return {"models": []}
    catalog = scene.catalog
    model = catalog.resolve(None)
    weights = {held.group: held.replicas * catalog.weights.held_bytes(held.precision) for held in scene.held}
    on_gpus = (held.replicas * catalog.weights.gpu_bytes(held.precision, held.gpu_layers) for held in scene.held)
    entry = {
        "name": tagged(model.name),
        "model": tagged(model.name),
        "size": sum(weights.values()),
        "digest": model.digest(catalog.weights.identity),
        "details": details(catalog, model),
        "expires_at": moment(catalog.created + _NEVER_S),
        "size_vram": sum(on_gpus),
        "context_length": max(held.context_length for held in scene.held),
        "groups": [
            {
                "name": held.group,
                "engine": held.engine,
                "precision": held.precision,
                "replicas": held.replicas,
                "context_length": held.context_length,
                "size": weights[held.group],
            }
            for held in scene.held
        ],
    }
    return {"models": [entry]}


def _show(scene: Scene, body: ModelBody) -> JsonObject:
    return show(scene.catalog, scene.catalog.resolve(_name(body)), scene.context_length)


def _create(scene: Scene, body: CreateBody) -> Reply:
    name = _name(body)
    parent, changes = create.decode(body)
    made = scene.catalog.create(name, parent, changes)
    using = f"using existing model {tagged(scene.catalog.resolve(parent).name)}"
    digest = made.digest(scene.catalog.weights.identity)
    return _progress(body, [{"status": using}, {"status": f"creating new layer sha256:{digest}"}, {"status": "writing manifest"}])


def _copy(scene: Scene, body: CopyBody) -> Reply:
    if not body.source or not body.destination:
        raise InvalidRequest("source and destination are required")
    scene.catalog.copy(body.source, body.destination)
    return _empty()


def _delete(scene: Scene, body: ModelBody) -> Reply:
    scene.catalog.delete(_name(body))
    return _empty()


def _pull(scene: Scene, body: ModelBody) -> Reply:
    """A served model is here already; no other can be had."""
    try:
        model = scene.catalog.resolve(_name(body))
    except ModelNotFound as error:
        raise NotFound("pull model manifest: file does not exist; the operator configures which model is served") from error
    digest, size = model.digest(scene.catalog.weights.identity), scene.catalog.weights.stored_bytes
    layer = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": size, "completed": size}
    steps: list[JsonObject] = [{"status": "pulling manifest"}, layer, {"status": "verifying sha256 digest"}]
    return _progress(body, [*steps, {"status": "writing manifest"}])


def _push(scene: Scene, body: ModelBody) -> Reply:
    scene.catalog.resolve(_name(body))
    raise Unsupported("you are not authorized to push from here: this server publishes no models", param="model")


def _embed(scene: Scene, body: ModelBody) -> Reply:
    scene.catalog.resolve(_name(body))
    raise Unsupported(f'"{shown(_name(body))}" does not support embeddings', param="model")


def _has_blob(scene: Scene, _: Any) -> Reply:
    if not scene.catalog.blobs.holds(scene.parameters["digest"]):
        raise NotFound("no such blob")
    return _empty()


def _put_blob(scene: Scene, raw: bytes) -> Reply:
    scene.catalog.blobs.put(scene.parameters["digest"], raw)
    return Reply(body=b"", media_type=_TEXT, status=201)


def _name(body: ModelBody) -> str:
    name = body.model or body.name
    if not name:
        raise InvalidRequest("model is required", param="model")
    return name


def _empty() -> Reply:
    return Reply(body=b"", media_type=_TEXT)


def _progress(body: ModelBody, steps: list[JsonObject]) -> Reply:
    """Tell the steps that were taken; they take no time, so they come together."""
    success = {"status": "success"}
    if body.stream is False:
        return Reply(body=dump(success))
    return Reply(body=b"".join(map(line, [*steps, success])), media_type=MEDIA_TYPE)


DIALECT = Dialect(
    name="ollama",
    prefix="/api/",
    base_url="the address of an Ollama client has no path",
    endpoints=(
        Generate("/api/generate", GenerateCodec(), MEDIA_TYPE),
        Generate("/api/chat", ChatCodec(), MEDIA_TYPE),
        Lookup("/", _running, (_TEXT,)),
        Lookup("/api/version", _version),
        Lookup("/api/tags", _tags),
        Lookup("/api/ps", _ps),
        Act(path="/api/show", body=ModelBody, answer=_show),
        Act(path="/api/create", body=CreateBody, answer=_create, media_types=_PROGRESS),
        Act(path="/api/copy", body=CopyBody, answer=_copy, media_types=(_TEXT,)),
        Act(path="/api/delete", method="DELETE", body=ModelBody, answer=_delete, media_types=(_TEXT,)),
        Act(path="/api/pull", body=ModelBody, answer=_pull, media_types=_PROGRESS),
        Act(path="/api/push", body=ModelBody, answer=_push),
        Act(path="/api/embed", body=ModelBody, answer=_embed),
        Act(path="/api/embeddings", body=ModelBody, answer=_embed),
        Act(path="/api/blobs/{digest}", method="HEAD", body=None, answer=_has_blob),
        Act(path="/api/blobs/{digest}", body=None, answer=_put_blob, media_types=(_TEXT,), success=201),
    ),
    encode_error=encode_error,
    error_schema=ERROR_SCHEMA,
)
