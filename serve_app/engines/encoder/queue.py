"""The inputs that wait, and which of them are computed together. Pure; knows lengths, no tokens and no vectors.

A batch has inputs of similar length, since all are padded to the longest one. Requests share the engine fairly: each input has a
tag, the work of its own request up to and including it since the request came (start-time fair queueing), and the input with the
smallest tag is always part of the next batch. So a short request is not behind the whole of a long one, and none starves.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

_STRETCH = 2.0
"""A batch's longest input has at most so many times the tokens of the shortest one: less than half is padding."""
_SHORT = 16
"""Up to this length the lengths do not matter: the fixed cost of a call is more than the padding's."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One input that waits."""

    owner: Hashable
    """The request that it belongs to."""
    index: int
    """Its place in the request."""
    length: int
    """Its tokens."""
    tag: float = field(compare=False)
    """Where it stands in the fair order."""


class InputQueue:
    """Inputs of all requests. Belongs to whoever holds the engine's lock."""

    def __init__(self, max_batch_tokens: int) -> None:
        """Compute at most so many tokens at once, padding included; an input that is longer comes alone."""
        self._max_batch_tokens = max_batch_tokens
        self._inputs: list[Waiting] = []
        self._now = 0.0

    def __len__(self) -> int:
        """Return the number of inputs that wait."""
        return len(self._inputs)

    @property
    def tokens(self) -> int:
        """Tokens of the inputs that wait."""
        return sum(each.length for each in self._inputs)

    def add(self, owner: Hashable, lengths: list[int]) -> None:
        """Add a request's inputs."""
        tag = self._now
        for index, length in enumerate(lengths):
            tag += length
            self._inputs.append(Waiting(owner, index, length, tag))

    def drop(self, owner: Hashable) -> None:
        """Forget a request's inputs."""
        self._inputs = [each for each in self._inputs if each.owner is not owner]

    def take(self) -> list[Waiting]:
        """Remove and return the next batch, empty when nothing waits."""
        if not self._inputs:
            return []
        ordered = sorted(self._inputs, key=lambda each: (each.length, each.tag))
        leader = min(range(len(ordered)), key=lambda at: ordered[at].tag)
        first, last = self._grow(ordered, leader)
        batch = ordered[first : last + 1]
        self._now = max(self._now, ordered[leader].tag)
        taken = set(map(id, batch))
        self._inputs = [each for each in ordered if id(each) not in taken]  # almost in order, so that the next sort is short
        return batch

    def _grow(self, ordered: list[Waiting], leader: int) -> tuple[int, int]:
        """Return the bounds of the batch around `leader`: neighbours in length, the nearest first, while they fit."""
        first = last = leader
        while True:
            best: tuple[int, int, int] | None = None
            for low, high in ((first - 1, last), (first, last + 1)):
                if low < 0 or high >= len(ordered):
                    continue
                shortest, longest = ordered[low].length, ordered[high].length
                fits = (high - low + 1) * longest <= self._max_batch_tokens
                if fits and longest <= max(_SHORT, _STRETCH * shortest):
                    gap = abs((ordered[low] if low < first else ordered[high]).length - ordered[leader].length)
                    best = min(best or (gap, low, high), (gap, low, high))
            if best is None:
                return first, last
            _, first, last = best
