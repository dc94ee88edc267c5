"""Tokens per second: over the last few seconds, and over the time in which requests ran. Knows nothing of requests."""

import time
from collections import deque
from collections.abc import Callable


class Throughput:
    """A sliding count; `add` and `rate` may be called from different threads."""

    def __init__(self, window_s: float = 5.0) -> None:
        """Average over `window_s` seconds."""
        self._window_s = window_s
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, tokens: int) -> None:
        """Count tokens generated just now."""
        now = time.monotonic()
        self._counts.append((now, tokens))
        self._forget(now)

    def rate(self) -> float:
        """Return tokens per second over the window."""
        self._forget(time.monotonic())
        return sum(count for _, count in list(self._counts)) / self._window_s

    def _forget(self, now: float) -> None:
        while self._counts and self._counts[0][0] < now - self._window_s:
            self._counts.popleft()


class DrainRate:
    """Tokens per second of busy time: the capacity of an engine, while `Throughput` is its output.

    Busy is the time in which at least one request ran. Older time weighs less: each `window_s` of busy time halves it.
    """

    def __init__(self, window_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a measurement."""
        self._window_s = window_s
        self._clock = clock
        self._running = 0
        self._advanced_s = 0.0
        self._busy_s = 0.0
        self._stream_s = 0.0
        self._tokens = 0.0

    def enter(self) -> None:
        """Count a request that begins."""
        self._advance()
        self._running += 1

    def add(self, tokens: int) -> None:
        """Count tokens generated just now."""
        self._tokens += tokens

    def leave(self) -> None:
        """Count a request that ended, however."""
        self._advance()
        self._running -= 1

    @property
    def running(self) -> int:
        """Requests that have begun and not ended."""
        return self._running

    def rate(self) -> float:
        """Return tokens per second of busy time, 0 before the first token."""
        self._advance()
        return self._tokens / self._busy_s if self._busy_s > 0 else 0.0

    def stream_rate(self) -> float:
        """Return tokens per second of one request, from its start to its end."""
        self._advance()
        return self._tokens / self._stream_s if self._stream_s > 0 else 0.0

    def _advance(self) -> None:
        now = self._clock()
        if self._running:
            self._busy_s += now - self._advanced_s
            self._stream_s += self._running * (now - self._advanced_s)
        self._advanced_s = now
        if self._busy_s > 2 * self._window_s:
            self._busy_s, self._stream_s, self._tokens = self._busy_s / 2, self._stream_s / 2, self._tokens / 2
