"""The interface of a dialect: endpoints of three kinds, `Generate`, `Embed` and `Query`.

Knows no web framework, gateway, model or engine.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.caller import Scope
from serve_app.conversation import (
    AnswerEvent,
    ChoiceEnd,
    Completion,
    GenerateRequest,
    Prompt,
    RenderedPrompt,
    RoutePreview,
    TaskExample,
)
from serve_app.dialects.faults import find_first_fault
from serve_app.dialects.limit_headers import write_limits
from serve_app.encoding import Embedding, EmbedRequest
from serve_app.errors import InvalidRequest, ServeError
from serve_app.model_info import LoadedGroup, ModelInfo
from serve_app.record import RequestRecord
from serve_app.strict_json import dump as dump
from serve_app.strict_json import require_finite
from serve_app.types import InvalidValue, Sampling, Task

JsonObject = dict[str, Any]
_MAX_STOPS = 16
_MAX_STOP_CHARS = 1000
_MAX_SESSION_CHARS = 200


class WireBody(BaseModel):
    """Base of request bodies: tolerates unknown fields, refuses wrong types, NaN and Infinity."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


Body = TypeVar("Body", bound=WireBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerContext(Generic[Body]):
    """A decoded request, with everything that its answer repeats."""

    request: GenerateRequest
    record: RequestRecord
    """The request's record; its routing is complete when the first event is out."""
    body: Body
    stream: bool
    created: float
    """When the request arrived, in Unix seconds."""
    elapsed: Callable[[], float]
    """Returns the seconds since the request arrived."""

    @property
    def model(self) -> str:
        """The name that the answer carries; certain when the first event is out."""
        return self.record.model


class StreamEncoder(Protocol):
    """Encodes one stream; holds the state of one answer."""

    media_type: str

    def push(self, event: AnswerEvent) -> Iterable[bytes]:
        """Return the bytes for `event`; for the last `ChoiceEnd`, also the bytes that end the stream."""
        ...

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """Return the bytes that end a begun stream with an error."""
        ...


class Codec(Protocol[Body]):
    """One generating endpoint. Stateless."""

    body: type[Body]

    def decode(self, body: Body, request_id: str) -> tuple[GenerateRequest, bool]:
        """Return the request and whether the answer is streamed; raises `ServeError`."""
        ...

    def encode(self, completion: Completion, context: AnswerContext[Body]) -> JsonObject:
        """Return the whole answer."""
        ...

    def encoder(self, context: AnswerContext[Body]) -> StreamEncoder:
        """Return the encoder of a streamed answer."""
        ...


class Archive(Protocol):
    """The kept answers of one caller, who cannot see the answers of other callers. A key has 128 random bits."""

    @property
    def keeps(self) -> bool:
        """Whether answers are kept here at all."""
        ...

    async def reserve(self) -> str:
        """Return the key of a new answer; empty where none can be kept now."""
        ...

    async def write(self, key: str, value: bytes) -> bool:
        """Keep an answer under a reserved key; return False where that is impossible now."""
        ...

    async def replace(self, key: str, value: bytes) -> bool:
        """Keep an answer in place of the one under its key; return False where that was deleted, or where it is impossible now."""
        ...

    async def read(self, key: str) -> bytes | None:
        """Return a kept answer, None where there is none; raises `StoreUnavailable`."""
        ...

    async def delete(self, key: str) -> bool:
        """Delete a kept answer; return False where there is none. Raises `StoreUnavailable`."""
        ...

    async def is_alive(self, key: str) -> bool:
        """Return whether the answer of this key is being made; raises `StoreUnavailable`."""
        ...

    async def ask_to_end(self, key: str, *, deleted: bool = False) -> None:
        """Ask the process that makes this answer to end it, and not to keep it if it is `deleted`; raises `StoreUnavailable`."""
        ...


@runtime_checkable
class RecallingCodec(Protocol):
    """A codec whose requests may refer to kept answers, and whose own answers may be kept."""

    async def recall(self, body: Any, archive: Archive) -> "tuple[Any, KeepingCodec]":
        """Return the body with its references resolved, and the codec of this one request; raises `ServeError`."""
        ...


@runtime_checkable
class KeepingCodec(Codec[Any], Protocol):
    """The codec of one request, whose answer may be kept."""

    @property
    def detached_key(self) -> str:
        """The key under which the client fetches the answer later; empty where it waits for the answer."""
        ...

    async def keep(self, answer: JsonObject, context: AnswerContext[Any], *, again: bool = False) -> JsonObject:
        """Keep a whole answer, if the client wants that; return it as the client gets it.

        `again`: it replaces what is kept of it, and is not kept where the client deleted that.
        """
        ...

    def encode_unfinished(
        self, context: AnswerContext[Any], error: ServeError | None = None, *, cancelled: bool = False
    ) -> JsonObject:
        """Return the answer without its content: being made, failed with `error`, or cancelled."""
        ...


@runtime_checkable
class KeepingEncoder(StreamEncoder, Protocol):
    """The encoder of a stream whose answer may be kept."""

    async def keep(self, ending: ChoiceEnd | ServeError) -> None:
        """Keep the answer that ends with `ending`. Called before the `push` or `fail` that returns the last bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Generate:
    """POST endpoint that generates."""

    path: str
    codec: Codec[Any]
    streams: str | None = None
    """Media type of its streamed answers; None: it does not stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedContext(Generic[Body]):
    """A decoded request for embeddings, with everything that its answer repeats."""

    body: Body
    model: str
    """The name that the answer carries."""
    elapsed_s: float
    """Seconds since the request arrived."""


class EmbedCodec(Protocol[Body]):
    """One endpoint for embeddings. Stateless."""

    body: type[Body]

    def decode(self, body: Body, request_id: str) -> EmbedRequest:
        """Return the request; raises `ServeError`."""
        ...

    def encode(self, embedding: Embedding, context: EmbedContext[Body]) -> JsonObject:
        """Return the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Embed:
    """POST endpoint that makes embeddings."""

    path: str
    codec: EmbedCodec[Any]


class Models(Protocol):
    """The models by name: what endpoints may read and change."""

    def list(self) -> tuple[ModelInfo, ...]:
        """Return every name, the served models' own first."""
        ...

    def find(self, name: str | None) -> ModelInfo:
        """Return a name's model, None meaning the default model; raises `ModelNotFound`."""
        ...

    async def create(self, name: str, parent: str, changes: dict[str, Any]) -> ModelInfo:
        """Store a new name for `parent`; `changes` are `VariantSettings` by field. Raises `ServeError`."""
        ...

    async def copy(self, source: str, destination: str) -> None:
        """Store another name of `source`; raises `ServeError`."""
        ...

    async def delete(self, name: str) -> None:
        """Delete a stored name; raises `ServeError`."""
        ...

    async def has_blob(self, digest: str) -> bool:
        """Return whether a blob is stored."""
        ...

    async def put_blob(self, digest: str, content: bytes) -> None:
        """Store a blob; raises `ServeError` unless `digest` is the blob's digest."""
        ...


class QueryContext(Protocol):
    """The parts of the application and the request that endpoints which generate nothing may use."""

    models: Models
    host: str
    """The request's Host header."""
    headers: Mapping[str, str]
    """The request's headers; names in any case."""
    parameters: Mapping[str, str]
    """Path parameters by name."""
    query: Mapping[str, str]
    """Query parameters by name; of several with one name the last."""
    archive: Archive
    """The caller's kept answers."""
    raw_body: bytes
    request_id: str

    def loaded_groups(self) -> tuple[LoadedGroup, ...]:
        """Return the ready groups and the weights that they hold."""
        ...

    async def render(self, model: str | None, prompt: Prompt) -> RenderedPrompt:
        """Render and tokenize a prompt; raises `ServeError`."""
        ...

    async def preview_route(self, request: GenerateRequest) -> RoutePreview:
        """Return the route of a request, with its routing headers applied; raises `ServeError`."""
        ...

    async def confusion(self, examples: Sequence[TaskExample]) -> Mapping[Task, Mapping[Task, int]]:
        """Classify texts; return how often each true task was classified as each task: `[true][classified]`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer's bytes."""

    body: bytes
    media_type: str = "application/json"
    status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Endpoint that generates nothing: it reads the catalog, the fleet or a prompt, or changes the catalog."""

    path: str
    method: str = "GET"
    """GET answers HEAD too."""
    query: tuple[str, ...] = ()
    """Names of the query parameters that it reads, for the OpenAPI document."""
    body: type[WireBody] | type[bytes] | None = None
    """Type of the request's body: a `WireBody`, or `bytes` for raw bytes; None: no body."""
    answer: Callable[[QueryContext, Any], Awaitable[JsonObject | Reply | None]]
    """(context, body) -> answer. None leaves the request to the next dialect that has the path. Raises `ServeError`."""
    media_types: tuple[str, ...] = ("application/json",)
    """Media types that its answers may have."""
    success: int = 200
    """Status of its answers."""
    scope: Scope = Scope.USE
    """What its caller must be allowed to do."""
    writes: bool = False
    """Whether it writes to storage, so that it may fail with 507."""


Endpoint: TypeAlias = Generate | Embed | Query


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dialect:
    """One API: its endpoints and the shape of its errors."""

    name: str
    prefix: str
    """Unknown paths below it are answered in this dialect; the longest matching prefix wins."""
    base_url: str = ""
    """A sentence about the base URL of its clients, shown to a client whose path is slightly wrong."""
    absent: frozenset[str] = frozenset()
    """First path segments below `prefix`, or whole paths below it, of endpoints that other servers of this API have, and this one
    lacks."""
    endpoints: tuple[Endpoint, ...]
    encode_error: Callable[[ServeError, str], JsonObject]
    """(error, request id) -> body."""
    error_schema: JsonObject
    """JSON schema of the error bodies."""
    show_status: Callable[[ServeError], int] = lambda error: error.status
    """error -> HTTP status, where this API has statuses of its own."""
    write_headers: Callable[[RequestRecord], dict[str, str]] = write_limits
    """record -> headers that its clients read, beside our own."""


def parse(body_type: type[Body], raw: bytes) -> Body:
    """Return the body in `raw`, whatever its content type; raises `InvalidRequest` naming the field and the fault."""
    if not raw.strip():
        raise InvalidRequest("missing request body")
    try:
        body = body_type.model_validate_json(raw)
        require_finite(raw)  # fields of type Any would let NaN and Infinity pass
        return body
    except ValidationError as error:
        faults = [(fault["loc"], fault["msg"]) for fault in error.errors(include_url=False, include_input=False)]
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}") from error
    place, message = find_first_fault(faults)
    field = ".".join(map(str, place))
    if not field:
        raise InvalidRequest(f"The body is not valid JSON of the expected form: {message}")
    raise InvalidRequest(f"{field}: {message}", param=field)


def decode_sampling(names: Mapping[str, str] = MappingProxyType({}), /, **fields: Any) -> Sampling:
    """Return `Sampling` from the fields that are not None; raises `InvalidRequest` for values out of range.

    `names` maps our field names to the dialect's own where they differ, for messages.
    """
    try:
        return Sampling(**{name: value for name, value in fields.items() if value is not None})
    except InvalidValue as error:
        field = names.get(error.field, error.field)
        raise InvalidRequest(f"{field} {error.fault}", param=field) from error


def decode_stops(stops: Sequence[str] | None, field: str) -> tuple[str, ...]:
    """Return the strings that end an answer; raises `InvalidRequest` naming the dialect's `field`."""
    given = tuple(stops or ())
    if len(given) > _MAX_STOPS or any(not text or len(text) > _MAX_STOP_CHARS for text in given):
        raise InvalidRequest(f"{field} takes at most {_MAX_STOPS} strings of 1 to {_MAX_STOP_CHARS} characters", param=field)
    return given


def decode_session(name: str | None) -> str | None:
    """Return the client's name of the conversation, cut to a bounded length; None without one."""
    return (name or "")[:_MAX_SESSION_CHARS] or None


def given_fields(fields: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the fields to which a client gave a value, for `GenerateRequest.explicit`."""
    return frozenset(name for name, value in fields.items() if value is not None)
