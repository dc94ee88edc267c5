"""A store's whole state as JSON lines, from any store into any store, a page at a time.

The first line has the form's version, the last one the number of lines between, so that a file that was cut off is noticed. Leases
belong to running processes, and batches' names to calls under way: neither is part of the state. An export is not one instant of a
store that is being written.
"""

import base64
import binascii
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import islice
from typing import Any

from serve_app.store.base import MAX_BATCH, MAX_VALUE_BYTES, Addition, Count, Store, find_window_start, require_key

VERSION = 1
MAX_LINE_CHARS = 2 * MAX_VALUE_BYTES
"""A value in base64 takes 4/3 of its size."""
_PAGE = 100


class InvalidState(ValueError):
    """The lines are no state that `export_state` wrote; the message has the number of the line."""


async def export_state(store: Store) -> AsyncIterator[str]:
    """Yield the lines, each with its line end; raises `StoreUnavailable`."""
    yield _line({"phi_serve_state": VERSION})
    lines = 0
    after: str | None = ""
    while after is not None:
        entries = await store.scan("", limit=_PAGE, after=after)
        for entry in entries.items:
            value = base64.b64encode(entry.value).decode()
            yield _line({"entry": entry.key, "value": value, "expires_at": entry.expires_at})
            lines += 1
        after = entries.next
    after = ""
    while after is not None:
        counts = await store.scan_counts("", limit=_PAGE, after=after)
        for count in counts.items:
            place = {"window_s": count.window_s, "start": count.start}
            yield _line({"count": count.key, **place, "sum": count.sum, "expires_at": count.expires_at})
            lines += 1
        after = counts.next
    yield _line({"end": lines})


async def import_state(store: Store, lines: Iterable[str], *, clock: Callable[[], float] = time.time) -> int:
    """Write what the lines hold, and return how many items; raises `InvalidState` and `StoreUnavailable`.

    Values and sums replace what the store has under the same keys; everything else stays. What has expired is left out. An import
    that ended early can be repeated. Nothing else may count in the meantime.
    """
    numbered = enumerate(lines, start=1)
    _require_version(next(numbered, (1, ""))[1])
    counts: list[Count] = []
    done = 0
    for number, line in numbered:
        row = _parse(number, line)
        if "end" in row:
            await _write_counts(store, counts)
            if row["end"] != number - 2 or any(text.strip() for _, text in islice(numbered, 1)):
                raise InvalidState(f"line {number}: the file has other lines than were exported")
            return done
        try:
            if "entry" in row:
                done += await _write_entry(store, row, clock())
            else:
                count = _read_count(row)
                if count.expires_at is None or count.expires_at > clock():
                    counts.append(count)
                    done += 1
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise InvalidState(f"line {number}: {type(error).__name__}: {error}"[:300]) from error
        if len(counts) == MAX_BATCH:
            await _write_counts(store, counts)
            counts.clear()
    raise InvalidState("the file ends early; export it anew")


async def _write_entry(store: Store, row: dict[str, Any], now: float) -> int:
    expires_at = row["expires_at"]
    if expires_at is not None and expires_at - now < 0.001:
        return 0
    value = base64.b64decode(row["value"], validate=True)
    await store.put(row["entry"], value, ttl_s=None if expires_at is None else expires_at - now)
    return 1


def _read_count(row: dict[str, Any]) -> Count:
    count = Count(row["count"], int(row["window_s"]), int(row["start"]), int(row["sum"]), row["expires_at"])
    require_key(count.key)
    if find_window_start(count.start, count.window_s) != count.start:
        raise ValueError("no window begins there")
    return count


async def _write_counts(store: Store, counts: list[Count]) -> None:
    """Make the store's sums these: add nothing, which returns the sums, then the differences."""
    if not counts:
        return
    tallies = await store.add([_addition(count, 0) for count in counts])
    await store.add([_addition(count, count.sum - tally.sum) for count, tally in zip(counts, tallies, strict=True)])


def _addition(count: Count, amount: int) -> Addition:
    kept_s = 0 if count.expires_at is None else max(0, round(count.expires_at - count.start - count.window_s))
    return Addition(count.key, amount, count.window_s, start=count.start, keep_s=kept_s)


def _require_version(line: str) -> None:
    version = _parse(1, line).get("phi_serve_state")
    if not isinstance(version, int):
        raise InvalidState("line 1: this is no state of phi-serve; `phi-serve state export` writes one")
    if version > VERSION:
        raise InvalidState(
            f"line 1: the state has version {version}, and this phi-serve knows {VERSION} at most; use the newer one"
        )


def _parse(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line) if len(line) <= MAX_LINE_CHARS else None
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise InvalidState(f"line {number}: not a line of a state; the file is damaged or cut off")
    return row


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":")) + "\n"
