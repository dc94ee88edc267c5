"""What the slots of the KV pool hold: the tokens whose keys and values lie there, so that a new prompt can start from them.

Bookkeeping only; `batch` moves the memory. Prefixes are shared between requests of equal `cache_salt` only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_TOKENS = 16
"""Shorter common prefixes are computed anew: finding and copying them gains nothing."""


@dataclass(slots=True)
class Held:
    """The cached tokens of one slot."""

    tokens: NDArray[np.int64]
    """At least `length` ids."""
    length: int
    salt: str | None
    used: int
    """The step in which it was last of use; the smallest is evicted first."""

    def common(self, prompt: NDArray[np.int64], salt: str | None) -> int:
        """Return how many leading tokens of `prompt` lie here; 0 for another salt."""
        if self.salt != salt:
            return 0
        most = min(self.length, len(prompt))
        differ = np.flatnonzero(self.tokens[:most] != prompt[:most])
        return int(differ[0]) if differ.size else most


@dataclass(frozen=True, slots=True)
class Match:
    """The slot with the longest common prefix, and its length in tokens."""

    slot: int
    length: int


def longest(slots: dict[int, Held], prompt: NDArray[np.int64], salt: str | None) -> Match | None:
    """Return the best match worth using. The prompt's last token is never taken: its logits are needed."""
    wanted = prompt[:-1]
    found = max(((held.common(wanted, salt), slot) for slot, held in slots.items()), default=(0, -1))
    return Match(found[1], found[0]) if found[0] >= LEAST_TOKENS else None
