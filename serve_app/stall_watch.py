"""Ends an engine's stream with an error when the request's time is over, when the stream stalls, or when it is told to.

Knows one stream and a clock; no text, dialect or retry.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from serve_app.config import RoutingSettings
from serve_app.errors import DeadlineExceeded, EngineDead, ServeError

Event = TypeVar("Event")
_CHECK_EVERY_S = 1.0
"""How often reports are checked, once an event has been awaited for longer than a report may take."""
_LEAST_PAUSE_S = 0.02
"""Least time between two checks."""


class StallWatch:
    """Awaits one engine's events.

    One timer serves the whole stream, instead of one per event: it fires when a check may be due, checks, and is set again.
    """

    def __init__(self, settings: RoutingSettings, group: str, deadline: float, is_silent: Callable[[], bool]) -> None:
        """Start; `deadline` is on the loop's clock, `is_silent` returns whether the replica has stopped reporting."""
        self._settings = settings
        self._group = group
        self._deadline = deadline
        self._is_silent = is_silent
        self._loop = asyncio.get_running_loop()
        self._awaiting: asyncio.Timeout | None = None
        self._since = self._loop.time()
        self._has_begun = False
        self._failure: ServeError | None = None
        self._schedule_check()

    async def next(self, stream: AsyncGenerator[Event, None]) -> Event | None:
        """Return the next event or None at the end; raises `DeadlineExceeded` or `EngineDead` when it gives up."""
        self._since = self._loop.time()
        if self._failure is not None:
            raise self._failure
        if self._since >= self._deadline:
            raise _deadline_exceeded()
        try:
            async with asyncio.timeout(None) as self._awaiting:
                event = await anext(stream, None)
        except TimeoutError as error:
            raise self._failure or _deadline_exceeded() from error
        finally:
            self._awaiting = None
        if not self._has_begun:
            self._has_begun = True
            self.close()
            self._schedule_check()  # from now on a pause may be shorter
        return event

    def stop(self, error: ServeError) -> None:
        """End the stream with `error`, at once or when the next event is asked for."""
        self._failure = error
        if self._awaiting is not None:
            self._awaiting.reschedule(self._loop.time())

    def close(self) -> None:
        """Stop checking."""
        self._timer.cancel()

    def _schedule_check(self) -> None:
        now, due = self._loop.time(), self._deadline
        if self._has_begun:
            # The first token may wait behind other requests and a long prompt; later tokens may not.
            due = min(due, self._since + self._settings.stall_timeout_s)
        due = min(due, max(now + _CHECK_EVERY_S, self._since + self._settings.stale_after_s))
        due = max(due, now + _LEAST_PAUSE_S)
        self._timer = self._loop.call_at(due, self._check, due)

    def _check(self, due: float) -> None:
        now = self._loop.time()
        waited_s = now - self._since
        # After a time in which this process itself did not run, unread reports may be waiting.
        awake = now - due < _CHECK_EVERY_S
        if self._awaiting is None:
            pass  # the client is slow, not the engine
        elif now >= self._deadline:
            self._failure = _deadline_exceeded()
        elif self._has_begun and waited_s >= self._settings.stall_timeout_s:
            self._failure = EngineDead(f"a stream of group {self._group} sent nothing for {waited_s:.1f} s")
        elif awake and waited_s >= self._settings.stale_after_s and self._is_silent():
            self._failure = EngineDead(f"a replica of group {self._group} has fallen silent")
        if self._failure is None or self._awaiting is None:
            self._schedule_check()
        else:
            self._awaiting.reschedule(now)


def _deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("the time for this request is over; ask for fewer tokens or allow more time")
