"""Limits and usage together, and the task that keeps the store up to date. Knows no key and no HTTP."""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
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
    _tending: asyncio.Task[None] | None = None
    _is_closing: bool = False

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
        self._tending = asyncio.create_task(self._tend())

    async def _tend(self) -> None:
        flush_at = 0.0
        while True:
            try:
                await self.limiter.tend()
                if (now := time.monotonic()) >= flush_at:  # not with each place that is given back
                    flush_at = now + _TEND_EVERY_S
                    await self.usage.flush()
            except Exception:  # a fault here must not end the counting for good
                logger.exception("limits and usage are not up to date")
            if self._is_closing:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_TEND_EVERY_S):
                    await self.limiter.wake.wait()

    async def close(self) -> None:
        """Bring the store up to date a last time, and disconnect."""
        self._is_closing = True
        self.limiter.wake.set()
        if self._tending is not None:  # not cancelled: a database's client may swallow that, and the task would go on
            await self._tending
        await self.limiter.close()
        await self.usage.close()
        await self.store.close()
