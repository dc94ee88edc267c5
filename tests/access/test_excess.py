"""What is used beyond reservations and limits counts in later minutes; what a stop and an outage leave behind."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest

from serve_app.access.accounts import Accounts
from serve_app.access.journal import Journal
from serve_app.access.usage import UsageBook
from serve_app.errors import QuotaExceeded, StoreUnavailable
from serve_app.store.base import Claim, Taken, Tally
from serve_app.store.memory import MemoryStore
from tests.access.test_limits import _caller, _Clock, _Failing, _limiter, _reserve, tend
from tests.access.test_usage import BOB, _book, _record

SHARES = pytest.mark.parametrize("share", [0.0, 0.05])


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


class _LosesAnswers(MemoryStore):
    """Counts, and loses its answer."""

    loses = False

    async def add(self, additions, *, batch=""):  # type: ignore[no-untyped-def]
        tallies = await super().add(additions, batch=batch)
        if self.loses and additions:
            raise StoreUnavailable("busy", reason="busy")
        return tallies


async def _sum(store: MemoryStore, key: str = "tokens/key/bob") -> int:
    return (await MemoryStore.take(store, [Claim(key, 0, 2**53 - 1, 60)])).tallies[0].sum


@SHARES
async def test_excess_of_a_minutes_last_second_counts(clock: _Clock, share: float) -> None:
    limiter, caller = _limiter(MemoryStore(clock=clock), clock, share), _caller(tokens_per_minute=1000)
    used = 0
    for minute in range(10):
        clock.now = _Clock().now + 60 * minute + 20
        await tend(limiter)
        with suppress(QuotaExceeded):
            held = await _reserve(limiter, caller, 100, 128)
            clock.now += 39.5
            await tend(limiter)
            held.settle(5000)
            used += 5000
            clock.now += 1
            await tend(limiter)
    assert used <= 2 * 10 * 1000, used


@SHARES
async def test_a_burst_at_a_minutes_beginning_meets_the_excess_of_the_last_one(clock: _Clock, share: float) -> None:
    limiter, caller = _limiter(MemoryStore(clock=clock), clock, share), _caller(tokens_per_minute=1000)
    used = 0
    for minute in range(20):
        clock.now = _Clock().now + 60 * minute + 0.2
        held = []
        with suppress(QuotaExceeded):
            for _ in range(5):
                held.append(await _reserve(limiter, caller, 100, 100))
        clock.now += 0.3
        await tend(limiter)
        clock.now += 20
        for each in held:
            each.settle(600)
            used += 600
        for _ in range(3):
            clock.now += 1
            await tend(limiter)
    assert used <= 1.2 * 20 * 1000, used


async def test_excess_whose_answer_was_lost_counts_at_least_once(clock: _Clock) -> None:
    store = _LosesAnswers(clock=clock)
    limiter, caller = _limiter(store, clock), _caller(tokens_per_minute=1000)
    clock.now += 58
    (await _reserve(limiter, caller, 100, 100)).settle(5000)
    store.loses = True
    await tend(limiter)
    store.loses = False
    clock.now += 3
    await tend(limiter)
    await tend(limiter)
    assert await _sum(store) >= 4000


async def test_excess_is_forgiven_after_an_hour(clock: _Clock) -> None:
    limiter, caller = _limiter(MemoryStore(clock=clock), clock), _caller(tokens_per_minute=1000)
    (await _reserve(limiter, caller, 100, 100)).settle(10**9)
    await tend(limiter)
    clock.now += 59 * 60
    with pytest.raises(QuotaExceeded):
        await _reserve(limiter, caller, 1, 1)
    clock.now += 3 * 60
    await _reserve(limiter, caller, 1, 1)


async def test_a_used_up_quota_shows_that_the_store_is_back(clock: _Clock) -> None:
    store = _Failing(clock=clock)
    limiter, caller = _limiter(store, clock, fail_open=False), _caller(requests_per_minute=2)
    for _ in range(2):
        await _reserve(limiter, caller, 1, 1)
    limiter.note_failure(StoreUnavailable("x", reason="busy"))
    clock.now += 1.1
    with pytest.raises(QuotaExceeded):
        await _reserve(limiter, caller, 1, 1)
    assert await _reserve(limiter, _caller("alice", requests_per_minute=100), 1, 1)


@SHARES
async def test_requests_do_not_wait_for_a_hanging_store_one_after_the_other(clock: _Clock, share: float) -> None:
    class _Hangs(MemoryStore):
        async def take(self, claims: object) -> Taken:
            await asyncio.sleep(0.2)
            raise StoreUnavailable("busy", reason="busy")

    limiter, caller = _limiter(_Hangs(), clock, share), _caller(tokens_per_minute=100_000)
    began = time.monotonic()
    await asyncio.gather(*(_reserve(limiter, caller, 1, 1) for _ in range(20)))
    assert time.monotonic() - began < 20 * 0.2 / 2


async def test_a_late_answer_of_an_old_window_changes_nothing(clock: _Clock) -> None:
    limiter = _limiter(MemoryStore(clock=clock), clock, 0.05)
    counters, start = limiter._shared.counters, int(clock.now)
    new = counters._put("k", 40, 1000, Tally(start + 60, 50, 59.9))
    counters._put("k", 40, 1000, Tally(start, 50, 0.1))
    assert counters._blocks["k"] is new
    assert new.left == 40


async def test_a_stop_gives_everything_back(clock: _Clock) -> None:
    store = MemoryStore(clock=clock)
    limiter, caller = _limiter(store, clock, 0.05), _caller(tokens_per_minute=1000, concurrent=1)
    (await _reserve(limiter, caller, 1, 1)).settle(2)
    await Accounts(limiter, UsageBook(store, Journal(None)), store).close()
    store._closed = False
    assert await _sum(store) == 2
    assert await store.acquire("places/key/bob", slots=1, ttl_s=1) is not None


async def test_a_cancelled_look_at_usage_loses_no_segment(tmp_path: Path) -> None:
    store = MemoryStore()
    left = _book(store, tmp_path)
    left.note(_record())
    left._journal._own.release()  # type: ignore[union-attr]  # its process was killed
    book = _book(store, tmp_path)
    looking = asyncio.ensure_future(book.read())
    for _ in range(2):
        await asyncio.sleep(0)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await asyncio.sleep(0.2)
    assert BOB in await book.read()


@SHARES
@pytest.mark.parametrize("ingresses", [1, 2])
async def test_what_is_given_back_later_takes_carried_excess_back(clock: _Clock, share: float, ingresses: int) -> None:
    """One request's excess stands above the limit only because of another one's reservation, of which little is used."""
    store = MemoryStore(clock=clock)
    limiters = [_limiter(store, clock, share) for _ in range(ingresses)]
    caller = _caller(tokens_per_minute=1000)
    large = await _reserve(limiters[0], caller, 800, 0)
    small = await _reserve(limiters[-1], caller, 200, 0)
    small.settle(700)
    await tend(limiters[-1])
    large.settle(10)
    clock.now += 1.1
    for limiter in limiters:
        await tend(limiter)
    assert await _sum(store) == 710
    clock.now += 60
    assert await _sum(store) == 0


async def test_a_wake_settles_no_counters(clock: _Clock) -> None:
    store = MemoryStore(clock=clock)
    limiter, caller = _limiter(store, clock), _caller(tokens_per_minute=1000, concurrent=5)
    for _ in range(5):
        (await _reserve(limiter, caller, 1, 1)).settle(1)
        assert limiter.wake.is_set()
        await limiter.tend_places()
    assert not store._batches


async def test_only_an_answer_shows_that_the_store_is_back(clock: _Clock, caplog: pytest.LogCaptureFixture) -> None:
    store = _Failing(clock=clock)
    limiter, caller = _limiter(store, clock, 0.05), _caller(requests_per_minute=1000)
    held = [await _reserve(limiter, caller, 1, 1) for _ in range(3)]
    store.is_away = True
    limiter.note_failure(StoreUnavailable("x", reason="away"))
    for each in held:
        clock.now += 1.1
        each.settle(1, counts=False)  # its block could serve the next request
        await _reserve(limiter, caller, 1, 1)
    assert not [record for record in caplog.records if "again" in record.getMessage()]
