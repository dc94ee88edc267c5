"""The prefix cache: free slots of the KV pool keep the caches of finished sequences, and new prompts start from them.

Prefixes are shared only between requests of equal `cache_salt`. Knows the pool; of active sequences only their tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.onnx.kv_pool import KvPool

MIN_TOKENS = 16
"""Shorter common prefixes are computed again: finding and copying them gains nothing."""


@dataclass(slots=True)
class CachedPrefix:
    """The cached tokens of one slot."""

    tokens: NDArray[np.int64]
    """At least `length` ids."""
    length: int
    salt: str | None
    used: int
    """The step of its last use; the smallest is evicted first."""

    def count_common(self, prompt: NDArray[np.int64], salt: str | None) -> int:
        """Return how many leading tokens of `prompt` are cached here; 0 for another salt."""
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
    """The prefixes in the slots that no active sequence owns."""

    def __init__(self, pool: KvPool, slots: int, *, keep: bool) -> None:
        """Use the first `slots` slots of `pool`; without `keep` nothing is kept or found."""
        self._pool = pool
        self._slots = slots
        self._keep = keep
        self._prefixes: dict[int, CachedPrefix] = {}

    @property
    def tokens(self) -> int:
        """Tokens of all kept prefixes."""
        return sum(prefix.length for prefix in list(self._prefixes.values()))

    def find_longest(self, prompt: NDArray[np.int64], salt: str | None, active: Mapping[int, CachedPrefix]) -> Match | None:
        """Return the longest match worth using, in a free slot or an `active` one.

        The prompt's last two tokens are never taken: the last one's logits are needed, and no chunk has one token.
        """
        if not self._keep:
            return None
        wanted = prompt[:-2]
        slots = self._prefixes | dict(active)
        length, slot = max(((prefix.count_common(wanted, salt), slot) for slot, prefix in slots.items()), default=(0, -1))
        return Match(slot, length) if length >= MIN_TOKENS else None

    def keep(self, slot: int, prefix: CachedPrefix) -> None:
        """Keep the cache of a finished sequence in a slot that has become free."""
        if self._keep and prefix.length >= MIN_TOKENS:
            self._prefixes[slot] = prefix

    def find_free_position(self, slot: int) -> int:
        """Return a position of a free slot that may be overwritten, after shortening a prefix that fills the slot."""
        prefix = self._prefixes.get(slot)
        if prefix is None:
            return 0
        prefix.length = min(prefix.length, self._pool.max_len - 1)
        return prefix.length

    def make_room(self, slot: int, match: Match | None, now: int, prompt_token_s: float) -> None:
        """Free the slot `slot`, the first free one, for a new sequence, and put the matched prefix into it.

        The matched prefix moves there when the new prompt contains all of it, or when its rest can be computed again (at
        `prompt_token_s` seconds a token) sooner than the common part is copied. Otherwise the common part is copied, and the least
        recently used prefix is evicted.
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
