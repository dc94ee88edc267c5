"""Speculation without a second model: drafts the tokens that followed the last ones earlier in the text.

Suits text that repeats its prompt: edits, quotations, tool calls, code. Decides by measurement whether drafting pays. Knows tokens
and seconds; `batch` verifies the drafts, each in one call.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LONGEST_KEY = 3
_SHORTEST_KEY = 2
_PROBE_EVERY = 32
"""While drafting does not pay, one step in so many drafts anyway, to notice when it does."""
_MEMORY = 0.9
"""Weight of the past in the averages."""


def draft(tokens: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return up to `most` tokens that followed the latest earlier occurrence of the last three, or two, tokens; maybe none."""
    for size in range(_LONGEST_KEY, _SHORTEST_KEY - 1, -1):
        starts = tokens.size - size
        if starts < 1:
            continue
        key = tokens[-size:]
        found = np.flatnonzero(tokens[:starts] == key[0])
        for offset in range(1, size):
            found = found[tokens[found + offset] == key[offset]]
        if found.size:
            after = int(found[-1]) + size
            return tokens[after : after + most]
    return tokens[:0]


@dataclass(slots=True)
class Payoff:
    """Compares tokens per second with and without drafts."""

    step_s: float = 0.0
    """Mean seconds of a step without a draft, which gives one token."""
    verify_s: float = 0.0
    """Mean seconds of a step with one."""
    gained: float = 1.0
    """Mean tokens of a step with a draft; above 1."""
    drafted: int = 0
    accepted: int = 0
    """Tokens, since the start."""
    _since_probe: int = 0

    def is_worth_drafting(self) -> bool:
        """Return whether the next step should draft. Call once for each step that has a draft."""
        if not self.step_s or not self.verify_s or self.gained * self.step_s > self.verify_s:
            return bool(self.step_s)
        self._since_probe += 1
        if self._since_probe < _PROBE_EVERY:
            return False
        self._since_probe = 0
        return True

    def record_step(self, seconds: float) -> None:
        """Record a step without a draft."""
        self.step_s = _average(self.step_s, seconds)

    def record_verification(self, seconds: float, drafted: int, accepted: int) -> None:
        """Record a step with a draft of so many tokens, so many of them right."""
        self.verify_s = _average(self.verify_s, seconds)
        self.gained = _average(self.gained, 1.0 + accepted)
        self.drafted += drafted
        self.accepted += accepted


def _average(before: float, now: float) -> float:
    return _MEMORY * before + (1 - _MEMORY) * now if before else now
