"""Values of embeddings: the client's request (`EmbedRequest`), the encoder's (`EncodeRequest`) and its result (`Encoded`).

Frozen dataclasses, so they cross Ray unchanged. Knows no web framework, dialect or engine. Vectors are float32 arrays.
"""

import copy
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from serve_app.types import InvalidValue, Placement, Timings

Vectors: TypeAlias = NDArray[np.float32]
"""One row per input, in the order of the inputs: (inputs, dimensions)."""
Ids: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """A client's request for embeddings, in no particular dialect."""

    request_id: str
    inputs: tuple[str | Ids, ...]
    """Texts, or token ids of the model's own tokenizer, with or without its special tokens."""
    model: str | None = None
    """The name that the client uses; None: the first embedding model."""
    demands_model: bool = False
    """Whether its API demands a model's name; see `routing.require_model`."""
    dimensions: int | None = None
    """Length of the vectors; None: the model's own."""
    normalized: bool | None = None
    """Whether every vector has the length 1; None: as the group's settings and the model's files say."""
    truncate: bool = False
    """Cut inputs that are too long; without it they are an error."""
    group: str | None = None
    """The only group that may answer."""
    timeout_s: float | None = None
    """Most seconds that the answer may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRequest:
    """The inputs of one request for an encoder.

    Raises `InvalidValue` for an empty input and for anything but plain non-negative integers.
    """

    request_id: str
    inputs: tuple[Ids, ...]
    """Token ids of each input, special tokens included."""
    dimensions: int | None = None
    """Components of each vector that are kept; None: all."""
    normalized: bool | None = None
    """See `EmbedRequest.normalized`."""
    timeout_s: float | None = None
    placement: Placement = field(default_factory=Placement, compare=False)
    """The replica that should take the request, and the one that did; no encoder reads it."""

    def __post_init__(self) -> None:
        """Check the ids: a wrong one would fail the whole batch in which it is computed."""
        for at, ids in enumerate(self.inputs):
            if not ids:
                raise InvalidValue(f"input.{at}", "must not be empty")
            if set(map(type, ids)) != {int} or min(ids) < 0:  # no loop in Python: a request may have a million ids
                raise InvalidValue(f"input.{at}", "must hold non-negative integer token ids")

    @property
    def tokens(self) -> int:
        """Tokens of all inputs."""
        return sum(map(len, self.inputs))

    def with_placement(self, placement: Placement) -> "EncodeRequest":
        """Return the request with another placement, without validating it again."""
        other = copy.copy(self)
        object.__setattr__(other, "placement", placement)
        return other


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The vectors of one request, as an encoder returns them."""

    vectors: Vectors
    timings: Timings = field(default_factory=Timings)
    """`queue_s` until its first input was computed, `prefill_s` from then to the end."""

    def fits(self, inputs: int, width: int) -> bool:
        """Return whether it has one vector of `width` finite components for each of so many inputs."""
        vectors = self.vectors
        return isinstance(vectors, np.ndarray) and vectors.shape == (inputs, width) and bool(np.isfinite(vectors).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """The answer to an `EmbedRequest`."""

    vectors: Vectors
    prompt_tokens: int
    """Tokens of all inputs, special tokens included."""
