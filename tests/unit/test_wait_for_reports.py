"""A new ingress holds requests until it has reported of the engines, for some seconds at most."""

import asyncio
import time
from typing import Any

from deployments.wait_for_reports import WaitForReports


async def _passed_after(method: str, reported: asyncio.Event, limit_s: float) -> float:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    began_s = time.monotonic()
    await WaitForReports(app, reported, limit_s)({"type": "http", "method": method}, None, None)  # type: ignore[arg-type]
    return time.monotonic() - began_s


async def test_a_request_waits_for_the_news() -> None:
    reported = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, reported.set)
    assert 0.04 < await _passed_after("POST", reported, 100) < 50


async def test_without_news_it_waits_no_longer_than_allowed() -> None:
    assert 0.09 < await _passed_after("POST", asyncio.Event(), 0.1) < 50


async def test_who_asks_for_the_state_is_answered_at_once() -> None:
    assert await _passed_after("GET", asyncio.Event(), 100) < 50
    reported = asyncio.Event()
    reported.set()
    assert await _passed_after("POST", reported, 100) < 50
