"""A new ingress among others gets requests at once, and hears of the engines with their next reports: requests wait for those."""

import asyncio
import time
from contextlib import suppress

from starlette.types import ASGIApp, Receive, Scope, Send

LIMIT_S = 5.0
"""Seconds after its start in which an ingress may know nothing; replicas report every second."""


class Informed:
    """Holds POST requests until `heard` is set, or the first seconds are over; everything else passes."""

    def __init__(self, app: ASGIApp, heard: asyncio.Event, limit_s: float = LIMIT_S) -> None:
        """Wrap `app`; the time runs from here."""
        self._app = app
        self._heard = heard
        self._until_s = time.monotonic() + limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        left_s = self._until_s - time.monotonic()
        if left_s > 0 and scope.get("method") == "POST" and not self._heard.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._heard.wait()
        await self._app(scope, receive, send)
