"""The contract every engine keeps.

Written once here, enforced by `tests/contract` over all of them:

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
        """What it is and can do; valid once `start` has returned."""
        ...

    async def start(self) -> None:
        """Load the model; raises `ServeError` with a reason an operator can act on."""
        ...

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate for one request, as the module's contract says."""
        ...

    async def check_health(self) -> None:
        """Raise `EngineDead` when the engine died or hangs."""
        ...

    def load(self) -> EngineLoad:
        """Return what it is doing now; cheap enough for once a second."""
        ...

    async def close(self) -> None:
        """Abort everything and release memory and processes."""
        ...
