"""The SQLite store when its file is locked, full, damaged, newer or gone."""

import asyncio
import os
import resource
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from serve_app.errors import StoreUnavailable
from serve_app.store import sqlite_schema
from serve_app.store.base import Addition, Claim
from serve_app.store.sqlite import SqliteStore
from serve_app.store.sqlite_calls import SWEPT_ROWS
from serve_app.store.sqlite_schema import FILE
from serve_app.store.sqlite_thread import MAX_WAITING


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "state", timeout_s=0.6, clock=clock)
    yield opened
    await opened.close()


def _connect(tmp_path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(tmp_path / "state" / FILE, isolation_level=None, timeout=10))


async def test_a_locked_file_is_busy_within_the_time_limit_and_then_usable(store: SqliteStore, tmp_path: Path) -> None:
    await store.put("a", b"1")
    with _connect(tmp_path) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        outcomes = await asyncio.gather(*(store.add([Addition("c", 1)]) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(each, StoreUnavailable) and each.reason == "busy" for each in outcomes)
        assert time.monotonic() - began < 1.5
        with pytest.raises(StoreUnavailable):
            await store.put("a", b"2")
        other.execute("COMMIT")
    await asyncio.sleep(0.7)  # calls that were given up do not happen later
    assert await store.get("a") == b"1"
    assert [tally.sum for tally in await store.add([Addition("c", 1)])] == [1]


async def test_reading_needs_no_lock(store: SqliteStore, tmp_path: Path) -> None:
    await store.put("a", b"1")
    with _connect(tmp_path) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await store.get("a") == b"1"


async def test_the_event_loop_never_waits(store: SqliteStore, tmp_path: Path) -> None:
    await store.put("a", b"1")
    with _connect(tmp_path) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(store.put("a", b"2"))
        longest = 0.0
        while not waiting.done():
            began = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - began)
        assert isinstance(waiting.exception(), StoreUnavailable)
        assert longest < 0.25


async def test_too_many_waiting_calls_are_refused(store: SqliteStore, tmp_path: Path) -> None:
    await store.put("a", b"1")
    with _connect(tmp_path) as other:
        other.execute("BEGIN IMMEDIATE")
        calls = [asyncio.ensure_future(store.put("a", b"2")) for _ in range(MAX_WAITING + 500)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, StoreUnavailable) and each.reason == "busy" for each in outcomes)
    assert await store.get("a") == b"1"


async def test_a_full_file_says_so_and_can_be_emptied(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state", max_bytes=400_000)
    puts = [store.put(f"k{number}", bytes(10_000)) for number in range(50)]
    outcomes = [await asyncio.gather(put, return_exceptions=True) for put in puts]
    written = sum(each == [None] for each in outcomes)
    assert isinstance(error := outcomes[written][0], StoreUnavailable)
    assert error.reason == "full"
    assert 20 < written < 40
    assert await store.get(f"k{written - 1}") == bytes(10_000)
    assert await store.get(f"k{written}") is None
    assert await store.delete("k0")
    await store.put("k0", bytes(9_000))
    await store.close()


async def test_a_full_disk_is_an_error_in_time(store: SqliteStore, tmp_path: Path) -> None:
    """The file-size limit stands for the disk: SQLite meets it at the same write."""
    await store.add([Addition("c", 5)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await store.put("big", bytes(1_000_000))
        assert caught.value.reason in ("full", "away")
        assert [count.sum for count in (await store.scan_counts("c")).items] == [5]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    await store.put("big", bytes(1_000_000))
    assert [tally.sum for tally in await store.add([Addition("c", 1)])] == [6]


async def test_a_newer_file_is_refused_in_a_sentence(store: SqliteStore, tmp_path: Path) -> None:
    await store.put("a", b"1")
    await store.close()
    with _connect(tmp_path) as other:
        other.execute("PRAGMA user_version = 7")
    later = SqliteStore(tmp_path / "state")
    with pytest.raises(
        StoreUnavailable, match=r"state.sqlite3 has version 7 .* knows 1 at most. Use the newer phi-serve"
    ) as caught:
        await later.check()
    assert caught.value.reason == "broken"
    await later.close()


async def test_an_older_file_is_migrated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SqliteStore(tmp_path / "state")
    await first.put("a", b"1")
    await first.close()
    script = "ALTER TABLE entries ADD COLUMN note TEXT; UPDATE entries SET note = 'migrated'"
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, script))
    monkeypatch.setattr(sqlite_schema, "VERSION", 2)
    for _ in range(2):
        second = SqliteStore(tmp_path / "state")
        assert await second.get("a") == b"1"
        await second.close()
    with _connect(tmp_path) as other:
        assert other.execute("SELECT note FROM entries").fetchall() == [("migrated",)]
        assert other.execute("PRAGMA user_version").fetchone() == (2,)


@pytest.mark.parametrize("content", [b"no database at all" * 300, b"SQLite format 3\0" + bytes(5000)])
async def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE).write_bytes(content)
    store = SqliteStore(tmp_path / "state")
    with pytest.raises(StoreUnavailable, match="damaged") as caught:
        await store.get("a")
    assert caught.value.reason == "broken"
    assert (tmp_path / "state" / FILE).read_bytes() == content
    await store.close()


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with _connect(tmp_path) as other:
        other.execute("PRAGMA user_version = 1")
    store = SqliteStore(tmp_path / "state")
    with pytest.raises(StoreUnavailable, match="another program's"):
        await store.get("a")
    await store.close()


async def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "elsewhere").touch()
    (tmp_path / "state" / FILE).symlink_to(tmp_path / "elsewhere")
    store = SqliteStore(tmp_path / "state")
    with pytest.raises(StoreUnavailable, match="not a regular file"):
        await store.put("a", b"1")
    assert (tmp_path / "elsewhere").read_bytes() == b""
    await store.close()


async def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = SqliteStore(tmp_path / "file" / "state")
    with pytest.raises(StoreUnavailable, match="operator") as caught:
        await store.put("a", b"1")
    assert caught.value.reason == "away"
    assert str(tmp_path) not in caught.value.message
    await store.close()


async def test_files_are_this_users_only(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / FILE).touch(mode=0o644)
    await store.put("a", b"1")
    files = list((tmp_path / "state").iterdir())
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_a_removed_file_is_made_anew(store: SqliteStore, tmp_path: Path) -> None:
    await store.put("a", b"1")
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    await asyncio.sleep(1.1)
    assert await store.get("a") is None
    await store.put("b", b"2")
    with _connect(tmp_path) as other:
        assert other.execute("SELECT key FROM entries").fetchall() == [("b",)]


async def test_expired_rows_go_in_small_pieces(store: SqliteStore, tmp_path: Path, clock: Clock) -> None:
    for number in range(0, 3 * SWEPT_ROWS, 50):
        await asyncio.gather(*(store.put(f"k{each}", b"1", ttl_s=60) for each in range(number, number + 50)))
    await store.take([Claim("t", 1, 5, 60)])
    await store.add([Addition("kept", 1, 60, keep_s=86400 * 30)], batch="b")
    await store.acquire("p", slots=1, ttl_s=60)
    clock.now += 2 * 86400
    assert (await store.scan("")).items == ()
    left = [3 * SWEPT_ROWS]
    await asyncio.sleep(1.1)
    while left[-1]:
        await store.put("now", b"1")
        with _connect(tmp_path) as other:
            left.append(other.execute("SELECT count(*) FROM entries WHERE key LIKE 'k%'").fetchone()[0])
    assert left == [300, 200, 100, 0]
    with _connect(tmp_path) as other:
        assert other.execute("SELECT key FROM counts").fetchall() == [("kept",)]
        assert other.execute("SELECT (SELECT count(*) FROM leases) + (SELECT count(*) FROM batches)").fetchone() == (0,)


async def test_windows_follow_the_clock(store: SqliteStore, clock: Clock) -> None:
    claim = Claim("t", 5, 5, 60)
    clock.now = 1_800_000_059.5
    assert (await store.take([claim])).granted
    assert (await store.take([claim])).retry_after_s == 0.5
    clock.now += 0.5
    assert (await store.take([claim])).tallies[0].start == 1_800_000_060


async def test_a_cancelled_caller_disturbs_nobody(store: SqliteStore) -> None:
    calls = [asyncio.ensure_future(store.add([Addition("c", 1)])) for _ in range(10)]
    await asyncio.sleep(0)
    calls[3].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(each, asyncio.CancelledError) for each in outcomes) == 1
    assert max(each[0].sum for each in outcomes if isinstance(each, list)) in (9, 10)


async def test_closing_lets_waiting_calls_end(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state")
    calls = [asyncio.ensure_future(store.add([Addition("c", 1)])) for _ in range(100)]
    await asyncio.sleep(0)
    await store.close()
    assert [len(tallies) for tallies in await asyncio.gather(*calls)] == [1] * 100
    assert not [name for name in os.listdir(tmp_path / "state") if name != FILE]  # the last connection folded the log in
