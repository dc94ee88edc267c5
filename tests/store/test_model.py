"""Every store does what `MemoryStore` does, whatever the calls."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.store.base import Addition, Claim, Lease, Store, Taken, Tally
from serve_app.store.memory import MemoryStore
from tests.store.conftest import SHARED

LONG = 10_000_000
KEYS = st.sampled_from(["a", "a/b", "a:b", "b", "b=", "Z", "0", "a/b/c"])
WINDOWS = st.sampled_from([0, LONG, 3 * LONG])
AMOUNTS = st.integers(-5, 30)
ADDITIONS = st.builds(
    Addition, KEYS, AMOUNTS, WINDOWS, start=st.sampled_from([None, None, 0]), keep_s=st.sampled_from([0, 10, 300_000_000])
)
CLAIMS = st.lists(st.builds(Claim, KEYS, st.integers(0, 30), st.integers(0, 60), WINDOWS), max_size=3).filter(
    lambda claims: len({(claim.key, claim.window_s) for claim in claims}) == len(claims)
)
CALLS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=5), st.sampled_from([None, 1000.0])),
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("add"), st.lists(ADDITIONS, max_size=4), st.sampled_from(["", "", "n/1", "n/2"])),
    st.tuples(st.just("take"), CLAIMS),
    st.tuples(st.just("acquire"), KEYS, st.integers(1, 3)),
    st.tuples(st.just("renew"), st.integers(0, 9)),
    st.tuples(st.just("release"), st.integers(0, 9)),
    st.tuples(st.sampled_from(["scan", "scan_counts"]), st.sampled_from(["", "a", "a/", "b", "x"]), st.integers(1, 4)),
)


class _User:
    """Makes the same calls to a store, and describes the answers without what clocks and chance decide."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.leases: list[Lease | None] = []

    async def call(self, name: str, *arguments: Any) -> Any:
        store = self.store
        if name == "put":
            return await store.put(arguments[0], arguments[1], ttl_s=arguments[2])
        if name == "add":
            return [_plain(tally) for tally in await store.add(arguments[0], batch=arguments[1])]
        if name == "take":
            taken: Taken = await store.take(*arguments)
            return taken.granted, taken.retry_after_s > 10, [_plain(tally) for tally in taken.tallies]
        if name == "acquire":
            self.leases.append(await store.acquire(arguments[0], slots=arguments[1], ttl_s=1000))
            return self.leases[-1] is None
        if name in ("renew", "release"):
            lease = self.leases[arguments[0]] if arguments[0] < len(self.leases) else Lease("a", "made-up")
            if lease is None:
                return None
            return await (store.renew(lease, ttl_s=1000) if name == "renew" else store.release(lease))
        if name in ("scan", "scan_counts"):
            return await self._scan(getattr(store, name), *arguments)
        return await getattr(store, name)(*arguments)

    async def _scan(self, scan: Callable[..., Any], prefix: str, limit: int) -> list[Any]:
        seen: list[Any] = []
        after: str | None = ""
        while after is not None:
            page = await scan(prefix, limit=limit, after=after)
            seen += [
                (
                    item.key,
                    getattr(item, "value", None) or (getattr(item, "window_s", 0), getattr(item, "sum", 0)),
                    item.expires_at is None,
                )
                for item in page.items
            ]
            after = page.next
        return seen


def _plain(tally: Tally) -> tuple[int, int, float]:
    return tally.start, tally.sum, round(tally.resets_in_s, -2) if tally.resets_in_s < 10**9 else 0


@pytest.mark.parametrize("kind", SHARED)
def test_every_store_does_the_same(kind: str, opener: Callable[..., Store]) -> None:
    opened = 0

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(st.lists(CALLS, max_size=25))
    def check(calls: list[tuple[Any, ...]]) -> None:
        nonlocal opened
        opened += 1
        asyncio.run(_compare(opener(kind, f"s{opened}"), calls))

    check()


async def _compare(store: Store, calls: list[tuple[Any, ...]]) -> None:
    users = _User(store), _User(MemoryStore())
    for call in calls:
        answer, expected = [await user.call(*call) for user in users]
        assert answer == expected, call
    await store.close()
