"""What a dialect is: endpoints, and a codec for each. Data and pure functions; knows no web framework, no gateway, no engine."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.conversation import Completion, GenerateRequest, Labelled, Prompt, RouteTrial, TextEvent
from serve_app.dialects.faults import first_fault
from serve_app.errors import InvalidRequest, ServeError
from serve_app.models.catalog import Catalog
from serve_app.strict_json import dump as dump
from serve_app.strict_json import require_finite
from serve_app.types import EngineKind, InvalidValue, Sampling, Task

JsonObject = dict[str, Any]


class WireBody(BaseModel):
    """Base of request bodies: unknown fields are tolerated, wrong types are not, NaN and Infinity neither."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


Body = TypeVar("Body", bound=WireBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Body]):
    """A decoded request: what the gateway is asked, and what the answer repeats of the body."""

    request: GenerateRequest
    body: Body
    stream: bool
    model: str
    """The name that the answer carries."""
    created: float
    """When the request arrived, in Unix seconds."""
    elapsed: Callable[[], float]
    """Returns the seconds since then."""


class StreamEncoder(Protocol):
    """Encodes one stream; has the state of one answer."""

    media_type: str

    def push(self, event: TextEvent) -> Iterable[bytes]:
        """Return the bytes that tell `event`; after the last `Finished`, also those that end the stream."""
        ...

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """Return the bytes that end a stream already begun with an error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Figures of an answer that some dialects show."""

    engine: str
    seconds: float
    """From the request's arrival to the end of its answer."""


class Codec(Protocol[Body]):
    """One generating endpoint. Stateless."""

    body: type[Body]

    def decode(self, body: Body, request_id: str) -> tuple[GenerateRequest, bool]:
        """Return what is asked and whether the answer is streamed; raises `ServeError`."""
        ...

    def encode(self, completion: Completion, call: Call[Body], served: Served) -> JsonObject:
        """Return the whole answer."""
        ...

    def encoder(self, call: Call[Body]) -> StreamEncoder:
        """Return the encoder of a streamed answer."""
        ...


@dataclass(frozen=True, slots=True)
class Generate:
    """POST endpoint that generates."""

    path: str
    codec: Codec[Any]
    streams: str | None = None
    """Media type of its streamed answers; None: it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A group that holds the model ready."""

    group: str
    engine: EngineKind
    precision: str
    replicas: int
    context_length: int
    gpu_layers: int | None
    """Layers whose weights are in a GPU's memory, None: all of the model's weights are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What endpoints that do not generate may see of the app and of the request."""

    catalog: Catalog
    held: tuple[Held, ...]
    context_length: int
    """Most tokens of prompt and answer that a ready group takes; while none is ready, that a configured one will."""
    host: str
    """The request's Host header."""
    parameters: Mapping[str, str]
    """Path parameters by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer's bytes."""

    body: bytes
    media_type: str = "application/json"
    status: int = 200


@dataclass(frozen=True, slots=True)
class Lookup:
    """GET and HEAD endpoint."""

    path: str
    answer: Callable[[Scene], JsonObject | Reply | None]
    """None leaves this request to the next dialect that has the path."""
    media_types: tuple[str, ...] = ("application/json",)
    """Those that its answers may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Endpoint that is asked with a body and generates nothing: it changes the catalog, or reads it.

    May touch the disk; never runs on the event loop.
    """

    path: str
    method: str = "POST"
    body: type[WireBody] | None
    """None: the bytes as they are."""
    answer: Callable[[Scene, Any], JsonObject | Reply]
    """Raises `ServeError`."""
    media_types: tuple[str, ...] = ("application/json",)
    """Those that its answers may have."""
    success: int = 200
    """Status of its answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A prompt as the engines would get it."""

    ids: tuple[int, ...]
    text: str
    """What the ids stand for, control tokens included."""
    context_length: int
    """See `Scene.context_length`."""


@dataclass(frozen=True, slots=True)
class Render:
    """POST endpoint that renders and tokenizes a prompt, and generates nothing."""

    path: str
    body: type[WireBody]
    decode: Callable[[Any], tuple[str | None, Prompt]]
    """Body -> the model asked for, and the prompt; raises `ServeError`."""
    encode: Callable[[Any, Rendered], JsonObject]
    """(body, what came of it) -> answer."""


@dataclass(frozen=True, slots=True)
class Trial:
    """POST endpoint that says where a request would go, or how well labelled texts are told apart, and generates nothing."""

    path: str
    body: type[WireBody]
    decode: Callable[[bytes, str], GenerateRequest | tuple[Labelled, ...]]
    """(raw body, request id) -> what to try; raises `ServeError`."""
    encode: Callable[[RouteTrial], JsonObject]
    encode_confusion: Callable[[Mapping[Task, Mapping[Task, int]]], JsonObject]
    """Counts as `[given][decided]` -> answer."""


Endpoint: TypeAlias = Generate | Lookup | Act | Render | Trial


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dialect:
    """One API: its endpoints and the shape of its errors."""

    name: str
    prefix: str
    """Unknown paths below it are answered in this dialect; the longest matching prefix wins."""
    base_url: str = ""
    """How its clients' base URL should look, as a sentence for those whose paths are a little wrong."""
    absent: frozenset[str] = frozenset()
    """First segments below `prefix` of endpoints that this API has elsewhere and not here."""
    endpoints: tuple[Endpoint, ...]
    encode_error: Callable[[ServeError, str], JsonObject]
    """(error, request id) -> body."""
    error_schema: JsonObject
    """JSON schema of those bodies."""


def parse(body_type: type[Body], raw: bytes) -> Body:
    """Return the body in `raw`, whatever its content type was; raises `InvalidRequest` naming the field and the fault."""
    if not raw.strip():
        raise InvalidRequest("missing request body")
    try:
        body = body_type.model_validate_json(raw)
        require_finite(raw)  # fields of any form let other numbers pass
        return body
    except ValidationError as error:
        faults = [(fault["loc"], fault["msg"]) for fault in error.errors(include_url=False, include_input=False)]
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}") from error
    place, message = first_fault(faults)
    field = ".".join(map(str, place))
    if not field:
        raise InvalidRequest(f"The body is not valid JSON of the expected form: {message}")
    raise InvalidRequest(f"{field}: {message}", param=field)


def sampling(names: Mapping[str, str] = MappingProxyType({}), /, **fields: Any) -> Sampling:
    """Return `Sampling` from the fields that are not None; raises `InvalidRequest` for values out of range.

    `names` maps our field names to the dialect's own where they differ, for the message.
    """
    try:
        return Sampling(**{name: value for name, value in fields.items() if value is not None})
    except InvalidValue as error:
        field = names.get(error.field, error.field)
        raise InvalidRequest(f"{field} {error.fault}", param=field) from error


def named(fields: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the fields that a client gave a value, for `GenerateRequest.explicit`."""
    return frozenset(name for name, value in fields.items() if value is not None)
