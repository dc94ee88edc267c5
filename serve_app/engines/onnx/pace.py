"""Estimates how long prompt chunks take, from the chunks so far. Knows neither graph nor requests.

A prompt token costs a fixed time and one that grows with the tokens before it (attention), so the seconds per token are a line over
its position in the prompt. The line is fitted to recent chunks, weighted by their tokens; older chunks weigh less and less.
"""

from dataclasses import dataclass

_KEPT = 0.8
"""Factor on the weight of earlier chunks at each new chunk."""


@dataclass(slots=True)
class PromptPace:
    """Seconds per prompt token at a position in its prompt; unknown before the first chunk."""

    _weight: float = 0.0
    _place: float = 0.0
    _each_s: float = 0.0
    _spread: float = 0.0
    """Weighted sum of squared distances from the mean place."""
    _slope_sum: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether any chunk has been observed."""
        return self._weight > 0

    def observe(self, tokens: int, past: int, seconds: float) -> None:
        """Learn from a chunk of `tokens` after `past` earlier ones that took `seconds`."""
        place, each_s = past + tokens / 2, seconds / tokens
        self._weight, self._spread, self._slope_sum = _KEPT * self._weight, _KEPT * self._spread, _KEPT * self._slope_sum
        self._weight += tokens
        moved, share = place - self._place, tokens / self._weight
        before = self._each_s
        self._place += share * moved
        self._each_s += share * (each_s - before)
        self._spread += tokens * moved * (place - self._place)
        self._slope_sum += tokens * moved * (each_s - self._each_s)

    def estimate_seconds(self, tokens: int, past: int) -> float:
        """Return the seconds that a chunk of `tokens` after `past` earlier ones should take; 0 when unknown."""
        slope = max(0.0, self._slope_sum / self._spread) if self._spread > 0 else 0.0
        each_s = self._each_s + slope * (past + tokens / 2 - self._place)
        return tokens * max(each_s, 0.2 * self._each_s)

    def fit_tokens(self, past: int, seconds: float) -> int:
        """Return how many tokens after `past` earlier ones take about `seconds`; 0 when that is too short for any."""
        if not self.is_known or seconds <= 0:
            return 0
        tokens = 1.0
        for _ in range(20):  # seconds() grows with tokens: the share by which it misses the target shrinks
            tokens = max(1.0, (tokens + tokens * seconds / self.estimate_seconds(max(1, round(tokens)), past)) / 2)
        return round(tokens) if self.estimate_seconds(round(tokens), past) <= 1.05 * seconds else round(tokens) - 1
