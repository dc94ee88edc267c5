"""What each call of the store does in SQLite, inside a transaction of its caller. Arguments have been checked."""

import secrets
import sqlite3
from collections.abc import Sequence

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
    write_count_cursor,
)

SWEPT_ROWS = 100
"""Expired rows that one sweep removes of each table."""
_BEHIND = "\x7f"
"""Sorts behind every character of a key."""
_SWEEPS = (
    "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries WHERE expires <= ? LIMIT ?)",
    "DELETE FROM counts WHERE (key, window_s, start) IN (SELECT key, window_s, start FROM counts WHERE expires <= ? LIMIT ?)",
    "DELETE FROM leases WHERE (key, token) IN (SELECT key, token FROM leases WHERE expires <= ? LIMIT ?)",
    "DELETE FROM batches WHERE name IN (SELECT name FROM batches WHERE expires <= ? LIMIT ?)",
)


def get(database: sqlite3.Connection, now: float, key: str) -> bytes | None:
    """See `Store.get`."""
    row = database.execute("SELECT value FROM entries WHERE key = ? AND (expires IS NULL OR expires > ?)", (key, now)).fetchone()
    return None if row is None else row[0]


def put(database: sqlite3.Connection, now: float, key: str, value: bytes, ttl_s: float | None) -> None:
    """See `Store.put`."""
    database.execute(
        "INSERT INTO entries (key, value, expires) VALUES (?, ?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires",
        (key, value, None if ttl_s is None else now + ttl_s),
    )


def delete(database: sqlite3.Connection, now: float, key: str) -> bool:
    """See `Store.delete`."""
    row = database.execute("DELETE FROM entries WHERE key = ? RETURNING expires IS NULL OR expires > ?", (key, now)).fetchone()
    return row is not None and bool(row[0])


def scan(database: sqlite3.Connection, now: float, prefix: str, limit: int, after: str) -> Page[Entry]:
    """See `Store.scan`."""
    rows = database.execute(
        "SELECT key, value, expires FROM entries WHERE key >= ? AND key < ? AND key > ? AND (expires IS NULL OR expires > ?) "
        "ORDER BY key LIMIT ?",
        (prefix, prefix + _BEHIND, after, now, limit + 1),
    )
    items: list[Entry] = []
    size = 0
    for row in rows:
        if len(items) == limit or size > MAX_PAGE_BYTES:
            return Page(tuple(items), items[-1].key)
        items.append(Entry(*row))
        size += len(row[1])
    return Page(tuple(items), None)


def add(database: sqlite3.Connection, now: float, additions: Sequence[Addition], batch: str) -> list[Tally]:
    """See `Store.add`."""
    counts = not batch or _remember(database, now, batch)
    return [_add(database, now, each, each.amount if counts else 0) for each in additions]


def _remember(database: sqlite3.Connection, now: float, batch: str) -> bool:
    """Note a batch's name; return whether it is new."""
    done = database.execute(
        "INSERT INTO batches (name, expires) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET expires = excluded.expires WHERE expires <= ?",
        (batch, now + BATCH_KEPT_S, now),
    )
    return done.rowcount == 1


def _add(database: sqlite3.Connection, now: float, addition: Addition, amount: int) -> Tally:
    start = find_window_start(now, addition.window_s) if addition.start is None else addition.start
    place = (addition.key, addition.window_s, start)
    expires = compute_expiry(addition.window_s, start, addition.keep_s)
    if addition.start is not None and addition.window_s and start + addition.window_s <= now:  # it ended; is it still kept?
        row = database.execute("SELECT expires FROM counts WHERE key = ? AND window_s = ? AND start = ?", place).fetchone()
        expires = expires if row is None else row[0]
        if expires is not None and expires <= now:
            return Tally(start, 0, 0.0)
    row = database.execute(
        "INSERT INTO counts (key, window_s, start, sum, expires) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (key, window_s, start) DO UPDATE SET sum = sum + excluded.sum RETURNING sum",
        (*place, amount, expires),
    ).fetchone()
    return Tally(start, row[0], measure_reset_s(now, addition.window_s, start))


def take(database: sqlite3.Connection, now: float, claims: Sequence[Claim]) -> Taken:
    """See `Store.take`."""
    starts = [find_window_start(now, claim.window_s) for claim in claims]
    sums = []
    for claim, start in zip(claims, starts, strict=True):
        row = database.execute(
            "SELECT sum FROM counts WHERE key = ? AND window_s = ? AND start = ?", (claim.key, claim.window_s, start)
        ).fetchone()
        sums.append(0 if row is None else row[0])
    wait = measure_wait_s(now, claims, sums)
    if not wait:
        granted = (_add(database, now, Addition(each.key, each.amount, each.window_s), each.amount) for each in claims)
        return Taken(True, 0.0, tuple(granted))
    tallies = (
        Tally(start, total, measure_reset_s(now, claim.window_s, start))
        for claim, start, total in zip(claims, starts, sums, strict=True)
    )
    return Taken(False, wait, tuple(tallies))


def scan_counts(database: sqlite3.Connection, now: float, prefix: str, limit: int, after: str) -> Page[Count]:
    """See `Store.scan_counts`."""
    last = parse_count_cursor(after)
    rows = database.execute(
        "SELECT key, window_s, start, sum, expires FROM counts WHERE key >= ? AND key < ? AND (key, window_s, start) > (?, ?, ?) "
        "AND (expires IS NULL OR expires > ?) ORDER BY key, window_s, start LIMIT ?",
        (prefix, prefix + _BEHIND, *last, now, limit + 1),
    ).fetchall()
    items = tuple(Count(*row) for row in rows[:limit])
    more = len(rows) > limit
    return Page(items, write_count_cursor(items[-1].key, items[-1].window_s, items[-1].start) if more else None)


def acquire(database: sqlite3.Connection, now: float, key: str, slots: int, ttl_s: float) -> Lease | None:
    """See `Store.acquire`."""
    database.execute("DELETE FROM leases WHERE key = ? AND expires <= ?", (key, now))
    lease = Lease(key, secrets.token_hex(16))
    done = database.execute(
        "INSERT INTO leases (key, token, expires) SELECT ?, ?, ? WHERE (SELECT count(*) FROM leases WHERE key = ?) < ?",
        (key, lease.token, now + ttl_s, key, slots),
    )
    return lease if done.rowcount == 1 else None


def renew(database: sqlite3.Connection, now: float, lease: Lease, ttl_s: float) -> bool:
    """See `Store.renew`."""
    done = database.execute(
        "UPDATE leases SET expires = ? WHERE key = ? AND token = ? AND expires > ?", (now + ttl_s, lease.key, lease.token, now)
    )
    return done.rowcount == 1


def release(database: sqlite3.Connection, now: float, lease: Lease) -> bool:
    """See `Store.release`."""
    row = database.execute(
        "DELETE FROM leases WHERE key = ? AND token = ? RETURNING expires > ?", (lease.key, lease.token, now)
    ).fetchone()
    return row is not None and bool(row[0])


def sweep(database: sqlite3.Connection, now: float) -> bool:
    """Delete some expired rows of each table; return whether there may be more."""
    return any([database.execute(each, (now, SWEPT_ROWS)).rowcount == SWEPT_ROWS for each in _SWEEPS])
