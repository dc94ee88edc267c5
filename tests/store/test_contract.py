"""What every store keeps to."""

import asyncio
import math
import time

import pytest

from serve_app.errors import StoreUnavailable
from serve_app.store.base import MAX_VALUE_BYTES, Addition, Claim, Lease, Store, settle

HOUR = 3600
LONG = 10_000_000
"""No test meets the end of such a window: its next one is months away."""


async def test_values_are_written_read_replaced_and_deleted(store: Store) -> None:
    await store.check()
    assert await store.get("a") is None
    await store.put("a", b"\0\xff one")
    assert await store.get("a") == b"\0\xff one"
    await store.put("a", b"")
    assert await store.get("a") == b""
    assert await store.delete("a")
    assert not await store.delete("a")
    assert await store.get("a") is None


async def test_a_value_lives_for_its_time(store: Store) -> None:
    await store.put("short", b"1", ttl_s=0.3)
    await store.put("prolonged", b"1", ttl_s=0.3)
    await store.put("prolonged", b"2")
    await store.put("shortened", b"1")
    await store.put("shortened", b"2", ttl_s=0.3)
    await store.put("long", b"1", ttl_s=60)
    assert {entry.key: entry.expires_at is None for entry in (await store.scan("")).items} == {
        "long": False,
        "prolonged": True,
        "short": False,
        "shortened": False,
    }
    await asyncio.sleep(0.5)
    assert [await store.get(key) for key in ("short", "prolonged", "shortened", "long")] == [None, b"2", None, b"1"]
    assert [entry.key for entry in (await store.scan("")).items] == ["long", "prolonged"]
    assert not await store.delete("short")


async def test_a_scan_is_in_order_and_continues(store: Store) -> None:
    keys = sorted({f"u/{number}{letter}" for number in range(30) for letter in ("", "/x", ":", "Z", "z")})
    for key in (*reversed(keys), "t", "u", "u0", "v/1"):
        await store.put(key, key.encode())
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await store.scan("u/", limit=7, after=after)
        assert len(page.items) <= 7
        seen += [entry.key for entry in page.items]
        assert all(entry.value == entry.key.encode() for entry in page.items)
        after = page.next
    assert seen == keys
    assert [entry.key for entry in (await store.scan("u/", after="a")).items][:1] == [keys[0]]
    assert (await store.scan("u/", after="v")).items == ()
    assert (await store.scan("nothing")).items == ()


async def test_a_page_is_bounded_in_bytes(store: Store) -> None:
    for number in range(5):
        await store.put(f"k{number}", bytes(MAX_VALUE_BYTES // 2 + 1))
    page = await store.scan("")
    assert [entry.key for entry in page.items] == ["k0", "k1"]
    assert page.next is not None
    assert [entry.key for entry in (await store.scan("", after=page.next)).items] == ["k2", "k3"]


async def test_counters_add_up_within_their_windows(store: Store) -> None:
    first, endless = await store.add([Addition("c", 5, HOUR * 10**4), Addition("c", 7)])
    assert (first.sum, endless.sum, endless.start, endless.resets_in_s) == (5, 7, 0, math.inf)
    assert first.start % (HOUR * 10**4) == 0
    assert first.start <= time.time() <= first.start + HOUR * 10**4
    assert first.resets_in_s == pytest.approx(first.start + HOUR * 10**4 - time.time(), abs=5)
    again = await store.add([Addition("c", -2, HOUR * 10**4), Addition("c", 2**52), Addition("c", 1), Addition("d", 0)])
    assert [tally.sum for tally in again] == [3, 7 + 2**52, 8 + 2**52, 0]


async def test_a_window_ends(store: Store) -> None:
    await asyncio.sleep(1.02 - time.time() % 1)
    (now,) = await store.add([Addition("c", 5, 1)])
    assert 0 < now.resets_in_s <= 1
    await asyncio.sleep(now.resets_in_s + 0.05)
    (later,) = await store.add([Addition("c", 3, 1)])
    assert (later.start, later.sum) == (now.start + 1, 3)
    (ended,) = await store.add([Addition("c", 3, 1, start=now.start)])
    assert (ended.sum, ended.resets_in_s) == (0, 0)
    assert [count.start for count in (await store.scan_counts("c")).items] == [later.start]


async def test_the_past_is_kept_as_long_as_wanted(store: Store) -> None:
    start = int(time.time()) // 60 * 60 - 600
    wanted = [Addition("usage", amount, 60, start=start + 60 * n, keep_s=HOUR) for n, amount in enumerate((4, 5, 6))]
    await store.add([*wanted, Addition("usage", 1, 60, start=start, keep_s=0)])
    await store.add([Addition("usage", 9, 60, start=start - 60, keep_s=0), Addition("usage", 2, keep_s=0)])
    counts = (await store.scan_counts("usa")).items
    assert [(count.key, count.window_s, count.start, count.sum) for count in counts] == [
        ("usage", 0, 0, 2),
        ("usage", 60, start, 5),
        ("usage", 60, start + 60, 5),
        ("usage", 60, start + 120, 6),
    ]
    assert counts[0].expires_at is None
    assert counts[1].expires_at == pytest.approx(start + 60 + HOUR, abs=0.1)
    rest = (await store.scan_counts("usa", limit=2)).next
    assert rest is not None
    assert (await store.scan_counts("usa", limit=5, after=rest)).items[0].start == start + 60


async def test_a_batch_counts_once(store: Store) -> None:
    batch = [Addition("a", 1), Addition("b", 2, LONG)]
    assert [tally.sum for tally in await store.add(batch, batch="n/1")] == [1, 2]
    assert [tally.sum for tally in await store.add(batch, batch="n/1")] == [1, 2]
    assert [tally.sum for tally in await store.add(batch, batch="n/2")] == [2, 4]
    assert [tally.sum for tally in await store.add(batch)] == [3, 6]
    assert await store.add([]) == []


async def test_reservations_are_all_or_nothing(store: Store) -> None:
    requests, tokens = Claim("r", 1, 3, LONG), Claim("t", 60, 100, LONG)
    granted = await store.take([requests, tokens])
    assert (granted.granted, granted.retry_after_s, [tally.sum for tally in granted.tallies]) == (True, 0, [1, 60])
    refused = await store.take([requests, tokens])
    assert not refused.granted
    assert [tally.sum for tally in refused.tallies] == [1, 60]
    assert refused.retry_after_s == pytest.approx(refused.tallies[1].resets_in_s, abs=1)
    assert (await store.take([requests, Claim("t", 40, 100, LONG)])).granted
    assert not (await store.take([Claim("t", 1, 100, LONG)])).granted
    assert (await store.take([Claim("t", 0, 100, LONG)])).granted
    assert (await store.take([])).granted


async def test_what_never_fits_is_never_retried(store: Store) -> None:
    assert (await store.take([Claim("t", 101, 100, 60)])).retry_after_s == math.inf
    assert (await store.take([Claim("e", 100, 100, 0)])).granted
    assert (await store.take([Claim("e", 1, 100, 0), Claim("t", 1, 1, 60)])).retry_after_s == math.inf


async def test_a_reservation_is_settled(store: Store) -> None:
    claim = Claim("t", 60, 100, LONG)
    taken = await store.take([claim])
    assert [tally.sum for tally in await store.add([settle(claim, taken.tallies[0], 12)], batch="request-1")] == [12]
    taken = await store.take([claim])
    assert [tally.sum for tally in await store.add([settle(claim, taken.tallies[0], 95)])] == [107]
    assert not (await store.take([Claim("t", 0, 100, LONG)])).granted


async def test_many_at_once_never_exceed_a_limit(store: Store) -> None:
    taken = await asyncio.gather(*(store.take([Claim("r", 3, 100, LONG)]) for _ in range(50)))
    assert sum(each.granted for each in taken) == 33
    leases = await asyncio.gather(*(store.acquire("p", slots=4, ttl_s=30) for _ in range(20)))
    assert sum(lease is not None for lease in leases) == 4


async def test_leases_come_back(store: Store) -> None:
    first, second = await store.acquire("p", slots=2, ttl_s=30), await store.acquire("p", slots=2, ttl_s=0.4)
    assert first is not None
    assert second is not None
    assert await store.acquire("p", slots=2, ttl_s=30) is None
    assert await store.acquire("other", slots=1, ttl_s=30) is not None
    assert await store.release(first)
    assert not await store.release(first)
    assert not await store.renew(first, ttl_s=30)
    assert await store.renew(second, ttl_s=0.8)
    third = await store.acquire("p", slots=2, ttl_s=30)
    assert third is not None
    await asyncio.sleep(0.5)
    assert await store.acquire("p", slots=2, ttl_s=30) is None  # renewed
    await asyncio.sleep(0.5)
    assert not await store.renew(second, ttl_s=30)
    assert not await store.release(second)
    assert await store.acquire("p", slots=2, ttl_s=30) is not None
    assert not await store.release(Lease("p", "made-up"))


async def test_one_text_may_be_a_key_of_each_kind(store: Store) -> None:
    await store.put("x", b"1")
    await store.add([Addition("x", 1), Addition("x", 1, LONG)], batch="x")
    await store.acquire("x", slots=1, ttl_s=30)
    assert await store.get("x") == b"1"
    assert [entry.key for entry in (await store.scan("")).items] == ["x"]
    assert [count.window_s for count in (await store.scan_counts("")).items] == [0, LONG]


@pytest.mark.parametrize("key", ["", "a b", "a\0", "é", "a" * 201, "a\n", "a*", "a'"])
async def test_keys_have_an_alphabet(store: Store, key: str) -> None:
    for call in (
        store.get(key),
        store.put(key, b""),
        store.delete(key),
        store.add([Addition(key, 1)]),
        store.take([Claim(key, 1, 1, 1)]),
        store.acquire(key, slots=1, ttl_s=1),
        store.release(Lease(key, "t")),
    ):
        with pytest.raises(ValueError, match="a key has"):
            await call


async def test_arguments_have_bounds(store: Store) -> None:
    for call in (
        store.put("a", bytes(MAX_VALUE_BYTES + 1)),
        store.put("a", b"", ttl_s=0),
        store.put("a", b"", ttl_s=math.nan),
        store.put("a", b"", ttl_s=math.inf),
        store.scan("", limit=0),
        store.scan("a b"),
        store.scan_counts("", after="x"),
        store.add([Addition("a", 2**53)]),
        store.add([Addition("a", 1, -1)]),
        store.add([Addition("a", 1, 60, start=61)]),
        store.add([Addition("a", 1)] * 1001),
        store.take([Claim("a", -1, 1, 60)]),
        store.take([Claim("a", 1, 1, 60), Claim("a", 2, 2, 60)]),
        store.acquire("a", slots=0, ttl_s=1),
    ):
        with pytest.raises(ValueError, match=r"."):
            await call


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.put("a", b"1")
    await store.close()
    for call in (store.get("a"), store.check(), store.add([Addition("a", 1)])):
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert caught.value.reason == "closed"
    await store.close()
