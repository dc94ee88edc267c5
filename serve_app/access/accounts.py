"""Limits and usage together, and the task that keeps the store up to date. Knows no key and no HTTP."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.access.journal import Journal
from serve_app.access.limits import Limiter
from serve_app.access.usage import UsageBook
from serve_app.access_config import AccessSettings
from serve_app.store.base import Store
from serve_app.store.memory import MemoryStore
from serve_app.store.registry import build_store
from serve_app.store_config import RedisSettings, SqliteSettings

logger = logging.getLogger(__name__)

_TEND_EVERY_S = 1.0
_SQLITE_SHARE = 0.05


@dataclass(slots=True)
class Accounts:
    """The limits and the usage of every caller. Belongs to one event loop."""

    limiter: Limiter
    usage: UsageBook
    store: Store
    _tending: list[asyncio.Task[None]] = field(default_factory=list)
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def in_memory(cls) -> "Accounts":
        """Return accounts that end with the process and bound no model."""
        return cls.build(AccessSettings(journal_dir=None), MemoryStore(), share=0.0)

    @classmethod
    def open(cls, access: AccessSettings, store: SqliteSettings | RedisSettings) -> "Accounts":
        """Return accounts over the configured store, which connects later; raises `ValueError` without a usable URL."""
        share = access.reserved_share
        if share is None:
            share = _SQLITE_SHARE if isinstance(store, SqliteSettings) else 0.0
        return cls.build(access, build_store(store), share=share)

    @classmethod
    def build(cls, access: AccessSettings, store: Store, *, share: float) -> "Accounts":
        """Return accounts over a store; `share`: see `Counters`."""
        models = {name: limits.build_limits() for name, limits in access.models.items()}
        journal = Journal(None if access.journal_dir is None else Path(access.journal_dir).expanduser())
        limiter = Limiter(store, models=models, share=share, fail_open=access.store_failure == "fail_open")
        return cls(limiter, UsageBook(store, journal), store)

    def start(self) -> None:
        """Keep the store up to date until `close`."""
        # Two tasks: while the store takes long for the sums, places must not run out.
        self._tending = [
            asyncio.create_task(self._repeat(self.limiter.tend_places, self.limiter.wake)),
            asyncio.create_task(self._repeat(self._bring_up_to_date, self._closing)),
        ]

    async def _bring_up_to_date(self) -> None:
        await self.limiter.settle()
        await self.usage.flush()

    async def _repeat(self, work: Callable[[], Awaitable[None]], wake: asyncio.Event) -> None:
        """Do `work` once a second, and when `wake` is set."""
        while True:
            try:
                await work()
            except Exception:  # a fault here must not end the counting for good
                logger.exception("limits and usage are not up to date")
            if self._closing.is_set():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_TEND_EVERY_S):
                    await wake.wait()

    async def close(self) -> None:
        """Bring the store up to date a last time, and disconnect."""
        self._closing.set()
        self.limiter.wake.set()
        for task in self._tending:  # not cancelled: a database's client may swallow that, and the task would go on
            await task
        await self.limiter.close()
        await self.usage.close()
        await self.store.close()
