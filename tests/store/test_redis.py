"""The Redis store when its server is away, slow, full, newer or refuses the password."""

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import StoreUnavailable
from serve_app.store.base import Addition, Store
from serve_app.store.redis import RedisStore
from tests.store.servers import RedisServer


async def _reason(store: Store) -> str:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await store.add([Addition("c", 1)])
    assert time.monotonic() - began < 3
    return caught.value.reason


async def _outcome(call: Awaitable[Any]) -> str | None:
    """Return why a call failed."""
    try:
        await call
    except StoreUnavailable as error:
        return error.reason
    return None


async def test_a_server_may_go_and_come_back(redis: RedisServer) -> None:
    store = RedisStore(redis.url, timeout_s=1)
    for _ in range(2):
        assert [tally.sum for tally in await store.add([Addition("c", 1)])] == [1]
        await asyncio.gather(*(store.add([Addition("c", 1)]) for _ in range(20)))
        redis.kill()
        assert await _reason(store) == "away"
        outcomes = await asyncio.gather(*(store.get("a") for _ in range(20)), return_exceptions=True)
        assert all(isinstance(each, StoreUnavailable) for each in outcomes)
        redis.start()
    await store.check()
    await store.close()


async def test_a_server_that_is_killed_under_load_leaves_nobody_waiting(redis: RedisServer) -> None:
    store = RedisStore(redis.url, timeout_s=1)
    outcomes: list[bool] = []

    async def use() -> None:
        for _ in range(100):
            try:
                await store.add([Addition("c", 1)])
                outcomes.append(True)
            except StoreUnavailable:
                outcomes.append(False)
                await asyncio.sleep(0.02)

    users = asyncio.gather(*(use() for _ in range(16)))
    await asyncio.sleep(0.15)
    redis.kill()
    await asyncio.sleep(0.2)
    redis.start()
    async with asyncio.timeout(30):
        await users
    assert False in outcomes
    assert outcomes[-1]
    await store.close()


async def test_a_server_that_does_not_answer_is_busy(tmp_path: Path) -> None:
    """It accepts the connection and says nothing."""
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_unix_server(lambda reader, writer: writers.append(writer), tmp_path / "silent.sock")
    store = RedisStore(f"unix://{tmp_path}/silent.sock", timeout_s=0.3)
    assert await _reason(store) == "busy"
    await store.close()
    silent.close()
    for writer in writers:
        writer.close()
        await writer.wait_closed()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the client's, of connections not made in time
async def test_answers_are_not_mixed_up_after_time_limits(running_redis: RedisServer, tmp_path: Path) -> None:
    patient = RedisStore(running_redis.url, prefix=tmp_path.name, timeout_s=10)
    hasty = RedisStore(running_redis.url, prefix=tmp_path.name, timeout_s=0.004)
    for number in range(20):
        await patient.put(f"k{number}", f"{number}".encode() * 1000)
    failed = 0
    for _ in range(10):  # too many at once for the hasty one
        wanted = [number % 20 for number in range(100)]
        values = await asyncio.gather(*(hasty.get(f"k{number}") for number in wanted), return_exceptions=True)
        failed += sum(isinstance(value, StoreUnavailable) for value in values)
        for number, value in zip(wanted, values, strict=True):
            assert isinstance(value, StoreUnavailable) or value == f"{number}".encode() * 1000
    assert failed
    await patient.close()
    await hasty.close()
    gc.collect()  # here, where the warning is expected


async def test_a_full_server_says_so(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    server.start()
    store = RedisStore(server.url)
    outcomes = [await _outcome(store.put(f"k{number}", bytes(1_000_000))) for number in range(6)]
    assert outcomes[0] is None
    assert outcomes[-1] == "full"
    assert await _outcome(store.add([Addition("c", 1)], batch="b")) == "full"
    assert await store.get("k0") == bytes(1_000_000)
    for number in range(6):
        await store.delete(f"k{number}")
    assert [tally.sum for tally in await store.add([Addition("c", 1)], batch="b")] == [1]
    await store.close()
    server.kill()


async def test_a_newer_schema_is_refused_in_a_sentence(running_redis: RedisServer, tmp_path: Path) -> None:
    store = RedisStore(running_redis.url, prefix=tmp_path.name)
    await store._client.set(f"{tmp_path.name}:schema", 7)
    with pytest.raises(StoreUnavailable, match=r"version 7 .* knows 1 at most. Use the newer phi-serve") as caught:
        await store.put("a", b"1")
    assert caught.value.reason == "broken"
    await store.close()


async def test_another_programs_key_is_refused(running_redis: RedisServer, tmp_path: Path) -> None:
    store = RedisStore(running_redis.url, prefix=tmp_path.name)
    await store._client.set(f"{tmp_path.name}:schema", "theirs")
    with pytest.raises(StoreUnavailable, match="another program's"):
        await store.check()
    await store.close()


async def test_a_password_is_used_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(tmp_path, "--requirepass", "open-sesame")
    server.start()
    right = RedisStore(f"unix://:open-sesame@{server.socket}")
    await right.put("a", b"1")
    await right.close()
    with caplog.at_level(logging.DEBUG):
        wrong = RedisStore(f"unix://:wrong-sesame@{server.socket}")
        assert await _reason(wrong) == "broken"
        server.kill()
        assert await _reason(wrong) in ("away", "broken")
        await wrong.close()
        with pytest.raises(ValueError, match="must begin with") as caught:
            RedisStore("http://:wrong-sesame@host")
    assert "sesame" not in caplog.text + str(caught.value)


async def test_the_index_forgets_what_expired(running_redis: RedisServer, tmp_path: Path) -> None:
    store = RedisStore(running_redis.url, prefix=tmp_path.name)
    for number in range(50):
        await store.put(f"k{number}", b"1", ttl_s=0.05)
        await store.add([Addition(f"c{number}", 1, 1)])
    await asyncio.sleep(2.5)
    for number in range(20):
        await store.put(f"new{number}", b"1")
    assert await store._client.zcard(f"{tmp_path.name}:1:index") == 20
    assert await store._client.zcard(f"{tmp_path.name}:1:expiry") == 0
    keys = {key async for key in store._client.scan_iter(f"{tmp_path.name}:*")}
    assert len(keys) == 22  # the values, the index and the schema
    await store.close()
