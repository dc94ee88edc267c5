"""What every key used, by model and day: noted when a request ends, and added to the store every second.

A note is in the journal before the request's last bytes leave, so a killed process loses nothing that a client saw the end of. The
store counts each segment of the journal once, however often it is sent.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from serve_app.access.journal import Journal, Segment
from serve_app.errors import StoreUnavailable
from serve_app.record import RequestRecord
from serve_app.store.base import MAX_AMOUNT, MAX_BATCH, Addition, Store, find_window_start
from serve_app.store.names import decode_name, encode_name

logger = logging.getLogger(__name__)

DAY_S = 86400
KEPT_S = 400 * DAY_S
"""How long a day's usage is kept."""
FIGURES = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens", "engine_ms")
_PREFIX = "usage/"
_ADOPT_EVERY_S = 30.0
_Text = Annotated[str, Field(min_length=1, max_length=1000)]
_Figure = Annotated[int, Field(ge=0, le=MAX_AMOUNT // 2**20)]
_Day = Annotated[int, Field(ge=0, le=2**40, multiple_of=DAY_S)]
_ENTRY: TypeAdapter[tuple[str, str, int, int, int, int, int, int, int]] = TypeAdapter(
    tuple[_Text, _Text, _Day, _Figure, _Figure, _Figure, _Figure, _Figure, _Figure]
)
"""A line of the journal."""
_LINES = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
"""Writes the journal's lines: key, model, day and the figures."""

_Owner = tuple[str, str, int]
"""Key, model, and where the day begins."""
_Sums = dict[_Owner, list[int]]
"""The `FIGURES` of each owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one key used of one model on one day (UTC)."""

    key: str
    model: str
    day: int
    """Where the day begins, in seconds since 1970."""
    requests: int = 0
    errors: int = 0
    """Of the requests, those that failed or were refused; those whose client left are no errors."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens, those found in a KV cache."""
    completion_tokens: int = 0
    engine_ms: int = 0
    """Milliseconds that engines worked on the answers."""


class UsageBook:
    """The usage of all keys. Belongs to one event loop."""

    def __init__(self, store: Store, journal: Journal, *, clock: Callable[[], float] = time.time) -> None:
        """Add to `store`; `clock` gives seconds since 1970."""
        self._store = store
        self._journal = journal
        self._clock = clock
        self._fresh: _Sums = {}
        self._pending: list[tuple[Segment, _Sums]] = []
        """Segments that are not in the store yet."""
        self._adopted_at = float("-inf")
        self._is_away = False
        self._flushing = asyncio.Lock()
        self._failures = 0

    def note(self, record: RequestRecord) -> None:
        """Count a request that ends now."""
        used = record.consumed
        figures = [
            1,
            int(record.outcome not in ("ok", "cancelled")),
            used.prompt_tokens,
            used.cached_tokens,
            used.completion_tokens,
            round(1000 * record.engine_s),
        ]
        owner = record.caller.name, record.served_model or "none", find_window_start(self._clock(), DAY_S)
        self._journal.write(_LINES.encode([*owner, *figures]).encode())
        _add(self._fresh, owner, figures)

    async def flush(self) -> None:
        """Add what was noted to the store; what cannot be added now is kept for the next call."""
        failures = self._failures
        async with self._flushing:
            if failures == self._failures:  # else the store failed while this one waited, and would again
                await self._flush()

    async def _flush(self) -> None:
        now = time.monotonic()
        if now - self._adopted_at >= _ADOPT_EVERY_S:
            self._adopted_at = now
            await asyncio.shield(asyncio.ensure_future(self._adopt()))  # cancelled halfway, locked files would belong to nobody
        try:
            while self._pending or self._fresh:
                if not self._pending:  # one at a time: while the store is away, two segments remain, not thousands
                    segment = self._journal.rotate()
                    assert segment is not None
                    self._pending.append((segment, self._fresh))
                    self._fresh = {}
                await self._add(*self._pending[0])
                self._pending.pop(0)[0].remove()
        except StoreUnavailable as error:
            if not self._is_away:
                logger.error("usage: the store is %s; it is kept here until the store answers", error.reason)
            self._is_away = True
            self._failures += 1
            return
        self._is_away = False

    async def _adopt(self) -> None:
        """Take over what killed processes left; a file that cannot be read costs only itself."""
        for segment in await asyncio.to_thread(self._journal.adopt):
            try:
                self._pending.append((segment, await asyncio.to_thread(_read, segment)))
            except OSError as error:
                logger.error("usage: a file of the journal cannot be read (%s)", error.strerror)
                segment.release()

    async def _add(self, segment: Segment, sums: _Sums) -> None:
        """Add a segment in batches with names, so that none counts twice; the same segment always makes the same batches."""
        additions = [
            Addition(f"{_PREFIX}{encode_name(key)}/{encode_name(model)}/{name}", amount, DAY_S, start=day, keep_s=KEPT_S)
            for (key, model, day), figures in sorted(sums.items())
            for name, amount in zip(FIGURES, figures, strict=True)
            if amount
        ]
        for at in range(0, len(additions), MAX_BATCH):
            await self._store.add(additions[at : at + MAX_BATCH], batch=f"usage/{segment.name}/{at}")

    async def read(self, *, since: float = 0, until: float = float("inf"), key: str | None = None) -> list[Usage]:
        """Return the usage of the days that begin within [since, until), of one key or all, by key, model and day.

        Raises `StoreUnavailable`.
        """
        await self.flush()
        prefix = _PREFIX if key is None else f"{_PREFIX}{encode_name(key)}/"
        found: dict[tuple[str, str, int], dict[str, int]] = {}
        after: str | None = ""
        while after is not None:
            page = await self._store.scan_counts(prefix, limit=1000, after=after)
            for count in page.items:
                if since <= count.start < until:
                    owner, model, figure = count.key.removeprefix(_PREFIX).split("/")
                    found.setdefault((decode_name(owner), decode_name(model), count.start), {})[figure] = count.sum
            after = page.next
        return [
            Usage(key=owner, model=model, day=day, **{name: figures.get(name, 0) for name in FIGURES})
            for (owner, model, day), figures in sorted(found.items())
        ]

    async def close(self) -> None:
        """Add the rest; where the store is away, leave it to the next process."""
        await self.flush()
        for segment, _ in self._pending:
            segment.release()


def _add(sums: _Sums, owner: _Owner, figures: list[int]) -> None:
    total = sums.setdefault(owner, [0] * len(FIGURES))
    for at, amount in enumerate(figures):
        total[at] += amount


def _read(segment: Segment) -> _Sums:
    """Return the sums of a segment that another process left."""
    sums: _Sums = {}
    unreadable = 0
    for line in segment.read():
        try:
            entry = _ENTRY.validate_json(line)
            _add(sums, entry[:3], list(entry[3:]))
        except ValidationError:
            unreadable += bool(line)
    if unreadable:
        logger.warning("usage: %d lines of the journal cannot be read", unreadable)
    return sums
