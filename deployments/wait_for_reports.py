"""Lets requests to a new ingress wait for the replicas' first reports, before which it knows no engine."""

import asyncio
import time
from contextlib import suppress

from starlette.types import ASGIApp, Receive, Scope, Send

LIMIT_S = 5.0
"""Seconds after its start in which an ingress may know no engine; replicas report every second."""


class WaitForReports:
    """Delays POST requests until `reported` is set or the first seconds have passed; other requests pass at once."""

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
