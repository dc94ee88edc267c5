"""A store in a Redis server, for ingresses on several machines.

It needs version 6.2 or later, and no Redis Cluster. Windows and times to live go by the server's clock. Keys begin with a prefix
and the schema's version. A lost connection is made anew by the next call; nothing is repeated by itself, since a call whose answer
was lost may have been carried out.

How much a failure of the server loses is the server's own setting (`appendonly`), and it must not evict keys (`maxmemory-policy
noeviction`). The URL may hold a password and is never logged.
"""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis.asyncio as client
from redis import exceptions as failures
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from serve_app.errors import StoreUnavailable
from serve_app.store import redis_scripts as scripts
from serve_app.store.base import (
    BATCH_KEPT_S,
    MAX_PAGE_BYTES,
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

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the schema in `redis_scripts`. A later one reads this one's keys and moves them."""
_CONNECTIONS = 32


class RedisStore:
    """The keys with a prefix in one database of a server. Belongs to one event loop."""

    def __init__(self, url: str, *, prefix: str = "phi-serve", timeout_s: float = 2.0) -> None:
        """Connect to `url` (redis://, rediss:// for TLS, unix://) with the first call; answer every call within `timeout_s`."""
        require_key(prefix)
        self._timeout_s = timeout_s
        self._schema = f"{prefix}:schema"
        self._prefix = f"{prefix}:{VERSION}:"
        self._checked = False
        self._closed = False
        self._trouble = ""
        """Why the last call failed; one line is logged for each change, not for each call."""
        try:
            pool = client.BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=timeout_s,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            # The client's message holds the URL.
            raise ValueError("the store's URL must begin with redis://, rediss:// or unix://") from None
        self._client = client.Redis(connection_pool=pool)
        self._scripts = {
            name: self._client.register_script(getattr(scripts, name))
            for name in ("PUT", "DELETE", "SCAN", "ADD", "TAKE", "ACQUIRE", "RENEW", "RELEASE")
        }

    async def check(self) -> None:
        """Connect and read the schema's version; raises `StoreUnavailable`."""
        self._checked = False
        await self._call(self._client.ping)

    async def get(self, key: str) -> bytes | None:
        """Return the value of a key, or None."""
        require_key(key)
        value: bytes | None = await self._call(lambda: self._client.get(f"{self._prefix}v:{key}"))
        return value

    async def put(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Write a value, replacing another one and its time to live."""
        require_key(key)
        require_value(value)
        require_ttl(ttl_s)
        await self._run("PUT", key, value, "" if ttl_s is None else _to_ms(ttl_s))

    async def delete(self, key: str) -> bool:
        """Delete a value; return whether there was one."""
        require_key(key)
        return bool(await self._run("DELETE", key))

    async def scan(self, prefix: str, *, limit: int = 100, after: str = "") -> Page[Entry]:
        """Return entries whose keys begin with `prefix`."""
        require_page(prefix, limit)
        items, last = await self._run("SCAN", "v:", prefix, after, limit, MAX_PAGE_BYTES)
        now = time.time()
        return Page(
            tuple(Entry(name[2:].decode(), value, _expiry(left_ms, now)) for name, value, left_ms in items),
            last[2:].decode() or None,
        )

    async def add(self, additions: Sequence[Addition], *, batch: str = "") -> list[Tally]:
        """Add to counters, all in one step, once per batch."""
        require_additions(additions, batch)
        fields = (
            f"{each.key} {each.amount:d} {each.window_s:d} {-1 if each.start is None else each.start:d} {each.keep_s:d}"
            for each in additions
        )
        return _read_tallies(await self._run("ADD", batch, BATCH_KEPT_S * 1000, " ".join(fields)))

    async def take(self, claims: Sequence[Claim]) -> Taken:
        """Reserve every claim, or none."""
        require_claims(claims)
        fields = (f"{each.key} {each.amount:d} {each.limit:d} {each.window_s:d}" for each in claims)
        wait_ms, text = await self._run("TAKE", " ".join(fields))
        wait = int(wait_ms)
        return Taken(wait == 0, math.inf if wait < 0 else wait / 1000, tuple(_read_tallies(text)))

    async def scan_counts(self, prefix: str, *, limit: int = 100, after: str = "") -> Page[Count]:
        """Return windows whose keys begin with `prefix`."""
        require_page(prefix, limit)
        parse_count_cursor(after)
        items, last = await self._run("SCAN", "c:", prefix, after, limit, MAX_PAGE_BYTES)
        now = time.time()
        counts = []
        for name, total, left_ms in items:
            key, window_s, start = parse_count_cursor(name[2:].decode())
            counts.append(Count(key, window_s, start, int(total), _expiry(left_ms, now)))
        return Page(tuple(counts), last[2:].decode() or None)

    async def acquire(self, key: str, *, slots: int, ttl_s: float) -> Lease | None:
        """Take one of `slots` places."""
        require_slots(key, slots, ttl_s)
        lease = Lease(key, secrets.token_hex(16))
        return lease if await self._run("ACQUIRE", key, lease.token, slots, _to_ms(ttl_s)) else None

    async def renew(self, lease: Lease, *, ttl_s: float) -> bool:
        """Hold a lease for longer."""
        require_slots(lease.key, 1, ttl_s)
        return bool(await self._run("RENEW", lease.key, lease.token, _to_ms(ttl_s)))

    async def release(self, lease: Lease) -> bool:
        """Give a place back."""
        require_key(lease.key)
        return bool(await self._run("RELEASE", lease.key, lease.token))

    async def close(self) -> None:
        """Disconnect."""
        self._closed = True
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.aclose()
                await self._client.connection_pool.disconnect()
        except (failures.RedisError, OSError):  # nobody needs an orderly goodbye
            pass

    async def _run(self, script: str, *arguments: Any) -> Any:
        return await self._call(lambda: self._scripts[script](args=(self._prefix, *arguments)))

    async def _call(self, begin: Callable[[], Awaitable[Any]]) -> Any:
        if self._closed:
            raise StoreUnavailable("the store is closed", reason="closed")
        try:
            async with asyncio.timeout(self._timeout_s):
                if not self._checked:
                    await self._check_version()
                result = await begin()
        except (failures.RedisError, OSError) as error:  # TimeoutError is an OSError
            self._checked = False
            unavailable = _translate(error)
            if self._trouble != unavailable.reason:
                self._trouble = unavailable.reason
                # No text of the error: it may hold the address, and with it a password.
                logger.warning("store: Redis is %s: %s", unavailable.reason, type(error).__name__)
            raise unavailable from error
        if self._trouble:
            self._trouble = ""
            logger.warning("store: Redis answers again")
        return result

    async def _check_version(self) -> None:
        try:
            found = int(await self._client.get(self._schema) or 0)
        except ValueError:
            raise StoreUnavailable(
                f"Redis' key {self._schema} is another program's; use another store.prefix", reason="broken"
            ) from None
        if found == 0:
            await self._client.set(self._schema, VERSION, nx=True)
        if found > VERSION:
            raise StoreUnavailable(
                f"Redis has version {found} of the store's schema, and this phi-serve knows {VERSION} at most. "
                "Use the newer phi-serve, or another store.prefix",
                reason="broken",
            )
        self._checked = True


def _to_ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _expiry(left_ms: int, now: float) -> float | None:
    return None if left_ms < 0 else now + left_ms / 1000


def _read_tallies(text: bytes) -> list[Tally]:
    numbers = iter(map(int, text.split()))
    return [
        Tally(start, total, math.inf if left_ms < 0 else left_ms / 1000)
        for start, total, left_ms in zip(numbers, numbers, numbers, strict=True)
    ]


def _is_refused(error: BaseException | None) -> bool:
    """Return whether the server did not accept the user; the client wraps that in a lost connection."""
    while error is not None and not isinstance(error, failures.AuthenticationError | failures.NoPermissionError):
        error = error.__cause__ or error.__context__
    return error is not None


def _translate(error: Exception) -> StoreUnavailable:
    if _is_refused(error):
        return StoreUnavailable("Redis refuses the store's password or user; the operator must correct the URL", reason="broken")
    if isinstance(error, failures.OutOfMemoryError) or "OOM" in str(error)[:80]:
        return StoreUnavailable("the store is full; the operator must give Redis more memory", reason="full")
    if str(error).startswith("BUSY ") or isinstance(  # a script of somebody else runs for long
        error, failures.BusyLoadingError | failures.MaxConnectionsError | TimeoutError | failures.TimeoutError
    ):
        return StoreUnavailable("the store is busy or does not answer; try again", reason="busy", retry_after_s=1.0)
    if isinstance(error, failures.ReadOnlyError):
        return StoreUnavailable("Redis is a read-only replica; the operator must correct the URL", reason="broken")
    if isinstance(error, failures.ResponseError):
        return StoreUnavailable("Redis refused the store's call; the log says more", reason="broken")
    return StoreUnavailable("the store is away; try again", reason="away", retry_after_s=1.0)
