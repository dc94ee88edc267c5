"""Work that goes on after its request was answered: requests that are fetched later.

While it runs a mark in the archive is renewed, so that everybody sees when its process is gone, and another mark is looked for that
asks it to end. Knows no dialect and no HTTP.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from serve_app.archive import OwnArchive
from serve_app.errors import StoreUnavailable

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


class BackgroundWork:
    """The work of one process."""

    def __init__(self) -> None:
        """Begin without work."""
        self._work: dict[asyncio.Task[None], asyncio.Task[None]] = {}
        """What watches each piece of work, by the work's own task."""

    @property
    def active(self) -> int:
        """How many pieces of work are under way."""
        return len(self._work)

    async def start(
        self, key: str, archive: OwnArchive, work: Coroutine[Any, Any, None], settle: Callable[[], Awaitable[None]]
    ) -> None:
        """Run `work` until it ends, or until the archive asks for its end and `settle` is awaited. Raises `StoreUnavailable`."""
        try:
            await archive.mark_alive(key)
        except BaseException:
            work.close()
            raise
        running = asyncio.create_task(work)
        self._work[running] = asyncio.create_task(self._watch(key, archive, running, settle))

    async def _watch(
        self, key: str, archive: OwnArchive, running: asyncio.Task[None], settle: Callable[[], Awaitable[None]]
    ) -> None:
        is_asked = False
        try:
            while not running.done() and not is_asked:
                await asyncio.wait((running,), timeout=_LOOK_EVERY_S)
                is_asked = not running.done() and await _is_asked_to_end(key, archive)
            if is_asked:
                running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            if is_asked and running.cancelled():  # else it had ended before anybody could stop it, and its answer stays
                await settle()
            with suppress(StoreUnavailable):
                await archive.unmark(key)
        finally:
            self._work.pop(running, None)

    async def close(self) -> None:
        """Break off all work; whoever asks for it sees that nobody does it any more."""
        for running in self._work:
            running.cancel()
        await asyncio.gather(*self._work.values(), return_exceptions=True)


async def _is_asked_to_end(key: str, archive: OwnArchive) -> bool:
    try:
        await archive.mark_alive(key)
        return await archive.is_asked_to_end(key)
    except StoreUnavailable as error:
        logger.warning("work in the background goes on without its mark: %s", error.message)
        return False
