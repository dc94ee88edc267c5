"""A new ingress holds requests until the engines have reported, for some seconds at most. Order is compared, not the clock."""

import asyncio
import time
from typing import Any

from deployments.wait_for_reports import WaitForReports

_LONG_S = 3600.0


def _request(method: str, reported: asyncio.Event, limit_s: float) -> asyncio.Task[None]:
    """Return a request under way; it is done when the application has been called."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    wrapped = WaitForReports(app, reported, limit_s)
    return asyncio.ensure_future(wrapped({"type": "http", "method": method}, None, None))  # type: ignore[arg-type]


async def _run_what_is_ready() -> None:
    """Let the loop run everything that needs no time to pass."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_request_waits_for_the_news() -> None:
    reported = asyncio.Event()
    request = _request("POST", reported, _LONG_S)
    await _run_what_is_ready()
    assert not request.done()
    reported.set()
    await _run_what_is_ready()
    assert request.done()


async def test_without_news_it_waits_no_longer_than_allowed() -> None:
    began_s = time.monotonic()
    request, late = _request("POST", asyncio.Event(), 0.1), asyncio.ensure_future(asyncio.sleep(1))
    done, _ = await asyncio.wait({request, late}, return_when=asyncio.FIRST_COMPLETED)
    late.cancel()
    assert request in done
    assert time.monotonic() - began_s > 0.09


async def test_who_asks_for_the_state_is_answered_at_once() -> None:
    reported = asyncio.Event()
    state = _request("GET", reported, _LONG_S)
    await _run_what_is_ready()
    assert state.done()
    reported.set()
    later = _request("POST", reported, _LONG_S)
    await _run_what_is_ready()
    assert later.done()
