"""A process of its own that uses a store until it is killed: `python -m tests.store.worker KIND WHERE TASK NAME`.

It writes a line for each call that returned. A test that kills it knows by them what must have been kept.
"""

import asyncio
import sys
from pathlib import Path

from serve_app.errors import StoreUnavailable
from serve_app.store.base import Addition, Claim, Store
from serve_app.store.redis import RedisStore
from serve_app.store.sqlite import SqliteStore

LONG = 10_000_000


def open_store(kind: str, where: str) -> Store:
    if kind == "sqlite":
        return SqliteStore(Path(where), timeout_s=20)
    url, _, prefix = where.partition(" ")
    return RedisStore(url, prefix=prefix, timeout_s=20)


async def count(store: Store, name: str) -> None:
    """Add 1 to `sum` and to a counter of its own, in one call each time."""
    while True:
        await store.add([Addition("sum", 1, LONG), Addition(f"own/{name}", 1)])
        print("1", flush=True)


async def count_in_batches(store: Store, name: str) -> None:
    """Add numbered batches from the first one whose number was not read on standard input."""
    number = int(sys.stdin.readline())
    while True:
        await store.add([Addition("sum", 10)], batch=f"{name}/{number}")
        print(number, flush=True)
        number += 1


async def take(store: Store, name: str) -> None:
    """Reserve 7 of 1000 until refused."""
    while (await store.take([Claim("quota", 7, 1000, LONG), Claim(f"own/{name}", 1, 10**6, 0)])).granted:
        print("7", flush=True)


async def hold(store: Store, name: str) -> None:
    """Take a place whenever one is free, and keep it."""
    lease = None
    while True:
        if lease is None or not await store.renew(lease, ttl_s=1.0):
            lease = await store.acquire("places", slots=2, ttl_s=1.0)
            if lease is not None:
                print(lease.token, flush=True)
        await asyncio.sleep(0.05)


async def open_only(store: Store, name: str) -> None:
    """Meet an empty folder at the same time as others."""
    await store.put(name, b"1")
    print("1", flush=True)


async def main(kind: str, where: str, task: str, name: str) -> None:
    store = open_store(kind, where)
    try:
        await globals()[task](store, name)
    except StoreUnavailable as error:
        print(f"error {error.reason} {error.message}", flush=True)
        raise
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
