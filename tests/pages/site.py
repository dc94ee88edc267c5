"""The application over fake engines on a real port, for a browser."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import uvicorn

from tests.live import free_port
from tests.unit.app import App, running


@dataclass
class Site:
    """The address of the application, and the application."""

    url: str
    app: App


@asynccontextmanager
async def serve(extra: Mapping[str, object] = MappingProxyType({}), /, **engines: dict[str, Any]) -> AsyncIterator[Site]:
    """Serve fake groups as `tests.unit.app.running` does, on a free port of this machine."""
    async with running(extra, **engines) as app:
        port = free_port()
        config = uvicorn.Config(app.asgi.app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield Site(f"http://127.0.0.1:{port}", app)
        finally:
            server.should_exit = True
            server.force_exit = True
            await serving
