"""The contract of every engine, enforced by `tests/contract`.

* `generate` yields any number of `TokenDelta`s, then exactly one `Finished`, and nothing after it.
* Closing the iterator aborts the request and frees its slot within one step.
* Only `ServeError`s escape.
* Greedy decoding is reproducible; a seeded sample is reproducible on the same engine, whatever else it is computing.
* The stop token is not in the deltas, and is counted in the usage.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from serve_app.types import EngineInfo, EngineLoad, TokenEvent, TokenRequest


class Engine(Protocol):
    """A model that turns prompt token ids into generated token ids."""

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

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate for one request, as the module's contract says."""
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
