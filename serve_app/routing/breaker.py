"""Circuit breakers: they block a target that failed too often, then probe whether it has recovered.

Pure: the clock is the caller's monotonic seconds. Knows neither groups nor errors; the caller decides what a failure is. A client's
mistake is no failure, and neither is a full queue.

    closed --too many failures--> open --open_s--> half-open --enough probes succeed--> closed
                                   ^-----------a probe fails------------'
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from serve_app.config import BreakerSettings


class BreakerState(StrEnum):
    """The state of a breaker: it admits everything, nothing, or one probe at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission for one request, to be given back with its outcome; without effect once the state has changed."""

    epoch: int


class Breaker:
    """One circuit breaker.

    Contract: every ticket of `admit` goes to `record` or `release` once. While open nothing is admitted; while half-open at most
    one ticket is out, or one more per `open_s` when a probe does not come back.
    """

    def __init__(self, settings: BreakerSettings) -> None:
        """Start closed."""
        self._settings = settings
        self._epoch = 0
        self._opened_s: float | None = None
        self._failures_in_a_row = 0
        self._failed = 0
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._probed_s: float | None = None
        self._recovered = 0

    def state(self, now: float) -> BreakerState:
        """Return its state as of `now`."""
        if self._opened_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now - self._opened_s < self._settings.open_s else BreakerState.HALF_OPEN

    def admits(self, now: float) -> bool:
        """Return whether `admit` would give a ticket."""
        state = self.state(now)
        if state is not BreakerState.HALF_OPEN:
            return state is BreakerState.CLOSED
        return self._probed_s is None or now - self._probed_s >= self._settings.open_s

    def admit(self, now: float) -> Ticket | None:
        """Return a ticket for one request, None when it must not be sent."""
        if not self.admits(now):
            return None
        if self._opened_s is not None:
            self._probed_s = now
        return Ticket(self._epoch)

    def record(self, ticket: Ticket, *, ok: bool, now: float) -> None:
        """Record the outcome of a request."""
        if ticket.epoch != self._epoch:
            return
        if self._opened_s is None:
            self._count_outcome(ok, now)
        elif not ok:
            self._open(now)
        else:
            self._probed_s = None
            self._recovered += 1
            if self._recovered >= self._settings.successes:
                self._close()

    def release(self, ticket: Ticket) -> None:
        """Take back a ticket without an outcome: the request was refused, or its client left."""
        if ticket.epoch == self._epoch:
            self._probed_s = None

    def retry_after_s(self, now: float) -> float:
        """Return the seconds until it may admit again, 0 when it admits now."""
        if self.admits(now):
            return 0.0
        since_s = self._opened_s if self._probed_s is None else self._probed_s
        return max(0.0, (since_s or 0.0) + self._settings.open_s - now)

    def _count_outcome(self, ok: bool, now: float) -> None:
        self._failures_in_a_row = 0 if ok else self._failures_in_a_row + 1
        self._outcomes.append((now, ok))
        self._failed += not ok
        while self._outcomes[0][0] <= now - self._settings.window_s:
            self._failed -= not self._outcomes.popleft()[1]
        enough = len(self._outcomes) >= self._settings.min_requests
        share = self._failed / len(self._outcomes)
        if self._failures_in_a_row >= self._settings.failures or (enough and share >= self._settings.failure_ratio):
            self._open(now)

    def _open(self, now: float) -> None:
        self._reset()
        self._opened_s = now

    def _close(self) -> None:
        self._reset()
        self._opened_s = None

    def _reset(self) -> None:
        self._epoch += 1
        self._failures_in_a_row = self._failed = self._recovered = 0
        self._outcomes.clear()
        self._probed_s = None


Key = TypeVar("Key", bound=Hashable)


class Breakers(Generic[Key]):
    """A breaker per key, made at first use. Beyond `_KEEP` breakers the least recently used one is dropped."""

    _KEEP = 1024

    def __init__(self, settings: BreakerSettings) -> None:
        """Give every breaker the same settings."""
        self._settings = settings
        self._breakers: dict[Key, Breaker] = {}

    def __getitem__(self, key: Key) -> Breaker:
        """Return the breaker of `key`."""
        breaker = self._breakers.pop(key, None) or Breaker(self._settings)
        self._breakers[key] = breaker  # most recently used last
        if len(self._breakers) > self._KEEP:
            del self._breakers[next(iter(self._breakers))]
        return breaker

    def state(self, key: Key, now: float) -> BreakerState:
        """Return the state of the breaker of `key` without making one."""
        breaker = self._breakers.get(key)
        return BreakerState.CLOSED if breaker is None else breaker.state(now)

    def admits(self, key: Key, now: float) -> bool:
        """Return whether the breaker of `key` admits, without making one."""
        breaker = self._breakers.get(key)
        return breaker is None or breaker.admits(now)
