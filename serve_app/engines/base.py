"""The contracts of engines and encoders, enforced by `tests/contract`.

Of an engine:

* `generate` yields any number of `TokenDelta`s, then exactly one `Finished`, and nothing after it.
* Closing the iterator aborts the request and frees its slot within one step.
* Only `ServeError`s escape.
* Greedy decoding is reproducible; a seeded sample is reproducible on the same engine, whatever else it is computing.
* The stop token is not in the deltas, and is counted in the usage.

Of an encoder:

* `encode` returns one vector per input, in the order of the inputs; all components are finite.
* A vector depends on its own input alone: the inputs beside which it is computed move no component by more than 1e-5.
* Cancelling `encode` drops its inputs that wait.
* Only `ServeError`s escape. Too long inputs and unknown token ids are the request's fault, and fail no other request.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from serve_app.encoding import Encoded, EncodeRequest
from serve_app.types import EngineInfo, EngineLoad, TokenEvent, TokenRequest


class Runtime(Protocol):
    """What engines and encoders have in common: a model that is loaded, watched and closed."""

    @property
    def info(self) -> EngineInfo:
        """The engine's kind, limits and capabilities; valid once `start` has returned."""
        ...

    async def start(self) -> None:
        """Load the model.

        Raises `ModelUnusable` with a reason an operator can act on where files or settings are at fault, `EngineDead` where the
        engine dies meanwhile.
        """
        ...

    async def check_health(self) -> None:
        """Raise `EngineDead` when the engine died or hangs."""
        ...

    def load(self) -> EngineLoad:
        """Return the current load; cheap enough for once a second."""
        ...

    async def close(self) -> None:
        """Abort everything and release memory and processes."""
        ...


class Engine(Runtime, Protocol):
    """A model that turns prompt token ids into generated token ids."""

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate for one request, as the module's contract says."""
        ...


class Encoder(Runtime, Protocol):
    """A model that turns token ids into vectors."""

    async def encode(self, request: EncodeRequest) -> Encoded:
        """Return one vector per input, as the module's contract says."""
        ...
