"""Limits of keys and models, counted in every kind of store by several ingresses."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from serve_app.access.limits import Limiter, Reservation
from serve_app.caller import Caller, Limits, Scope
from serve_app.errors import QuotaExceeded, StoreUnavailable
from serve_app.store.base import Claim, Store, Taken
from serve_app.store.memory import MemoryStore


def _caller(name: str = "bob", **limits: int) -> Caller:
    return Caller(name=name, scopes=frozenset({Scope.USE}), limits=Limits(**limits))


async def tend(limiter: Limiter) -> None:
    """Do what the application does with its limiter once a second."""
    await limiter.tend_places()
    await limiter.settle()


class _Clock:
    """Wall clock and monotonic clock in one, at the beginning of a minute."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0 // 60 * 60

    def __call__(self) -> float:
        return self.now


class _Counting(MemoryStore):
    """Counts its calls."""

    takes = 0
    acquires = 0

    async def take(self, claims):  # type: ignore[no-untyped-def]
        self.takes += 1
        return await super().take(claims)

    async def acquire(self, key, *, slots, ttl_s):  # type: ignore[no-untyped-def]
        self.acquires += 1
        return await super().acquire(key, slots=slots, ttl_s=ttl_s)


class _Failing(MemoryStore):
    """A store that can be away."""

    is_away = False
    calls = 0

    def _now(self) -> float:
        self.calls += 1
        if self.is_away:
            raise StoreUnavailable("the store is away", reason="away")
        return super()._now()


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


def _limiter(store: Store, clock: _Clock, share: float = 0.0, *, fail_open: bool = True, **models: Limits) -> Limiter:
    return Limiter(store, models=models, share=share, fail_open=fail_open, clock=clock)


async def _count_granted(limiters: list[Limiter], caller: Caller, asked: int, tokens: int = 1) -> int:
    granted = 0
    for at in range(asked):
        with suppress(QuotaExceeded):
            held = await limiters[at % len(limiters)].reserve(caller, "phi", prompt_tokens=tokens, answer_tokens=0)
            held.settle(tokens)
            granted += 1
    return granted


@pytest.mark.parametrize("quota", [1, 2, 10, 61])
async def test_two_ingresses_grant_exactly_the_quota(clock: _Clock, quota: int) -> None:
    store = MemoryStore(clock=clock)
    limiters = [_limiter(store, clock), _limiter(store, clock)]
    assert await _count_granted(limiters, _caller(requests_per_minute=quota), 3 * quota) == quota
    clock.now += 60
    assert await _count_granted(limiters, _caller(requests_per_minute=quota), 3 * quota) == quota


@pytest.mark.parametrize("quota", [10, 100, 1000])
async def test_with_blocks_they_grant_no_more_and_the_rest_after_a_second(clock: _Clock, quota: int) -> None:
    store = _Counting(clock=clock)
    limiters = [_limiter(store, clock, 0.05) for _ in range(3)]
    caller = _caller(requests_per_minute=quota)
    granted = await _count_granted(limiters, caller, 2 * quota)
    assert quota - 3 * 0.05 * quota - 1 <= granted <= quota
    clock.now += 1.1
    for limiter in limiters:
        await tend(limiter)
    clock.now += 1.1
    assert granted + await _count_granted(limiters, caller, quota) == quota
    if quota == 1000:
        assert store.takes < 100


async def test_blocks_taken_at_once_are_not_one_for_each_request(clock: _Clock) -> None:
    store = _Counting(clock=clock)
    limiter = _limiter(store, clock, 0.05)
    caller = _caller(requests_per_minute=1000)
    await asyncio.gather(*(limiter.reserve(caller, "phi", prompt_tokens=1, answer_tokens=0) for _ in range(40)))
    assert store.takes == 1


async def test_a_refusal_says_what_is_used_up_and_when_it_is_free(clock: _Clock) -> None:
    limiter = _limiter(MemoryStore(clock=clock), clock)
    caller = _caller(requests_per_minute=2)
    assert await _count_granted([limiter], caller, 2) == 2
    clock.now += 20
    with pytest.raises(QuotaExceeded, match="the quota of the key 'bob' is used up: 2 requests per minute") as refused:
        await limiter.reserve(caller, "phi", prompt_tokens=1, answer_tokens=0)
    assert refused.value.retry_after_s == 40
    (left,) = limiter.show_allowances(caller, "phi")
    assert (left.kind, left.limit, left.remaining, left.resets_in_s) == ("requests", 2, 0, 40)
    with pytest.raises(QuotaExceeded):
        limiter.require_room(caller, "phi")
    clock.now += 40
    limiter.require_room(caller, "phi")
    assert await _count_granted([limiter], caller, 3) == 2


async def test_a_refused_flood_asks_the_store_once_a_second(clock: _Clock) -> None:
    store = _Counting(clock=clock)
    limiter = _limiter(store, clock)
    assert await _count_granted([limiter], _caller(requests_per_minute=1), 500) == 1
    assert store.takes == 2


async def test_tokens_are_reserved_and_settled(clock: _Clock) -> None:
    store = MemoryStore(clock=clock)
    limiter, other = _limiter(store, clock), _limiter(store, clock)
    caller = _caller(tokens_per_minute=1000)
    held = await limiter.reserve(caller, "phi", prompt_tokens=100, answer_tokens=700)
    with pytest.raises(QuotaExceeded, match="1000 tokens per minute"):
        await other.reserve(caller, "phi", prompt_tokens=100, answer_tokens=200)
    held.settle(150)
    await tend(limiter)
    clock.now += 1.1
    (left,) = (await _reserve(other, caller, 100, 200), other.show_allowances(caller, "phi"))[1]
    assert left.remaining == 1000 - 150 - 300


async def _reserve(limiter: Limiter, caller: Caller, prompt: int, answer: int) -> Reservation:
    return await limiter.reserve(caller, "phi", prompt_tokens=prompt, answer_tokens=answer)


async def test_tokens_beyond_the_reservation_count_too(clock: _Clock) -> None:
    store = MemoryStore(clock=clock)
    limiter = _limiter(store, clock)
    caller = _caller(tokens_per_minute=1000)
    (await _reserve(limiter, caller, 100, 100)).settle(950)
    await tend(limiter)
    with pytest.raises(QuotaExceeded):
        await _reserve(_limiter(store, clock), caller, 51, 0)
    await _reserve(_limiter(store, clock), caller, 50, 0)


async def test_a_long_answer_needs_an_unused_quota_and_a_long_prompt_never_fits(clock: _Clock) -> None:
    limiter = _limiter(MemoryStore(clock=clock), clock)
    caller = _caller(tokens_per_minute=1000)
    with pytest.raises(QuotaExceeded, match="shorten the prompt") as refused:
        await _reserve(limiter, caller, 1001, 0)
    assert refused.value.retry_after_s is None
    clock.now += 1.1
    held = await _reserve(limiter, caller, 10, 100_000)
    held.settle(20)
    clock.now += 1.1
    with pytest.raises(QuotaExceeded, match="used up"):
        await _reserve(limiter, caller, 10, 100_000)


async def test_an_answer_that_outlasts_its_minute_counts_beyond_its_reservation_in_the_next(clock: _Clock) -> None:
    store = MemoryStore(clock=clock)
    limiter = _limiter(store, clock)
    caller = _caller(tokens_per_minute=100)
    short, long = await _reserve(limiter, caller, 20, 0), await _reserve(limiter, caller, 50, 0)
    clock.now += 61
    short.settle(5)
    long.settle(90)
    await tend(limiter)
    assert await _count_granted([limiter], caller, 1, tokens=61) == 0
    assert await _count_granted([limiter], caller, 1, tokens=60) == 1


async def test_a_request_that_no_engine_began_costs_nothing(clock: _Clock) -> None:
    limiter = _limiter(MemoryStore(clock=clock), clock)
    caller = _caller(requests_per_minute=1, tokens_per_minute=100)
    for _ in range(5):
        held = await _reserve(limiter, caller, 50, 50)
        held.settle(0, counts=False)
    assert await _count_granted([limiter], caller, 1, tokens=100) == 1


async def test_one_full_limit_takes_nothing_from_the_others(clock: _Clock) -> None:
    store = MemoryStore(clock=clock)
    limiter = _limiter(store, clock, phi=Limits(tokens_per_minute=50))
    caller = _caller(requests_per_minute=5)
    for _ in range(4):
        with pytest.raises(QuotaExceeded, match="the model 'phi'"):
            await _reserve(limiter, caller, 60, 0)
    await _reserve(limiter, caller, 50, 0)
    (requests, tokens) = limiter.show_allowances(caller, "phi")
    assert (requests.remaining, tokens.remaining) == (4, 0)


async def test_a_models_limit_is_for_all_keys_together(clock: _Clock) -> None:
    store = MemoryStore(clock=clock)
    limiters = [_limiter(store, clock, phi=Limits(requests_per_minute=10)) for _ in range(2)]
    granted = [await _count_granted(limiters, _caller(name), 7) for name in ("a", "b")]
    assert granted == [7, 3]
    assert await limiters[0].reserve(_caller("c"), "other", prompt_tokens=1, answer_tokens=1)


@pytest.mark.parametrize("share", [0.0, 0.05])
async def test_places_are_shared_and_given_back(clock: _Clock, share: float) -> None:
    store = _Counting(clock=clock)
    first, second = _limiter(store, clock, share), _limiter(store, clock, share)
    caller = _caller(concurrent=3)
    held = [await _reserve(each, caller, 1, 1) for each in (first, second, first)]
    for each in (first, second):
        with pytest.raises(QuotaExceeded, match="3 requests under way") as refused:
            await _reserve(each, caller, 1, 1)
        assert refused.value.retry_after_s == 1
    held[0].settle(1)
    assert first.wake.is_set() is (share == 0)
    clock.now += 1.1
    await tend(first)
    taken = await _reserve(second, caller, 1, 1)
    taken.settle(1)
    if share:
        before = store.acquires
        (await _reserve(second, caller, 1, 1)).settle(1)
        assert store.acquires == before  # the place was still here


async def test_places_of_a_killed_ingress_are_free_after_their_lease(clock: _Clock) -> None:
    store = MemoryStore(clock=clock)
    killed, alive = _limiter(store, clock), _limiter(store, clock)
    caller = _caller(concurrent=2)
    await _reserve(killed, caller, 1, 1)
    mine = await _reserve(alive, caller, 1, 1)
    for _ in range(4):
        clock.now += 5
        await tend(alive)
    assert await _reserve(alive, caller, 1, 1)
    with pytest.raises(QuotaExceeded):
        await _reserve(alive, caller, 1, 1)
    mine.settle(1)


async def test_a_caller_without_limits_never_asks_the_store(clock: _Clock) -> None:
    store = _Failing(clock=clock)
    limiter = _limiter(store, clock, fail_open=False)
    store.is_away = True
    for _ in range(10):
        limiter.require_room(_caller(), "phi")
        (await _reserve(limiter, _caller(), 1, 1)).settle(1)
    await tend(limiter)
    assert store.calls == 0


async def test_fail_open_counts_locally_while_the_store_is_away(clock: _Clock) -> None:
    store = _Failing(clock=clock)
    limiter = _limiter(store, clock)
    caller = _caller(requests_per_minute=5, concurrent=50)
    assert await _count_granted([limiter], caller, 2) == 2
    store.is_away = True
    assert await _count_granted([limiter], caller, 20) == 5
    asked = store.calls
    clock.now += 0.9
    assert await _count_granted([limiter], caller, 20) == 0
    assert store.calls == asked  # not asked again within a second
    store.is_away = False
    clock.now += 1.1
    assert await _count_granted([limiter], caller, 20) == 3


async def test_fail_closed_refuses_at_once(clock: _Clock) -> None:
    store = _Failing(clock=clock)
    limiter = _limiter(store, clock, fail_open=False)
    caller = _caller(requests_per_minute=5)
    store.is_away = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="fail_closed") as refused:
            await _reserve(limiter, caller, 1, 1)
        assert refused.value.retry_after_s == 1
    assert store.calls == 1
    store.is_away = False
    clock.now += 1.1
    assert await _count_granted([limiter], caller, 9) == 5


async def test_a_failed_reservation_leaves_nothing_behind(clock: _Clock) -> None:
    class _FailsToTake(MemoryStore):
        async def take(self, claims: object) -> Taken:
            raise StoreUnavailable("busy", reason="busy")

    store = _FailsToTake(clock=clock)
    limiter = _limiter(store, clock, fail_open=False)
    caller = _caller(concurrent=1, requests_per_minute=5)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await _reserve(limiter, caller, 1, 1)
        clock.now += 1.1
        await tend(limiter)
    assert await store.acquire("places/key/bob", slots=1, ttl_s=1) is not None


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("share", [0.0, 0.05])
async def test_a_real_store_counts_to_the_token(opener: Callable[[str], Store], kind: str, share: float) -> None:
    """Random requests of three ingresses: in the end the store's sum is what they used."""
    chance = random.Random(7)
    stores = [opener(kind) for _ in range(3)]
    limiters = [Limiter(store, models={}, share=share, fail_open=False) for store in stores]
    caller = _caller("random", tokens_per_minute=2_000_000)
    while time.time() % 60 > 56:  # everything within one minute of the store's clock
        await asyncio.sleep(0.5)
    used = 0
    for turn in range(10):
        held = await asyncio.gather(*(_reserve(limiters[at % 3], caller, chance.randint(1, 99), 50) for at in range(60)))
        for each in held:
            tokens = chance.randint(0, 300)
            each.settle(tokens)
            used += tokens
        if turn % 3 == 0:
            for limiter in limiters:
                await tend(limiter)
    for limiter in limiters:
        await limiter.close()
    taken = await stores[0].take([Claim("tokens/key/random", 0, 2_000_000, 60)])
    assert taken.tallies[0].sum == used
    for store in stores:
        await store.close()
