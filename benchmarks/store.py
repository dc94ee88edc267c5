"""What the store costs: `python -m benchmarks.store` prints CPU and time per call of SQLite and Redis.

Method: one process and one event loop, as an ingress has. CPU is that of this process' threads, not of the Redis server; time is
from call to answer. "At once" is how many callers wait together: SQLite commits for all of them at once. A request's admission is
`take` of three claims; its settling is a share of a batch of additions. Nothing is asserted: machines differ.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from serve_app.store.base import Addition, Claim, Store
from serve_app.store.redis import RedisStore
from serve_app.store.sqlite import SqliteStore
from tests.store.servers import RedisServer

KEYS = 50
BATCH = 100


async def _measure(call: Callable[[int], Awaitable[object]], calls: int, together: int) -> tuple[float, float, float]:
    """Return CPU microseconds per call, and median and p99 of the milliseconds from call to answer."""
    numbers = iter(range(calls))
    times: list[float] = []

    async def use() -> None:
        for number in numbers:
            began = time.perf_counter()
            await call(number)
            times.append(time.perf_counter() - began)

    cpu = time.process_time()
    await asyncio.gather(*(use() for _ in range(together)))
    cpu = time.process_time() - cpu
    return cpu / calls * 1e6, statistics.median(times) * 1e3, statistics.quantiles(times, n=100)[98] * 1e3


async def _report(name: str, store: Store, calls: int) -> None:
    limit = 10**12

    async def take(number: int) -> object:
        key = f"k{number % KEYS}"
        return await store.take(
            [Claim(f"r/{key}", 1, limit, 60), Claim(f"t/{key}", 500, limit, 60), Claim("t/model", 500, limit, 60)]
        )

    async def settle(number: int) -> object:
        parts = (f"u/k{each % KEYS}/{part}" for each in range(BATCH // 4) for part in ("requests", "in", "out", "limit"))
        return await store.add([Addition(part, 7, 86400, keep_s=86400) for part in parts], batch=f"n/{number}")

    async def put(number: int) -> object:
        return await store.put(f"v/{number % 1000}", bytes(4096), ttl_s=3600)

    async def get(number: int) -> object:
        return await store.get(f"v/{number % 1000}")

    async def hold(number: int) -> object:
        lease = await store.acquire(f"l/{number % KEYS}", slots=1000, ttl_s=60)
        return lease and await store.release(lease)

    shown = (
        ("take, 3 claims", take, calls),
        (f"add, batch of {BATCH}", settle, calls // 20),
        ("put 4 KiB", put, calls),
        ("get 4 KiB", get, calls),
        ("acquire and release", hold, calls),
    )
    for what, call, times in shown:
        for together in (1, 16):
            await _measure(call, times // 10, together)
            cpu, median, p99 = await _measure(call, times, together)
            print(f"| {name} | {what} | {together} | {cpu:.0f} | {median:.2f} | {p99:.2f} |", flush=True)


async def main(calls: int) -> None:
    print("| store | call | at once | CPU us | median ms | p99 ms |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        sqlite = SqliteStore(Path(folder) / "state", timeout_s=10)
        await _report("SQLite", sqlite, calls)
        await sqlite.close()
        server = RedisServer(Path(folder))
        server.start()
        try:
            redis = RedisStore(server.url, timeout_s=10)
            await _report("Redis", redis, calls)
            await redis.close()
        finally:
            server.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=5000)
    asyncio.run(main(parser.parse_args().calls))
