"""Work that continues after its request was answered, because the client fetches the result later.

While it runs, a watcher renews a mark in the archive, so that every ingress sees when the process is gone, and looks for another
mark, which asks the work to end. Every task is owned by `BackgroundWork`. Knows no dialect and no HTTP.
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
"""Seconds between two renewals; well below `archive.ALIVE_S`."""


class BackgroundWork:
    """The work of one process."""

    def __init__(self) -> None:
        """Begin without work."""
        self._work: dict[asyncio.Task[None], asyncio.Task[None]] = {}
        """The watcher of each piece of work, by the work's own task."""

    @property
    def active(self) -> int:
        """Pieces of work under way."""
        return len(self._work)

    async def start(
        self, key: str, archive: OwnArchive, work: Coroutine[Any, Any, None], settle: Callable[[], Awaitable[None]]
    ) -> None:
        """Run `work` under `key` until it ends; raises `StoreUnavailable`, and then the work never runs.

        Where the archive asks for its end, the work is cancelled and `settle` awaited.
        """
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
            (outcome,) = await asyncio.gather(running, return_exceptions=True)
            if isinstance(outcome, Exception):  # a cancelled task's outcome is none
                logger.error("work in the background failed", exc_info=outcome)
            if is_asked and running.cancelled():  # else it had ended before anybody could stop it, and its answer stays
                await settle()
            with suppress(StoreUnavailable):
                await archive.unmark(key)
        except Exception:  # whatever it is: work that nobody watches must not go on
            logger.exception("work in the background is no longer watched")
        finally:
            running.cancel()
            self._work.pop(running, None)

    async def close(self) -> None:
        """Cancel all work and remove its marks, so that clients see that it has failed."""
        for running in self._work:
            running.cancel()
        await asyncio.gather(*self._work.values(), return_exceptions=True)


async def _is_asked_to_end(key: str, archive: OwnArchive) -> bool:
    try:
        await archive.mark_alive(key)
        return await archive.is_asked_to_end(key)
    except StoreUnavailable as error:
        logger.warning("work in the background continues without its mark: %s", error.message)
        return False
