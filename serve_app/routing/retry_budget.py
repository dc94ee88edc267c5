"""How many further tries the traffic pays for, so that retries never multiply the load of engines that already fail. Pure."""


class RetryBudget:
    """A balance: every request pays a share of a try in, every further try takes one out.

    It starts with, and is capped at, `reserve` tries: one dying replica breaks many streams at once, and they may all go on. The
    reserve comes back within a minute, so that failover works without traffic too. Over any time t in seconds the further tries are
    at most ratio x requests + reserve x (1 + t / 60).
    """

    _REFILL_S = 60.0

    def __init__(self, ratio: float, reserve: int) -> None:
        """Start with the whole reserve."""
        self._ratio = ratio
        self._reserve = float(reserve)
        self._balance = self._reserve
        self._seen_s: float | None = None

    def deposit(self, now: float) -> None:
        """Count a request."""
        self._refill(now)
        self._balance = min(self._balance + self._ratio, max(self._reserve, 1.0))

    def withdraw(self, now: float) -> bool:
        """Take one further try; False when there is none left."""
        self._refill(now)
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True

    def _refill(self, now: float) -> None:
        if self._seen_s is not None:
            grown = self._balance + self._reserve / self._REFILL_S * (now - self._seen_s)
            self._balance = min(grown, max(self._reserve, 1.0))
        self._seen_s = now
