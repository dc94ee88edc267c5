"""Kept answers: their bounds, their owners, and what becomes of them while the store is away."""

import asyncio
from itertools import count

import pytest

from serve_app.archive import UNIT_BYTES, Archive
from serve_app.errors import StoreUnavailable
from serve_app.store.base import Entry
from serve_app.store.memory import MemoryStore
from serve_app.store_config import ResponsesSettings

HOUR = 3600.0


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class AwayStore(MemoryStore):
    away = False

    def _now(self) -> float:
        if self.away:
            raise StoreUnavailable("the store is away; try again", reason="away")
        return super()._now()


async def _entries(store: MemoryStore) -> list[Entry]:
    found, after = [], ""
    while True:
        page = await store.scan("responses/", limit=1000, after=after)
        found += page.items
        if page.next is None:
            return found
        after = page.next


def _build(store: MemoryStore | None = None, **settings: object) -> Archive:
    return Archive(store or MemoryStore(), ResponsesSettings.model_validate(settings))


async def test_an_answer_is_read_by_its_owner_only() -> None:
    archive = _build()
    mine, other = archive.belonging_to("alice"), archive.belonging_to("bob")
    key = await mine.reserve()
    assert len(key) == 38
    assert await mine.read(key) is None  # reserved, not written
    assert await mine.write(key, b"hello")
    assert await mine.read(key) == b"hello"
    assert await other.read(key) is None
    assert not await other.delete(key)
    for wrong in ("", key[:-1], key.upper() + "0", "0" * 32 + key[32:], key[:32] + "zzzzzz"):
        assert await mine.read(wrong) is None, wrong
    assert await mine.write(key, b"hello again")
    assert await mine.read(key) == b"hello again"
    assert await mine.delete(key)
    assert await mine.read(key) is None
    assert not await mine.delete(key)


async def test_nothing_of_a_deleted_answer_stays() -> None:
    store = MemoryStore()
    mine = _build(store).belonging_to("alice")
    key = await mine.reserve()
    await mine.write(key, b"x" * (3 * UNIT_BYTES + 5))
    assert len(await _entries(store)) == 5
    await mine.delete(key)
    assert await _entries(store) == []


@pytest.mark.parametrize("size", [0, 1, UNIT_BYTES - 1, UNIT_BYTES, UNIT_BYTES + 1, 3 * UNIT_BYTES + 7])
async def test_sizes(size: int) -> None:
    mine = _build().belonging_to("alice")
    key, value = await mine.reserve(), bytes(each % 251 for each in range(size))
    assert await mine.write(key, value)
    assert await mine.read(key) == value


async def test_ten_thousand_answers_stay_within_the_bounds() -> None:
    store = MemoryStore()
    most, most_bytes = 1000, 8 << 20
    mine = _build(store, max_count=most, max_bytes=most_bytes).belonging_to("alice")
    keys = []
    for at in range(10_000):
        key = await mine.reserve()
        assert await mine.write(key, b"%d" % at + b"." * (UNIT_BYTES * (at % 3)))
        keys.append(key)
    entries = await _entries(store)
    assert sum(entry.key.startswith("responses/head/") for entry in entries) <= most
    assert sum(len(entry.value) for entry in entries if entry.key.startswith("responses/unit/")) <= most_bytes * 1.01
    kept = [await mine.read(key) for key in keys]
    newest = next(at for at in count(1) if kept[-at] is None) - 1
    assert newest >= 60  # 128 units, two an answer
    assert all(each is None for each in kept[:-newest])
    assert all(each is not None and each.startswith(b"%d." % at) for at, each in list(enumerate(kept))[-newest:] if at % 3)


async def test_one_answer_takes_a_quarter_at_most() -> None:
    mine = _build(max_bytes=4 << 20).belonging_to("alice")
    assert await mine.write(await mine.reserve(), b"x" * (1 << 20))
    assert not await mine.write(await mine.reserve(), b"x" * ((1 << 20) + 1))


async def test_an_answer_ends_with_its_time() -> None:
    clock = Clock()
    mine = _build(MemoryStore(clock=clock), days=1).belonging_to("alice")
    key = await mine.reserve()
    await mine.write(key, b"hello")
    clock.now += 23 * HOUR
    assert await mine.read(key) == b"hello"
    clock.now += 2 * HOUR
    assert await mine.read(key) is None


async def test_ingresses_share_the_rings() -> None:
    store = MemoryStore()
    ingresses = [_build(store, max_count=500).belonging_to("alice") for _ in range(3)]

    async def keep(at: int) -> str:
        archive = ingresses[at % 3]
        key = await archive.reserve()
        assert await archive.write(key, str(at).encode())
        return key

    keys = await asyncio.gather(*map(keep, range(300)))
    assert len({key[32:] for key in keys}) == 300
    assert [await ingresses[(at + 1) % 3].read(key) for at, key in enumerate(keys)] == [str(at).encode() for at in range(300)]


async def test_nothing_is_kept_where_that_is_off() -> None:
    store = MemoryStore()
    mine = _build(store, keep=False).belonging_to("alice")
    assert await mine.reserve() == ""
    assert not await mine.write("0" * 38, b"x")
    assert await _entries(store) == []


async def test_a_store_that_is_away_keeps_nothing_and_says_so_to_readers() -> None:
    store = AwayStore()
    mine = _build(store).belonging_to("alice")
    key = await mine.reserve()
    await mine.write(key, b"hello")
    store.away = True
    assert await mine.reserve() == ""
    assert not await mine.write(key, b"x")
    with pytest.raises(StoreUnavailable):
        await mine.read(key)
