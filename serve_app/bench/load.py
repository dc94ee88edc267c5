"""Sends the requests of a run at their times: a number of streams, or arrivals at a rate. Knows no HTTP."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable

Ask = Callable[[int, float], Awaitable[None]]
"""Sends the request of a number, which should have been sent at this point of `time.perf_counter`, and waits for its answer."""


async def keep_streams(ask: Ask, streams: int, count: int | None, duration_s: float | None) -> None:
    """Keep so many requests under way until `count` were sent or `duration_s` is over, then wait for the last answers."""
    began = time.perf_counter()
    numbers = itertools.count() if count is None else iter(range(count))

    async def stream() -> None:
        while duration_s is None or time.perf_counter() - began < duration_s:
            number = next(numbers, None)
            if number is None:
                return
            await ask(number, time.perf_counter())

    await _gather(stream() for _ in range(streams))


async def follow_arrivals(ask: Ask, arrivals_s: Iterable[float]) -> None:
    """Send a request at each arrival, whatever became of those before, then wait for the last answers."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number, at_s in enumerate(arrivals_s):
            due = began + at_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(_await(ask(number, due)))


async def _await(answer: Awaitable[None]) -> None:
    await answer


async def _gather(streams: Iterable[Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for each in streams:
            tasks.create_task(_await(each))
