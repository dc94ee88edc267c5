"""Merges several streams of events into one. Knows nothing about the events."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from serve_app.conversation import AnswerEvent


async def merge(streams: Sequence[AsyncGenerator[AnswerEvent, None]]) -> AsyncGenerator[AnswerEvent, None]:
    """Yield the events of several streams as they arrive; the first failure ends all streams."""
    if len(streams) == 1:
        try:
            async for event in streams[0]:
                yield event
        finally:
            await streams[0].aclose()
        return
    queue: asyncio.Queue[AnswerEvent | BaseException | None] = asyncio.Queue(maxsize=64)

    async def pump(stream: AsyncGenerator[AnswerEvent, None]) -> None:
        try:
            async for event in stream:
                await queue.put(event)
            await queue.put(None)
        except Exception as error:
            await queue.put(error)
        finally:
            await stream.aclose()

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    running = len(tasks)
    try:
        while running:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
