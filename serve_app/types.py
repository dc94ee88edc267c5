"""Values between gateway and engines: sampling parameters, constraints, token requests and events, an engine's info and load.

Plain frozen dataclasses, so they cross Ray unchanged. Knows no web framework, dialect, engine or clock: durations are seconds,
points in time do not appear. Constructors validate: any `Sampling` or `TokenRequest` can be given to any engine.
"""

import copy
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, TypeAlias

MAX_TOKENS = 1 << 20
"""Upper bound of `max_tokens`; above the context of every model served here."""
MAX_LOGPROBS = 20
"""Most alternatives per token, the limit that OpenAI and vLLM share."""
MAX_SEED = 1 << 63
"""Engines get seeds from 0 to below this; clients may also send negative seeds, down to -MAX_SEED, as in OpenAI's API."""
_ONE_TOKEN_BELOW = 1e-6
"""A `top_p` below this keeps one token: in a vocabulary of up to a million tokens the likeliest one has a larger share."""


class Task(StrEnum):
    """The kind of a request; routing prefers groups per task."""

    GENERAL = "general"
    MATH = "math"
    CODING = "coding"
    REASONING = "reasoning"
    TOOLS = "tools"


class EngineKind(StrEnum):
    """The engine implementations. A new engine is one member here and one file in `serve_app/engines`."""

    VLLM = "vllm"
    ONNX = "onnx"
    LLAMA_CPP = "llama_cpp"
    ONNX_ENCODER = "onnx_encoder"
    FAKE = "fake"


class Capability(StrEnum):
    """Features that some engines lack; a request that needs one is sent only to engines that have it."""

    LOGPROBS = "logprobs"
    LOGIT_BIAS = "logit_bias"
    MIN_P = "min_p"
    STRUCTURED = "structured"
    """Keeps the answer within a `Constraint`."""
    UNICODE_PATTERNS = "unicode_patterns"
    """Accepts constraints whose regular expressions name characters outside ASCII."""
    STRUCTURED_MIN_TOKENS = "structured_min_tokens"
    """Forbids stop tokens for `min_tokens` under a constraint too, as long as the constraint allows more text."""
    OUTPUT_PENALTIES = "output_penalties"
    """Presence and frequency penalties count the answer's tokens alone, not the prompt's."""
    EXACT_IDS = "exact_ids"
    """Yields exactly the ids that the model drew; an engine without it yields only the same text. All engines here have it,
    llama.cpp with any GGUF file of the model."""


class Phase(StrEnum):
    """Phases of a replica, in order; `failed` may follow any phase."""

    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    """It gets no new requests, and completes those that it has."""
    FAILED = "failed"
    ASLEEP = "asleep"
    """Of a group, not of a replica: the group has no replica, and a request starts one."""


class FinishReason(StrEnum):
    """Why a generation ended. There is no `error`: failures are exceptions."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    """The answer calls tools. Set by the gateway; engines use `stop`."""


class InvalidValue(ValueError):
    """A value outside its range; `field` names it. Decoders turn it into a client error."""

    def __init__(self, field_name: str, message: str) -> None:
        """Keep the field's name beside the message."""
        super().__init__(f"{field_name} {message}")
        self.field = field_name
        self.fault = message


def _require_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidValue(name, "must be a finite number")
    if not low <= value <= high:
        raise InvalidValue(name, f"must be between {low:g} and {high:g}, got {value:g}")


def _require_integer(name: str, value: object, low: int, high: int) -> None:
    # type() and not isinstance(): a bool or a numpy integer in a request hangs vLLM's core until its restart.
    if type(value) is not int:
        raise InvalidValue(name, "must be an integer")
    if not low <= value <= high:
        raise InvalidValue(name, f"must be between {low} and {high}, got {value if abs(value) < 10**24 else 'a larger number'}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. Defaults change nothing; raises `InvalidValue` on construction when out of range.

    Order of application, vLLM's and so every engine's: logit_bias, min_tokens, penalties, temperature, min_p, top_k, top_p.
    """

    temperature: float = 1.0
    """0 to 2; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus mass, 0 to 1; 0 leaves the likeliest token only, as does temperature 0."""
    top_k: int = 0
    """Number of most likely tokens kept; 0 keeps all."""
    min_p: float = 0.0
    """Keeps tokens at least this fraction as likely as the likeliest, 0 to 1."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens in prompt or output, above 0 and at most 10."""
    presence_penalty: float = 0.0
    """Subtracted once from tokens in the output, -2 to 2."""
    frequency_penalty: float = 0.0
    """Subtracted per occurrence in the output, -2 to 2."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to logits by token id, each -100 to 100."""
    seed: int | None = None
    """The same seed gives the same tokens on the same engine. Takes -2**63 to 2**63 - 1, and stores it modulo 2**63: vLLM treats -1
    as no seed, and other generators refuse negative seeds."""
    max_tokens: int | None = None
    """Most tokens generated; None, and any larger number, means the rest of the context."""
    min_tokens: int = 0
    """Stop tokens are forbidden until this many tokens."""
    stop_token_ids: tuple[int, ...] = ()
    """Generation ends at these; the gateway adds the model's own."""
    ignore_eos: bool = False
    """Do not end at the model's own stop tokens."""
    logprobs: int | None = None
    """None: no logprobs; otherwise the sampled token's and this many of the likeliest, 0 to 20."""

    def __post_init__(self) -> None:
        """Check every field; raise `InvalidValue` for the first that is wrong."""
        _require_number("temperature", self.temperature, 0, 2)
        _require_number("top_p", self.top_p, 0, 1)
        _require_integer("top_k", self.top_k, 0, (1 << 31) - 1)
        _require_number("min_p", self.min_p, 0, 1)
        _require_number("repetition_penalty", self.repetition_penalty, 0.01, 10)
        _require_number("presence_penalty", self.presence_penalty, -2, 2)
        _require_number("frequency_penalty", self.frequency_penalty, -2, 2)
        for token, bias in self.logit_bias.items():
            _require_integer("logit_bias", token, 0, (1 << 31) - 1)
            _require_number("logit_bias", bias, -100, 100)
        if self.seed is not None:
            _require_integer("seed", self.seed, -MAX_SEED, MAX_SEED - 1)
            object.__setattr__(self, "seed", self.seed % MAX_SEED)
        if self.max_tokens is not None:
            _require_integer("max_tokens", self.max_tokens, 1, MAX_TOKENS)
        _require_integer("min_tokens", self.min_tokens, 0, MAX_TOKENS)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidValue("min_tokens", f"must not exceed max_tokens ({self.max_tokens}), got {self.min_tokens}")
        for token in self.stop_token_ids:
            _require_integer("stop_token_ids", token, 0, (1 << 31) - 1)
        if self.logprobs is not None:
            _require_integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)

    @property
    def greedy(self) -> bool:
        """Whether only the likeliest token can be drawn, by `temperature` or `top_p`."""
        return self.temperature == 0 or self.top_p < _ONE_TOKEN_BELOW


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is JSON that a schema allows; raises `InvalidValue` when the schema is no JSON object."""

    optional: ClassVar[bool] = False
    schema: str
    """The schema as JSON text; `{}` allows any JSON."""
    lenient: bool = False
    """Enforce only the rules that can be enforced; without it, a schema with other rules is refused."""

    def __post_init__(self) -> None:
        """Check that engines can read it."""
        with suppress(ValueError):
            if isinstance(json.loads(self.schema), dict):
                return
        raise InvalidValue("schema", "must be a JSON object")


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole answer matches a regular expression."""

    optional: ClassVar[bool] = False
    pattern: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """The answer is one of these texts; raises `InvalidValue` when there is none."""

    optional: ClassVar[bool] = False
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that there is an option."""
        if not self.options:
            raise InvalidValue("choice", "must have at least one option")


@dataclass(frozen=True, slots=True)
class Grammar:
    """The answer is derived from a Lark grammar, in which `<|name|>` stands for a control token.

    Raises `InvalidValue` without a rule `start`.
    """

    lark: str
    optional: bool = False
    """It helps the model and promises the client nothing; it is dropped where an engine cannot follow it."""
    answer: JsonSchema | None = None
    """The lenient schema of answers that are no tool calls; the grammar may enforce only a part of it."""

    def __post_init__(self) -> None:
        """Check for the start rule; without it vLLM would read the text as another kind of grammar."""
        if not re.search(r"^\s*start\s*:", self.lark, re.MULTILINE):
            raise InvalidValue("grammar", "must be a Lark grammar with a rule `start`")


Constraint: TypeAlias = JsonSchema | Regex | OneOf | Grammar


@dataclass(slots=True, kw_only=True)
class Placement:
    """Which replica of a group should take a request, and which one took it.

    The one mutable value here. The gateway sets the hints, and Serve's replica router, in the same process, sets `replica`; so the
    gateway knows which replica failed even when nothing came back. Engines ignore it.
    """

    affinity: str = ""
    """Requests of equal affinity go to the same replica while it is not overloaded; empty: any."""
    prefer: str = ""
    """The replica to prefer over all others, because it is being probed."""
    avoid: frozenset[str] = frozenset()
    """Replicas that should not take the request while there is another one."""
    replica: str = ""
    """Output: the replica that got the request; empty where a group has no replicas to choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """One generation for an engine: prompt token ids and how to sample.

    Raises `InvalidValue` when the prompt is empty or holds anything but plain non-negative integers.
    """

    request_id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    constraint: Constraint | None = None
    """Constraint of the answer; only engines with `Capability.STRUCTURED` take one."""
    cache_salt: str | None = None
    """Prefix caches are shared only between requests of equal salt."""
    timeout_s: float | None = None
    placement: Placement = field(default_factory=Placement, compare=False)
    """The replica that should take the request, and the one that did; no engine reads it."""

    def __post_init__(self) -> None:
        """Check the exact type of token ids; a single float would hang vLLM until its restart."""
        if not self.prompt:
            raise InvalidValue("prompt", "must not be empty")
        if any(type(token) is not int or token < 0 for token in self.prompt):
            raise InvalidValue("prompt", "must hold non-negative integer token ids")

    def with_placement(self, placement: Placement) -> "TokenRequest":
        """Return the request with another placement, without validating it again."""
        other = copy.copy(self)
        object.__setattr__(other, "placement", placement)
        return other


LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of a probability of almost zero, as in OpenAI's API."""


def clamp_logprob(value: float) -> float:
    """Return `value`, or `LEAST_LOGPROB` where it is smaller or NaN: JSON has no infinity."""
    return value if value > LEAST_LOGPROB else LEAST_LOGPROB


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of a sampled token and of the likeliest alternatives, as the model computes them.

    They are taken before logit_bias, a constraint, penalties, temperature and every filter. All values are finite.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Exact token counts. `completion_tokens` includes the stop token that ended the generation.

    The engine reports `cached_tokens` at the end of a generation; it is 0 where a stop string ends the answer earlier.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds spent waiting for a slot, computing the prompt, and generating; measured by the engine."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """New token ids, stop tokens excluded; `logprobs` is empty or has one entry per id."""

    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The last event of every stream of an engine."""

    reason: FinishReason
    usage: Usage
    timings: Timings = Timings()


TokenEvent: TypeAlias = TokenDelta | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """Kind and capabilities of an engine; constant after its start."""

    kind: EngineKind
    context_length: int
    """Most tokens of prompt and answer together."""
    capabilities: frozenset[Capability]
    max_concurrency: int
    """Generations that run at once; more wait in the engine."""
    precision: str
    kv_tokens: int | None = None
    """Tokens that the KV cache holds when all of it is in use; None where there is none."""
    kv_bytes: int | None = None
    """Memory that it then takes; None where the engine does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLimits:
    """Known context lengths of the groups, in tokens of prompt and answer together."""

    longest: int | None = None
    """The longest context of the groups that have reported; None while none has."""
    complete: bool = False
    """Whether every group has reported, so that `longest` is a bound."""
    window: int | None = None
    """The longest context of the groups that the client allows; bounds the context that it asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """The current load of an engine."""

    running: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    kv_usage: float = 0.0
    """Fraction of the KV cache in use, 0 to 1."""
    tokens_per_second: float = 0.0
    """Generated over the last seconds, all requests together."""
    drain_rate: float = 0.0
    """Tokens generated per second of busy time; 0 until measured. Set by the replica."""
    stream_rate: float = 0.0
    """Tokens per second of one of its streams, waiting included; 0 until measured. Set by the replica."""
    counters: Mapping[str, float] = field(default_factory=dict)
    """Totals since the engine's start, by the engine's own names; for metrics."""
