"""The protocol of a store, and the values that cross it. Knows no database.

Entries are bytes under a key, with or without a time to live. Counters are sums within fixed windows of the clock. Leases are
places among N that a killed process gives back by itself. The same text may be a key of each: they never meet.

Every call returns or raises `StoreUnavailable` within the store's time limit. A call that raised may have been carried out all the
same: its answer was lost. So what must not count twice has a name (`batch` of `Store.add`). Arguments out of bounds are
`ValueError`s, the caller's fault: text that clients choose must be checked or encoded before it is part of a key.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

MAX_KEY_CHARS = 200
MAX_VALUE_BYTES = 8 << 20
MAX_AMOUNT = 2**53 - 1
"""Bound of amounts and limits. Sums are exact up to it, since Redis' scripts compute with doubles."""
MAX_SECONDS = 10 * 366 * 86400
"""Longest window and time to live."""
MAX_BATCH = 1000
"""Counters of one call."""
MAX_PAGE = 1000
MAX_PAGE_BYTES = 8 << 20
"""A page ends after the entry whose value exceeds this, so that one page takes at most twice as much memory."""
BATCH_KEPT_S = 86400
"""How long a batch's name is remembered."""

Item = TypeVar("Item")
_KEY_TEXT = re.compile(r"[A-Za-z0-9._:/@+=-]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """A value as `scan` returns it."""

    key: str
    """Its key."""
    value: bytes
    """Its bytes."""
    expires_at: float | None
    """When it disappears, in seconds since 1970; None: never."""


@dataclass(frozen=True, slots=True)
class Addition:
    """An amount to add to a counter."""

    key: str
    """The counter's key. Counters of one key and different windows are different counters."""
    amount: int
    """What to add; negative amounts take back."""
    window_s: int = 0
    """Length of the windows in seconds. They begin at multiples of it since 1970. 0: one window that never ends."""
    start: int | None = None
    """Where the window begins, in seconds since 1970; None: the present window. Of a window no longer kept nothing is counted."""
    keep_s: int = 0
    """How long a window's sum is kept after its end. The first addition to a window decides."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An amount to reserve of a counter, if its limit allows."""

    key: str
    """The counter's key."""
    amount: int
    """What to add, 0 or more."""
    limit: int
    """The sum that must not be exceeded."""
    window_s: int
    """Length of the windows in seconds, as in `Addition`."""


@dataclass(frozen=True, slots=True)
class Tally:
    """A counter's window after a call."""

    start: int
    """Where the window begins, in seconds since 1970."""
    sum: int
    """Its sum."""
    resets_in_s: float
    """Seconds until it ends, by the store's clock: 0 once it ended, infinity where it never does."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The outcome of `take`."""

    granted: bool
    """Whether every claim was reserved; otherwise none was."""
    retry_after_s: float
    """Seconds until the refused claims may succeed: 0 if granted, infinity if one exceeds its limit alone."""
    tallies: tuple[Tally, ...]
    """Each claim's counter, reserved amounts included."""


@dataclass(frozen=True, slots=True)
class Count:
    """A counter's window as `scan_counts` returns it."""

    key: str
    """The counter's key."""
    window_s: int
    """Length of its windows in seconds; 0: never ends."""
    start: int
    """Where this window begins, in seconds since 1970."""
    sum: int
    """Its sum."""
    expires_at: float | None
    """Until when it is kept, in seconds since 1970; None: for good."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One of a key's places, held until its time to live is over."""

    key: str
    """What it is a place of."""
    token: str
    """Identifies the holder."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a scan. It may be short or empty although more follows."""

    items: tuple[Item, ...]
    """In the order of their keys, byte by byte."""
    next: str | None
    """The `after` of the next page; None: that was the last."""


class Store(Protocol):
    """What outlives a process. Every method raises `StoreUnavailable`; arguments out of bounds are `ValueError`s."""

    async def check(self) -> None:
        """Connect, and read the schema's version; what any first call does too."""

    async def get(self, key: str) -> bytes | None:
        """Return the value of a key, or None."""

    async def put(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Write a value, replacing another one and its time to live. None: it stays."""

    async def delete(self, key: str) -> bool:
        """Delete a value; return whether there was one."""

    async def scan(self, prefix: str, *, limit: int = 100, after: str = "") -> Page[Entry]:
        """Return at most `limit` entries whose keys begin with `prefix`, from behind `after`, the `next` of a page."""

    async def add(self, additions: Sequence[Addition], *, batch: str = "") -> list[Tally]:
        """Add to counters, to all of them or to none, and return their windows.

        With a `batch` (named like a key) the additions count once: for a day, a call of the same name only returns the sums. So a
        call whose answer was lost can be repeated.
        """

    async def take(self, claims: Sequence[Claim]) -> Taken:
        """Reserve every claim, or none, in one step for all processes. No two claims may be of one counter."""

    async def scan_counts(self, prefix: str, *, limit: int = 100, after: str = "") -> Page[Count]:
        """Return at most `limit` windows that are still kept, by key, length and start."""

    async def acquire(self, key: str, *, slots: int, ttl_s: float) -> Lease | None:
        """Take one of `slots` places for `ttl_s` seconds; None when all are taken."""

    async def renew(self, lease: Lease, *, ttl_s: float) -> bool:
        """Hold a lease for `ttl_s` seconds from now; return False when it is over, and the place lost."""

    async def release(self, lease: Lease) -> bool:
        """Give a place back; return False when the lease was over already."""

    async def close(self) -> None:
        """Let calls under way end, then disconnect. Later calls raise."""


def settle(claim: Claim, tally: Tally, actual: int) -> Addition:
    """Return the addition that makes a granted claim count `actual` instead of its amount, in the window of its reservation."""
    return Addition(claim.key, actual - claim.amount, claim.window_s, start=tally.start)


def find_window_start(now: float, window_s: int) -> int:
    """Return where the window around `now` begins."""
    return int(now // window_s) * window_s if window_s else 0


def measure_reset_s(now: float, window_s: int, start: int) -> float:
    """Return the seconds until a window ends."""
    return max(0.0, start + window_s - now) if window_s else math.inf


def compute_expiry(window_s: int, start: int, keep_s: int) -> float | None:
    """Return until when a window is kept."""
    return float(start + window_s + keep_s) if window_s else None


def write_count_cursor(key: str, window_s: int, start: int) -> str:
    """Return a text that sorts as (key, window_s, start) does."""
    return f"{key}\0{window_s:010d}:{start:012d}"


def parse_count_cursor(cursor: str) -> tuple[str, int, int]:
    """Return what `count_cursor` joined; the empty text is before everything."""
    if not cursor:
        return ("", 0, 0)
    try:
        key, _, window = cursor.partition("\0")
        window_s, _, start = window.partition(":")
        return (key, int(window_s), int(start))
    except ValueError:
        raise ValueError("after: not the `next` of a page") from None


def require_key(key: str) -> None:
    """Raise `ValueError` unless `key` may be one."""
    if not 1 <= len(key) <= MAX_KEY_CHARS or not _KEY_TEXT.fullmatch(key):
        raise ValueError(f"a key has 1 to {MAX_KEY_CHARS} characters of A-Z a-z 0-9 . _ : / @ + = -, not {key[:40]!r}")


def require_value(value: bytes) -> None:
    """Raise `ValueError` for values beyond `MAX_VALUE_BYTES`."""
    if len(value) > MAX_VALUE_BYTES:
        raise ValueError(f"a value has at most {MAX_VALUE_BYTES} bytes, not {len(value)}")


def require_ttl(ttl_s: float | None) -> None:
    """Raise `ValueError` unless `ttl_s` is a time to live."""
    if ttl_s is not None and not 0.001 <= ttl_s <= MAX_SECONDS:
        raise ValueError(f"a time to live has 0.001 to {MAX_SECONDS} seconds, not {ttl_s}")


def require_page(prefix: str, limit: int) -> None:
    """Raise `ValueError` unless a scan may ask for this."""
    if len(prefix) > MAX_KEY_CHARS or not _KEY_TEXT.fullmatch(prefix):
        raise ValueError(f"a prefix is empty or the beginning of a key, not {prefix[:40]!r}")
    if not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"a page has 1 to {MAX_PAGE} items, not {limit}")


def require_additions(additions: Sequence[Addition], batch: str) -> None:
    """Raise `ValueError` for what `Store.add` does not take."""
    _require_length(additions)
    if batch:
        require_key(batch)
    for each in additions:
        _require_counter(each.key, each.window_s)
        if not -MAX_AMOUNT <= each.amount <= MAX_AMOUNT or not 0 <= each.keep_s <= MAX_SECONDS:
            raise ValueError(f"{each.key}: amount {each.amount} or keep_s {each.keep_s} is out of range")
        if each.start is not None and (each.start < 0 or find_window_start(each.start, each.window_s) != each.start):
            raise ValueError(f"{each.key}: no window of {each.window_s} s begins at {each.start}")


def require_claims(claims: Sequence[Claim]) -> None:
    """Raise `ValueError` for what `Store.take` does not take."""
    _require_length(claims)
    for each in claims:
        _require_counter(each.key, each.window_s)
        if not 0 <= each.amount <= MAX_AMOUNT or not 0 <= each.limit <= MAX_AMOUNT:
            raise ValueError(f"{each.key}: amount {each.amount} or limit {each.limit} is out of range")
    if len({(each.key, each.window_s) for each in claims}) != len(claims):
        raise ValueError("two claims are of one counter")


def require_slots(key: str, slots: int, ttl_s: float) -> None:
    """Raise `ValueError` for what `Store.acquire` does not take."""
    require_key(key)
    require_ttl(ttl_s)
    if not 1 <= slots <= 100_000:
        raise ValueError(f"a key has 1 to 100000 places, not {slots}")


def _require_length(batch: Sequence[object]) -> None:
    if len(batch) > MAX_BATCH:
        raise ValueError(f"one call takes at most {MAX_BATCH} counters, not {len(batch)}")


def _require_counter(key: str, window_s: int) -> None:
    require_key(key)
    if not 0 <= window_s <= MAX_SECONDS:
        raise ValueError(f"{key}: a window has 0 to {MAX_SECONDS} seconds, not {window_s}")


def measure_wait_s(now: float, claims: Sequence[Claim], sums: Sequence[int]) -> float:
    """Return the seconds until claims on counters with these sums may all succeed; 0: now, infinity: never."""
    wait = 0.0
    for claim, total in zip(claims, sums, strict=True):
        if claim.amount > claim.limit:
            return math.inf
        if total + claim.amount > claim.limit:
            wait = max(wait, measure_reset_s(now, claim.window_s, find_window_start(now, claim.window_s)))
    return wait
