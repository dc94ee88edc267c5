"""The second port: one process has it, another takes it over."""

import asyncio
import socket

import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from deployments.second_port import listen


def _app(text: str) -> Starlette:
    return Starlette(routes=[Route("/", lambda request: PlainTextResponse(text))])


async def test_the_port_is_taken_over_when_it_becomes_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    first, second = (asyncio.create_task(listen(_app(text), "127.0.0.1", port, retry_s=0.02)) for text in ("first", "second"))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client, asyncio.timeout(20):

        async def wait_for(text: str) -> None:
            while True:
                try:
                    if (await client.get("/")).text == text:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.01)

        await wait_for("first")
        assert not second.done()
        first.cancel()
        await wait_for("second")
    for task in (first, second):
        task.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(first, second, return_exceptions=True))
