"""Kept answers over every kind of store, two processes' worth of connections to one of them."""

import asyncio
from collections.abc import Callable

import pytest

from serve_app.archive import UNIT_BYTES, Archive
from serve_app.store.base import Store
from serve_app.store_config import ResponsesSettings
from tests.store.conftest import STORES

BOUNDS = ResponsesSettings(max_count=50, max_bytes=1 << 20)


async def test_kept_answers(store: Store) -> None:
    mine = Archive(store, BOUNDS).belonging_to("alice")
    keys = [await mine.reserve() for _ in range(60)]
    for at, key in enumerate(keys):
        assert await mine.write(key, b"%d" % at + bytes(at % 2 * UNIT_BYTES))
    assert await mine.read(keys[-1]) == b"59" + bytes(UNIT_BYTES)
    assert await mine.read(keys[0]) is None
    assert await mine.delete(keys[-1])
    assert await mine.read(keys[-1]) is None
    entries = (await store.scan("responses/", limit=1000)).items
    assert sum(entry.key.startswith("responses/head/") for entry in entries) <= BOUNDS.max_count
    assert sum(len(entry.value) for entry in entries if entry.key.startswith("responses/unit/")) <= BOUNDS.max_bytes * 1.01


@pytest.mark.parametrize("kind", [kind for kind in STORES if kind != "memory"])
async def test_another_ingress_reads_what_one_kept(kind: str, opener: Callable[..., Store]) -> None:
    stores = [opener(kind), opener(kind)]
    first, second = (Archive(each, BOUNDS).belonging_to("alice") for each in stores)
    keys = await asyncio.gather(*(each.reserve() for each in (first, second) * 5))
    assert len({key[32:] for key in keys}) == 10
    await asyncio.gather(*(each.write(key, key.encode()) for each, key in zip((first, second) * 5, keys, strict=True)))
    assert [await each.read(key) for each, key in zip((second, first) * 5, keys, strict=True)] == [key.encode() for key in keys]
    for each in stores:
        await each.close()
