"""Tokens per second over the last few seconds. Knows nothing of what it counts."""

import time
from collections import deque


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
