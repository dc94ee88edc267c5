"""What the free slots of the KV pool hold: caches of finished sequences, so that a new prompt can start from them.

Prefixes are shared between requests of equal `cache_salt` only. Knows the pool; nothing of active sequences but their tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.onnx.kv_pool import KvPool

MIN_TOKENS = 16
"""Shorter common prefixes are computed anew: finding and copying them gains nothing."""


@dataclass(slots=True)
class CachedPrefix:
    """The cached tokens of one slot."""

    tokens: NDArray[np.int64]
    """At least `length` ids."""
    length: int
    salt: str | None
    used: int
    """The step in which it was last of use; the smallest is evicted first."""

    def count_common(self, prompt: NDArray[np.int64], salt: str | None) -> int:
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


class PrefixCache:
    """The prefixes in the slots that no active sequence owns, and their moves."""

    def __init__(self, pool: KvPool, slots: int, *, keep: bool) -> None:
        """Use the first `slots` slots of `pool`; without `keep` nothing is ever held or found."""
        self._pool = pool
        self._slots = slots
        self._keep = keep
        self._prefixes: dict[int, CachedPrefix] = {}

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return sum(prefix.length for prefix in list(self._prefixes.values()))

    def find_longest(self, prompt: NDArray[np.int64], salt: str | None, active: Mapping[int, CachedPrefix]) -> Match | None:
        """Return the best match worth using, in a free slot or an `active` one.

        The prompt's last two tokens are never taken: the last one's logits are needed, and no chunk has one token.
        """
        if not self._keep:
            return None
        wanted = prompt[:-2]
        slots = self._prefixes | dict(active)
        length, slot = max(((prefix.count_common(wanted, salt), slot) for slot, prefix in slots.items()), default=(0, -1))
        return Match(slot, length) if length >= MIN_TOKENS else None

    def keep(self, slot: int, prefix: CachedPrefix) -> None:
        """Hold what a finished sequence leaves in a slot that has become free."""
        if self._keep and prefix.length >= MIN_TOKENS:
            self._prefixes[slot] = prefix

    def free_position(self, slot: int) -> int:
        """Return a position of a free slot that may be written without harm to what it holds."""
        prefix = self._prefixes.get(slot)
        if prefix is None:
            return 0
        prefix.length = min(prefix.length, self._pool.max_len - 1)
        return prefix.length

    def make_room(self, slot: int, match: Match | None, now: int, prompt_token_s: float) -> None:
        """Give the first free slot up to a new sequence, with the matched prefix in it.

        A held prefix is taken over when the new prompt contains it whole, or all but a rest that is computed sooner (at
        `prompt_token_s` seconds a token) than the common part is copied; else the least recently useful one is evicted.
        """
        prefixes = self._prefixes
        source = prefixes.get(match.slot) if match else None
        if match and source:
            source.used = now
            rest = source.length - match.length
            if rest * prompt_token_s < match.length * self._pool.copy_token_s or not rest:
                self._swap(slot, match.slot)
                del prefixes[slot]
                return
        free = [at for at in range(slot, self._slots) if match is None or at != match.slot] or [slot]
        victim = min(free, key=lambda at: prefixes[at].used if at in prefixes else -1)
        prefixes.pop(victim, None)
        if victim != slot and slot in prefixes:
            self._pool.copy(slot, victim, prefixes[slot].length)
            prefixes[victim] = prefixes.pop(slot)
        if match and match.slot != slot:
            self._pool.copy(match.slot, slot, match.length)

    def _swap(self, one: int, other: int) -> None:
        if one == other:
            return
        pair = {one: self._prefixes.pop(other, None), other: self._prefixes.pop(one, None)}
        self._pool.swap(one, other, max(prefix.length for prefix in pair.values() if prefix))
        self._prefixes |= {slot: prefix for slot, prefix in pair.items() if prefix}
