"""A store in this process only: for tests, and for counting locally while the real store is away."""

import secrets
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from serve_app.errors import StoreUnavailable
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
    compute_expiry,
    find_window_start,
    measure_reset_s,
    measure_wait_s,
    parse_count_cursor,
    require_additions,
    require_claims,
    require_key,
    require_page,
    require_slots,
    require_ttl,
    require_value,
    write_count_cursor,
)

_Window = tuple[str, int, int]
_SWEEP_EVERY = 1000


class MemoryStore:
    """Keeps everything in dictionaries; nothing survives the process. Expired items are removed every thousand writes."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """Use `clock` for seconds since 1970."""
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._counts: dict[_Window, Count] = {}
        self._leases: dict[str, dict[str, float]] = {}
        self._batches: dict[str, float] = {}
        self._writes = 0
        self._closed = False

    async def check(self) -> None:
        """Raise when closed."""
        self._now()

    async def get(self, key: str) -> bytes | None:
        """Return the value of a key, or None."""
        require_key(key)
        entry = self._entries.get(key)
        return entry.value if entry is not None and _is_alive(entry.expires_at, self._now()) else None

    async def put(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Write a value, replacing another one and its time to live."""
        require_key(key)
        require_value(value)
        require_ttl(ttl_s)
        now = self._write()
        self._entries[key] = Entry(key, bytes(value), None if ttl_s is None else now + ttl_s)

    async def delete(self, key: str) -> bool:
        """Delete a value; return whether there was one."""
        there = await self.get(key) is not None
        self._entries.pop(key, None)
        return there

    async def scan(self, prefix: str, *, limit: int = 100, after: str = "") -> Page[Entry]:
        """Return entries whose keys begin with `prefix`."""
        require_page(prefix, limit)
        now = self._now()
        items: list[Entry] = []
        size = 0
        for key in _range(self._entries, prefix, after):
            if len(items) == limit or size > MAX_PAGE_BYTES:
                return Page(tuple(items), items[-1].key)
            if _is_alive((entry := self._entries[key]).expires_at, now):
                items.append(entry)
                size += len(entry.value)
        return Page(tuple(items), None)

    async def add(self, additions: Sequence[Addition], *, batch: str = "") -> list[Tally]:
        """Add to counters, once per batch."""
        require_additions(additions, batch)
        now = self._write()
        counts = not (batch and self._batches.get(batch, 0) > now)
        if batch and counts:
            self._batches[batch] = now + BATCH_KEPT_S
        return [self._add(each, each.amount if counts else 0, now) for each in additions]

    async def take(self, claims: Sequence[Claim]) -> Taken:
        """Reserve every claim, or none."""
        require_claims(claims)
        now = self._write()
        additions = [Addition(each.key, each.amount, each.window_s) for each in claims]
        wait = measure_wait_s(now, claims, [self._sum(each, now) for each in additions])
        if wait:
            starts = [find_window_start(now, each.window_s) for each in claims]
            return Taken(
                False,
                wait,
                tuple(
                    Tally(start, self._sum(each, now), measure_reset_s(now, each.window_s, start))
                    for each, start in zip(additions, starts, strict=True)
                ),
            )
        return Taken(True, 0.0, tuple(self._add(each, each.amount, now) for each in additions))

    async def scan_counts(self, prefix: str, *, limit: int = 100, after: str = "") -> Page[Count]:
        """Return windows whose keys begin with `prefix`."""
        require_page(prefix, limit)
        now = self._now()
        last = parse_count_cursor(after) if after else None
        items: list[Count] = []
        for window in sorted(window for window in self._counts if window[0].startswith(prefix)):
            if (last is not None and window <= last) or not _is_alive((count := self._counts[window]).expires_at, now):
                continue
            if len(items) == limit:
                return Page(tuple(items), write_count_cursor(items[-1].key, items[-1].window_s, items[-1].start))
            items.append(count)
        return Page(tuple(items), None)

    async def acquire(self, key: str, *, slots: int, ttl_s: float) -> Lease | None:
        """Take one of `slots` places."""
        require_slots(key, slots, ttl_s)
        now = self._write()
        held = {token: until for token, until in self._leases.get(key, {}).items() if until > now}
        self._leases[key] = held
        if len(held) >= slots:
            return None
        lease = Lease(key, secrets.token_hex(16))
        held[lease.token] = now + ttl_s
        return lease

    async def renew(self, lease: Lease, *, ttl_s: float) -> bool:
        """Hold a lease for longer."""
        require_slots(lease.key, 1, ttl_s)
        now = self._write()
        held = self._leases.get(lease.key, {})
        if held.get(lease.token, 0) <= now:
            return False
        held[lease.token] = now + ttl_s
        return True

    async def release(self, lease: Lease) -> bool:
        """Give a place back."""
        require_key(lease.key)
        return self._leases.get(lease.key, {}).pop(lease.token, 0) > self._write()

    async def close(self) -> None:
        """Forget everything."""
        self._closed = True

    def _sum(self, addition: Addition, now: float) -> int:
        count = self._counts.get((addition.key, addition.window_s, find_window_start(now, addition.window_s)))
        return 0 if count is None else count.sum

    def _add(self, addition: Addition, amount: int, now: float) -> Tally:
        start = find_window_start(now, addition.window_s) if addition.start is None else addition.start
        window = (addition.key, addition.window_s, start)
        count = self._counts.get(window)
        until = compute_expiry(addition.window_s, start, addition.keep_s) if count is None else count.expires_at
        if not _is_alive(until, now):
            return Tally(start, 0, 0.0)
        total = amount + (0 if count is None else count.sum)
        self._counts[window] = Count(*window, total, until)
        return Tally(start, total, measure_reset_s(now, addition.window_s, start))

    def _now(self) -> float:
        if self._closed:
            raise StoreUnavailable("the store is closed", reason="closed")
        return self._clock()

    def _write(self) -> float:
        now = self._now()
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 0:
            self._entries = {key: each for key, each in self._entries.items() if _is_alive(each.expires_at, now)}
            self._counts = {window: each for window, each in self._counts.items() if _is_alive(each.expires_at, now)}
            self._batches = {name: until for name, until in self._batches.items() if until > now}
            self._leases = {key: held for key, held in self._leases.items() if any(until > now for until in held.values())}
        return now


def _is_alive(expires_at: float | None, now: float) -> bool:
    return expires_at is None or expires_at > now


def _range(keys: Iterable[str], prefix: str, after: str) -> list[str]:
    chosen = sorted(key for key in keys if key.startswith(prefix))
    at = bisect_left(chosen, after)
    return chosen[at + (at < len(chosen) and chosen[at] == after) :]
