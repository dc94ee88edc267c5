"""The state of one store becomes another's."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from serve_app.store.base import MAX_VALUE_BYTES, Addition, Store
from serve_app.store.memory import MemoryStore
from serve_app.store.transfer import InvalidState, export_state, import_state
from tests.store.conftest import STORES

HOUR = 3600


async def _fill(store: Store) -> None:
    for number in range(250):
        await store.put(f"r/{number:03}", bytes([number]) * number)
    await store.put("short", b"1", ttl_s=3000)
    start = int(time.time()) // HOUR * HOUR
    hours = [Addition(f"u/{n % 3}", n, HOUR, start=start - n * HOUR, keep_s=HOUR * 24 * 400) for n in range(300)]
    await store.add([*hours, Addition("total", 2**53 - 1), Addition("zero", 0), Addition("less", -4)])


async def _state(store: Store) -> tuple[list[Any], list[Any]]:
    entries, counts = await store.scan("", limit=1000), await store.scan_counts("", limit=1000)
    return (
        [(each.key, each.value, each.expires_at and round(each.expires_at)) for each in entries.items],
        [(each.key, each.window_s, each.start, each.sum, each.expires_at and round(each.expires_at)) for each in counts.items],
    )


async def _lines(store: Store) -> list[str]:
    return [line async for line in export_state(store)]


@pytest.mark.parametrize("target", STORES)
@pytest.mark.parametrize("source", STORES)
async def test_any_store_becomes_any_other(source: str, target: str, opener: Callable[..., Store]) -> None:
    old, new = opener(source, "old"), opener(target, "new")
    await _fill(old)
    await new.put("kept", b"1")
    await new.put("r/001", b"replaced")
    await new.add([Addition("total", 17)])
    lines = await _lines(old)
    for _ in range(2):  # an import may be repeated
        assert await import_state(new, lines) == len(lines) - 2
    entries, counts = await _state(new)
    assert ("kept", b"1", None) in entries
    await new.delete("kept")
    wanted_entries, wanted_counts = await _state(old)
    got_entries, got_counts = await _state(new)
    assert got_counts == wanted_counts == counts
    assert [each[:2] for each in got_entries] == [each[:2] for each in wanted_entries]
    assert all(abs((a[2] or 0) - (b[2] or 0)) <= 2 for a, b in zip(got_entries, wanted_entries, strict=True))
    await old.close()
    await new.close()


async def test_the_largest_value_fits_into_a_line() -> None:
    old, new = MemoryStore(), MemoryStore()
    await old.put("k" * 200, bytes(MAX_VALUE_BYTES), ttl_s=1000.123456)
    assert await import_state(new, await _lines(old)) == 1


async def test_what_has_expired_is_left_out() -> None:
    old, new = MemoryStore(), MemoryStore()
    await _fill(old)
    later = time.time() + 4000
    assert await import_state(new, await _lines(old), clock=lambda: later) == 250 + 303
    assert await new.get("short") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "ends early"),
        (lambda lines: lines[:20], "ends early"),
        (lambda lines: [], "no state of phi-serve|not a line"),
        (lambda lines: lines[1:], "no state of phi-serve"),
        (lambda lines: [*lines[:5], *lines[6:]], "other lines"),
        (lambda lines: [*lines, lines[3]], "other lines"),
        (lambda lines: [*lines[:5], lines[5][:-10], *lines[6:]], "line 6: not a line"),
        (lambda lines: [*lines[:5], '{"entry":"a","value":"%","expires_at":null}\n', *lines[6:]], "line 6"),
        (lambda lines: [*lines[:5], '{"entry":"a b","value":"","expires_at":null}\n', *lines[6:]], "line 6: ValueError: a key has"),
        (lambda lines: [*lines[:5], '{"entry":5}\n', *lines[6:]], "line 6"),
        (lambda lines: [*lines[:5], '{"entry":"a","value":"","expires_at":"soon"}\n', *lines[6:]], "line 6"),
        (lambda lines: [*lines[:5], '{"count":"a","window_s":60,"start":1,"sum":1,"expires_at":null}\n', *lines[6:]], "line 6"),
        (lambda lines: [*lines[:5], "[]\n", *lines[6:]], "line 6"),
        (lambda lines: [json.dumps({"phi_serve_state": 2}), *lines[1:]], "version 2, and this phi-serve knows 1"),
    ],
)
async def test_damage_is_noticed(change: Callable[[list[str]], list[str]], message: str) -> None:
    old, new = MemoryStore(), MemoryStore()
    await _fill(old)
    with pytest.raises(InvalidState, match=message):
        await import_state(new, change(await _lines(old)))
