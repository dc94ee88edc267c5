"""Serves the application on a port of its own, beside Serve's proxy. Knows nothing of the application."""

import asyncio
import logging
import socket

import uvicorn
from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

_RETRY_S = 5.0


async def listen(app: ASGIApp, host: str, port: int, *, retry_s: float = _RETRY_S) -> None:
    """Serve `app` until cancelled.

    Where another process has the port, log that once and listen when the port becomes free: of several ingress replicas on a node
    one listens, and another takes over when it ends.
    """
    warned = False
    while (listener := _try_to_bind(host, port)) is None:
        if not warned:
            logger.warning("port %d is taken; this replica listens when it becomes free", port)
            warned = True
        await asyncio.sleep(retry_s)
    with listener:
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        logger.info("listening on port %d as well", port)
        serving = asyncio.ensure_future(server.serve([listener]))
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await serving


def _try_to_bind(host: str, port: int) -> socket.socket | None:
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError:
        return None
