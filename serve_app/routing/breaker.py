"""Circuit breakers: who failed too often lately and is left alone, and the requests that find out whether it has recovered.

Pure: the clock is the caller's monotonic seconds. Knows neither groups nor errors; who calls decides what a failure is. A client's
mistake is none, and neither is a full queue.

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
    """What a breaker lets through: everything, nothing, or one probe at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission for one request, to be given back with its outcome. One from before the last change of state counts no more."""

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
        self._row = 0
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
        """Tell whether `admit` would give a ticket."""
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
        """Take the outcome of a request."""
        if ticket.epoch != self._epoch:
            return
        if self._opened_s is None:
            self._count(ok, now)
        elif not ok:
            self._open(now)
        else:
            self._probed_s = None
            self._recovered += 1
            if self._recovered >= self._settings.successes:
                self._close()

    def release(self, ticket: Ticket) -> None:
        """Take a ticket back whose request says nothing: it was refused, or its client left."""
        if ticket.epoch == self._epoch:
            self._probed_s = None

    def retry_after_s(self, now: float) -> float:
        """Return the seconds until it may admit again, 0 when it does."""
        if self.admits(now):
            return 0.0
        since = self._opened_s if self._probed_s is None else self._probed_s
        return max(0.0, (since or 0.0) + self._settings.open_s - now)

    def _count(self, ok: bool, now: float) -> None:
        self._row = 0 if ok else self._row + 1
        self._outcomes.append((now, ok))
        self._failed += not ok
        while self._outcomes[0][0] <= now - self._settings.window_s:
            self._failed -= not self._outcomes.popleft()[1]
        many = len(self._outcomes) >= self._settings.min_requests
        share = self._failed / len(self._outcomes)
        if self._row >= self._settings.failures or (many and share >= self._settings.failure_ratio):
            self._open(now)

    def _open(self, now: float) -> None:
        self._change()
        self._opened_s = now

    def _close(self) -> None:
        self._change()
        self._opened_s = None

    def _change(self) -> None:
        self._epoch += 1
        self._row = self._failed = self._recovered = 0
        self._outcomes.clear()
        self._probed_s = None


Key = TypeVar("Key", bound=Hashable)


class Breakers(Generic[Key]):
    """A breaker per key, made when first asked for. One that is closed and long unused is forgotten."""

    _KEEP = 1024

    def __init__(self, settings: BreakerSettings) -> None:
        """Give every breaker the same settings."""
        self._settings = settings
        self._breakers: dict[Key, Breaker] = {}

    def __getitem__(self, key: Key) -> Breaker:
        """Return the breaker of `key`."""
        breaker = self._breakers.pop(key, None) or Breaker(self._settings)
        self._breakers[key] = breaker  # the last asked for is the last to be forgotten
        if len(self._breakers) > self._KEEP:
            del self._breakers[next(iter(self._breakers))]
        return breaker

    def state(self, key: Key, now: float) -> BreakerState:
        """Return the state of one without making it."""
        breaker = self._breakers.get(key)
        return BreakerState.CLOSED if breaker is None else breaker.state(now)

    def admits(self, key: Key, now: float) -> bool:
        """Tell whether the one of `key` admits, without making it."""
        breaker = self._breakers.get(key)
        return breaker is None or breaker.admits(now)
