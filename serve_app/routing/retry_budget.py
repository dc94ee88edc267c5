"""Limits retries to a share of the requests, so that they never multiply the load of failing engines. Pure."""


class RetryBudget:
    """A balance of retries: every request adds a share of one, every retry takes one.

    It starts with, and is capped at, `reserve` retries: one dying replica breaks many streams at once, and all of them may
    continue. The reserve refills within a minute, so that failover works without traffic too. Within t seconds there are at most
    ratio x requests + reserve x (1 + t / 60) retries.
    """

    _REFILL_S = 60.0

    def __init__(self, ratio: float, reserve: int) -> None:
        """Start with the whole reserve."""
        self._ratio = ratio
        self._reserve = float(reserve)
        self._balance = self._reserve
        self._refilled_s: float | None = None

    def deposit(self, now: float) -> None:
        """Count a request."""
        self._refill(now)
        self._balance = min(self._balance + self._ratio, max(self._reserve, 1.0))

    def withdraw(self, now: float) -> bool:
        """Take one retry; return False when none is left."""
        self._refill(now)
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True

    def _refill(self, now: float) -> None:
        if self._refilled_s is not None:
            refilled = self._balance + self._reserve / self._REFILL_S * (now - self._refilled_s)
            self._balance = min(refilled, max(self._reserve, 1.0))
        self._refilled_s = now
