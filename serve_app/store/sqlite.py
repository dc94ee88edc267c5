"""A store in one SQLite file, for all processes of one machine.

Every write is one transaction, so a process may be killed at any moment: a call that returned is kept, the one under way happened
whole or not at all. Only a power cut may lose the last commits. The folder must be on a local disk: the write-ahead log needs
memory that processes share.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from serve_app.store import sqlite_calls as calls
from serve_app.store.base import (
    Addition,
    Claim,
    Count,
    Entry,
    Lease,
    Page,
    Taken,
    Tally,
    parse_count_cursor,
    require_additions,
    require_claims,
    require_key,
    require_page,
    require_slots,
    require_ttl,
    require_value,
)
from serve_app.store.sqlite_thread import SqliteThread

DEFAULT_MAX_BYTES = 4 << 30


class SqliteStore:
    """The file `state.sqlite3` in `folder`, made with the first call. Belongs to one event loop."""

    def __init__(
        self,
        folder: Path,
        *,
        timeout_s: float = 2.0,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Answer every call within `timeout_s`; a file of `max_bytes` is full. `clock` gives seconds since 1970."""
        self._thread = SqliteThread(folder, timeout_s=timeout_s, max_bytes=max_bytes, clock=clock)

    async def check(self) -> None:
        """Open the file; raises `StoreUnavailable`."""
        await self._thread.call(calls.get, "check", writes=False)

    async def get(self, key: str) -> bytes | None:
        """Return the value of a key, or None."""
        require_key(key)
        return await self._thread.call(calls.get, key, writes=False)

    async def put(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Write a value, replacing another one and its time to live."""
        require_key(key)
        require_value(value)
        require_ttl(ttl_s)
        await self._thread.call(calls.put, key, value, ttl_s)

    async def delete(self, key: str) -> bool:
        """Delete a value; return whether there was one."""
        require_key(key)
        return await self._thread.call(calls.delete, key)

    async def scan(self, prefix: str, *, limit: int = 100, after: str = "") -> Page[Entry]:
        """Return entries whose keys begin with `prefix`."""
        require_page(prefix, limit)
        return await self._thread.call(calls.scan, prefix, limit, after, writes=False)

    async def add(self, additions: Sequence[Addition], *, batch: str = "") -> list[Tally]:
        """Add to counters, all in one transaction, once per batch."""
        require_additions(additions, batch)
        return await self._thread.call(calls.add, tuple(additions), batch)

    async def take(self, claims: Sequence[Claim]) -> Taken:
        """Reserve every claim, or none."""
        require_claims(claims)
        return await self._thread.call(calls.take, tuple(claims))

    async def scan_counts(self, prefix: str, *, limit: int = 100, after: str = "") -> Page[Count]:
        """Return windows whose keys begin with `prefix`."""
        require_page(prefix, limit)
        parse_count_cursor(after)
        return await self._thread.call(calls.scan_counts, prefix, limit, after, writes=False)

    async def acquire(self, key: str, *, slots: int, ttl_s: float) -> Lease | None:
        """Take one of `slots` places."""
        require_slots(key, slots, ttl_s)
        return await self._thread.call(calls.acquire, key, slots, ttl_s)

    async def renew(self, lease: Lease, *, ttl_s: float) -> bool:
        """Hold a lease for longer."""
        require_slots(lease.key, 1, ttl_s)
        return await self._thread.call(calls.renew, lease, ttl_s)

    async def release(self, lease: Lease) -> bool:
        """Give a place back."""
        require_key(lease.key)
        return await self._thread.call(calls.release, lease)

    async def close(self) -> None:
        """Let calls under way end, then close the file."""
        await self._thread.close()
