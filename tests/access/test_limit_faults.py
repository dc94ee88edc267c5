"""Limits and usage while stores are slow, calls are cancelled, and files are odd: what a hostile review found."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from serve_app.access.journal import Journal
from serve_app.access.limits import Limiter
from serve_app.access_config import AccessSettings
from serve_app.errors import QuotaExceeded, StoreUnavailable
from serve_app.store.base import Claim
from serve_app.store.memory import MemoryStore
from tests.access.test_limits import _caller, _Clock, _limiter, _reserve, tend
from tests.access.test_usage import BOB, _book, _record


class _Slow(MemoryStore):
    """A store whose calls are on their way for a while, as those of Redis and SQLite are."""

    delay = 0.0
    gate: asyncio.Event | None = None
    fails = 0

    async def _wait(self) -> None:
        await asyncio.sleep(self.delay)
        if self.gate is not None:
            await self.gate.wait()

    async def take(self, claims):  # type: ignore[no-untyped-def]
        taken = await super().take(claims)
        await self._wait()
        return taken

    async def acquire(self, key, *, slots, ttl_s):  # type: ignore[no-untyped-def]
        lease = await super().acquire(key, slots=slots, ttl_s=ttl_s)
        await self._wait()
        return lease

    async def release(self, lease):  # type: ignore[no-untyped-def]
        await self._wait()
        return await super().release(lease)


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


async def _sum(store: MemoryStore, key: str) -> int:
    return (await MemoryStore.take(store, [Claim(key, 0, 2**53 - 1, 60)])).tallies[0].sum


async def hand_out_at_once(limiter: Limiter, asked: int = 20) -> int:
    """Return the tokens that requests at once get of 1000, of which 490 were given back a moment before."""
    caller = _caller(tokens_per_minute=1000)
    (await _reserve(limiter, caller, 10, 490)).settle(10)

    async def ask() -> int:
        with suppress(QuotaExceeded):
            await _reserve(limiter, caller, 10, 490)
            return 500
        return 0

    return 10 + sum(await asyncio.gather(*(ask() for _ in range(asked))))


@pytest.mark.parametrize("share", [0.0, 0.05])
async def test_concurrent_requests_share_no_leftover(clock: _Clock, share: float) -> None:
    assert await hand_out_at_once(_limiter(_Slow(clock=clock), clock, share)) <= 1000


async def test_answers_that_outlast_the_minute_count(clock: _Clock) -> None:
    """Three answers of 4000 tokens begin in every minute; each ends a minute and a bit later. The quota is 1000."""
    store = MemoryStore(clock=clock)
    limiter, caller = _limiter(store, clock), _caller(tokens_per_minute=1000)
    used = 0
    for _ in range(10):
        held = []
        with suppress(QuotaExceeded):
            for _ in range(5):
                held.append(await _reserve(limiter, caller, 100, 128))
        clock.now += 61
        for each in held:
            each.settle(4100)
            used += 4100
        await tend(limiter)
    assert used <= 2 * 10 * 1000, used


async def test_a_cancelled_reservation_gives_its_tokens_back(clock: _Clock) -> None:
    store = _Slow(clock=clock)
    store.gate = asyncio.Event()
    limiter, caller = _limiter(store, clock), _caller(tokens_per_minute=1000)
    asked = asyncio.ensure_future(_reserve(limiter, caller, 900, 0))
    await asyncio.sleep(0.01)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    store.gate.set()
    await asyncio.sleep(0.01)
    await tend(limiter)
    assert await _sum(store, "tokens/key/bob") == 0


async def test_a_cancelled_reservation_gives_its_place_back(clock: _Clock) -> None:
    store = _Slow(clock=clock)
    store.gate = asyncio.Event()
    limiter, caller = _limiter(store, clock), _caller(concurrent=1)
    asked = asyncio.ensure_future(_reserve(limiter, caller, 1, 1))
    await asyncio.sleep(0.01)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    store.gate.set()
    await asyncio.sleep(0.01)
    await tend(limiter)
    clock.now += 2
    await tend(limiter)
    await _reserve(limiter, caller, 1, 1)


async def test_a_block_that_ends_meanwhile_is_no_unforeseen_error(clock: _Clock) -> None:
    store = _Slow(clock=clock)
    limiter, caller = _limiter(store, clock), _caller(requests_per_minute=5, tokens_per_minute=1000)
    (await _reserve(limiter, caller, 10, 10)).settle(20, counts=False)  # one request is left over
    store.gate = asyncio.Event()
    asked = asyncio.ensure_future(_reserve(limiter, caller, 10, 10))
    await asyncio.sleep(0.01)
    clock.now += 60
    await tend(limiter)
    store.gate.set()
    await asked


async def test_an_outage_meanwhile_is_no_unforeseen_error(clock: _Clock) -> None:
    store = _Slow(clock=clock)
    limiter, caller = _limiter(store, clock), _caller(requests_per_minute=5, tokens_per_minute=1000)
    (await _reserve(limiter, caller, 10, 10)).settle(20, counts=False)
    store.gate = asyncio.Event()
    asked = asyncio.ensure_future(_reserve(limiter, caller, 10, 10))
    await asyncio.sleep(0.01)
    limiter.note_failure(StoreUnavailable("another request's call was lost", reason="busy"))
    store.gate.set()
    await asked


async def test_more_than_a_thousand_keys_settle(clock: _Clock) -> None:
    store = MemoryStore(clock=clock)
    limiter = _limiter(store, clock)
    for at in range(1001):
        (await _reserve(limiter, _caller(f"k{at}", tokens_per_minute=1000), 10, 500)).settle(20)
    await tend(limiter)
    assert await _sum(store, "tokens/key/k1000") == 20


async def test_a_tokens_flap_of_the_store_returns_what_was_reserved(clock: _Clock) -> None:
    store = MemoryStore(clock=clock)
    limiter, caller = _limiter(store, clock), _caller(tokens_per_minute=1000)
    held = await _reserve(limiter, caller, 10, 900)
    limiter.note_failure(StoreUnavailable("busy", reason="busy"))  # one lost call
    held.settle(20)
    clock.now += 1.1
    await tend(limiter)
    await _reserve(limiter, caller, 10, 100)
    await tend(limiter)
    assert await _sum(store, "tokens/key/bob") == 130


async def test_overuse_survives_a_failed_settlement(clock: _Clock) -> None:
    class _Fails(MemoryStore):
        fails = False

        async def add(self, additions, *, batch=""):  # type: ignore[no-untyped-def]
            if self.fails:
                raise StoreUnavailable("busy", reason="busy")
            return await super().add(additions, batch=batch)

    store = _Fails(clock=clock)
    limiter, caller = _limiter(store, clock), _caller(tokens_per_minute=1000)
    (await _reserve(limiter, caller, 10, 10)).settle(5000)
    store.fails = True
    await tend(limiter)
    store.fails = False
    clock.now += 1.1
    with pytest.raises(QuotaExceeded):
        await _reserve(limiter, caller, 10, 10)


async def test_a_lost_place_is_taken_anew(clock: _Clock) -> None:
    """The store forgot the lease (Redis restarted): the request goes on without a place for as long as it lasts."""
    store = MemoryStore(clock=clock)
    limiter, caller = _limiter(store, clock), _caller(concurrent=1)
    await _reserve(limiter, caller, 1, 1)
    store._leases.clear()
    for _ in range(4):
        clock.now += 5
        await tend(limiter)
    with pytest.raises(QuotaExceeded):
        await _reserve(limiter, caller, 1, 1)


POISON = [
    '{"k":"bob","m":"phi","d":1,"f":[1,0,10,4,7,750]}',
    '{"k":"bob","m":"phi","d":-86400,"f":[1,0,10,4,7,750]}',
    '{"k":"bob","m":"phi","d":0,"f":[1,0,10,4,99999999999999999999,750]}',
]


@pytest.mark.parametrize("line", POISON)
async def test_a_foreign_line_does_not_stop_usage_for_good(tmp_path: Path, line: str) -> None:
    (tmp_path / "left.jsonl").write_text(line + "\n")
    book = _book(MemoryStore(), tmp_path)
    book.note(_record())
    for _ in range(3):
        with suppress(ValueError):
            await book.flush()
    assert BOB in await book.read()


async def test_a_folder_in_the_journal_costs_no_usage(tmp_path: Path) -> None:
    store = MemoryStore()
    left = _book(store, tmp_path)
    left.note(_record())
    left._journal._own.release()  # its process was killed
    (tmp_path / "0.jsonl").mkdir()
    book = _book(store, tmp_path)
    with suppress(OSError):
        await book.flush()
    book._adopted_at = float("-inf")  # 30 s later
    assert BOB in await book.read()


async def test_a_short_write_costs_no_other_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    store = MemoryStore()
    left = _book(store, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("serve_app.access.journal.os.write", lambda file, line, write=os.write: write(file, line[:20]))
        left.note(_record("alice"))
    left.note(_record())
    left._journal._own.release()
    assert BOB in await _book(store, tmp_path).read()


async def test_an_adopter_between_creation_and_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ingress adopts the empty file before its owner locks it: the owner writes into a deleted file."""
    import fcntl

    real, other = fcntl.flock, Journal(tmp_path)

    def late(file: int, how: int) -> None:
        monkeypatch.setattr("serve_app.access.journal.fcntl.flock", real)
        for segment in other.adopt():
            segment.remove()
        real(file, how)

    monkeypatch.setattr("serve_app.access.journal.fcntl.flock", late)
    journal = Journal(tmp_path)
    journal.write(b"{}")
    assert len(list(tmp_path.iterdir())) == 1


def test_models_limits_are_bounded() -> None:
    with pytest.raises(ValueError, match="less than"):
        AccessSettings.model_validate({"models": {"phi": {"tokens_per_minute": 10**18}}})
