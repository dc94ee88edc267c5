"""A new ingress gets requests at once, but knows of no engine until the replicas' next reports: requests wait for those."""

import asyncio
import time
from contextlib import suppress

from starlette.types import ASGIApp, Receive, Scope, Send

LIMIT_S = 5.0
"""Seconds after its start in which an ingress may know of no engine; replicas report every second."""


class WaitForReports:
    """Holds POST requests until `reported` is set, or the first seconds are over; everything else passes."""

    def __init__(self, app: ASGIApp, reported: asyncio.Event, limit_s: float = LIMIT_S) -> None:
        """Wrap `app`; the time runs from here."""
        self._app = app
        self._reported = reported
        self._until_s = time.monotonic() + limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        left_s = self._until_s - time.monotonic()
        if left_s > 0 and scope.get("method") == "POST" and not self._reported.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._reported.wait()
        await self._app(scope, receive, send)
