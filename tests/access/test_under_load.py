"""Limits and usage under load, in real stores and with slow ones."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.access.accounts import Accounts
from serve_app.access.limits import Limiter
from serve_app.access_config import AccessSettings
from serve_app.store.base import Store
from serve_app.store.memory import MemoryStore
from serve_app.store.sqlite import SqliteStore
from tests.access.test_limit_faults import hand_out_at_once
from tests.access.test_limits import _caller, _reserve
from tests.access.test_usage import DAY, _book, _record


async def test_concurrent_requests_share_no_leftover_in_sqlite(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    handed_out = await hand_out_at_once(Limiter(store, models={}, share=0.0, fail_open=False))
    await store.close()
    assert handed_out <= 1000, handed_out


async def test_usage_is_added_once_a_second_not_with_every_request() -> None:
    """Each freed place wakes `_tend`, which flushes usage too: a batch's name per request stays in the store for a day."""
    store = MemoryStore()
    accounts = Accounts.build(AccessSettings(journal_dir=None), store, share=0.0)
    accounts.start()
    caller, until = _caller(concurrent=500), time.monotonic() + 2

    async def work() -> None:
        while time.monotonic() < until:
            held = await _reserve(accounts.limiter, caller, 1, 1)
            await asyncio.sleep(random.uniform(0.01, 0.05))
            accounts.usage.note(_record())
            held.settle(1)

    await asyncio.gather(*(work() for _ in range(10)))
    await accounts.close()
    assert len(store._batches) <= 4, len(store._batches)


async def test_adopting_a_long_segment_does_not_stop_the_loop(tmp_path: Path) -> None:
    """What an ingress leaves after twenty minutes without the store at 50 requests a second."""
    line = json.dumps(["bob", "phi", DAY, 1, 0, 10, 4, 7, 750])
    (tmp_path / "left.jsonl").write_text((line + "\n") * 60_000)
    book = _book(MemoryStore(), tmp_path)
    began = time.perf_counter()
    flushing = asyncio.ensure_future(book.flush())
    await asyncio.sleep(0)
    blocked = time.perf_counter() - began
    await flushing
    whole = time.perf_counter() - began
    assert (await book.read())[0].requests == 60_000
    assert blocked < whole / 5, (blocked, whole)


async def test_usage_read_during_a_flush_is_complete(tmp_path: Path) -> None:
    class _SlowAdd(MemoryStore):
        async def add(self, additions, *, batch=""):  # type: ignore[no-untyped-def]
            await asyncio.sleep(0.05)
            return await super().add(additions, batch=batch)

    book = _book(_SlowAdd(), tmp_path)
    book.note(_record())
    flushing = asyncio.ensure_future(book.flush())
    await asyncio.sleep(0.01)
    (bob,) = await book.read() or (None,)
    await flushing
    assert bob is not None


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_accounts_close_at_any_moment(opener: Callable[..., Store], kind: str, tmp_path: Path) -> None:
    """`close` once cancelled its task. Redis' client caught the cancellation, the task went on, and `close` never returned."""
    for turn in range(25):
        accounts = Accounts.build(AccessSettings(journal_dir=str(tmp_path / "j")), opener(kind, f"s{turn % 5}"), share=0.0)
        accounts.start()
        caller = _caller(requests_per_minute=1000, concurrent=50)
        held = await asyncio.gather(*(_reserve(accounts.limiter, caller, 1, 1) for _ in range(5)))
        for each in held:
            accounts.usage.note(_record())
            each.settle(1)
        await asyncio.sleep(random.uniform(0, 0.004))
        async with asyncio.timeout(5):
            await accounts.close()
