"""Makes prompts of an exact number of tokens, out of words whose tokens the application itself has counted.

Byte-level BPE never merges across the blank before a word, so the tokens of a text are the sum of its words' tokens.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from serve_app.bench.plan import BenchError

WORDS: tuple[str, ...] = (
    "a", "the", "of", "to", "and", "in", "is", "it", "you", "that", "he", "was", "for", "on", "are", "with", "as", "his",
    "they", "at", "be", "this", "from", "have", "or", "by", "one", "had", "not", "but", "what", "all", "were", "when", "we",
    "there", "can", "an", "your", "which", "their", "said", "if", "do", "will", "each", "about", "how", "up", "out", "them",
    "then", "she", "many", "some", "so", "these", "would", "other", "into", "has", "more", "her", "two", "like", "him",
    "see", "time", "could", "no", "make", "than", "first", "been", "its", "who", "now", "people", "my", "made", "over",
    "did", "down", "only", "way", "find", "use", "may", "water", "long", "little", "very", "after", "word", "called", "just",
    "where", "most", "know", "river", "stone", "garden", "window", "paper", "music", "winter", "market", "village",
    "mountain",
)  # fmt: skip
"""Plain words, so that texts look like text."""
_FIRST = "Story:"
"""Begins every prompt: the tokens of a first word depend on what stands before it, those of later words do not."""
_CHECKED = 4
"""Prompts whose length is asked before a run; every answer tells its prompt's length again."""
_ATTEMPTS = 4
_AT_ONCE = 8

Count = Callable[[str], Awaitable[int]]
"""Returns the tokens of a prompt with this text."""


class PromptMaker:
    """Makes prompts of one length for one model; `calibrate` comes first."""

    def __init__(self, tokens: int, shared_tokens: int, seed: int) -> None:
        """Make prompts of `tokens`, of which about `shared_tokens` are common to all."""
        self._tokens = tokens
        self._shared_tokens = shared_tokens
        self._seed = seed
        self._costs: dict[str, int] = {}
        self._opening = ""
        self._left = 0
        self._reachable: list[bool] = []

    async def calibrate(self, count_text: Count, count_prompt: Count) -> None:
        """Ask for the tokens of each word and of the template; raises `BenchError` where the length cannot be had."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def cost(word: str) -> int:
            async with gate:
                return await count_text(" " + word)

        self._costs = dict(zip(WORDS, await asyncio.gather(*map(cost, WORDS)), strict=True))
        self._opening = _FIRST
        overhead = await count_prompt(_FIRST)
        if self._shared_tokens:
            self._fit(min(self._shared_tokens, self._tokens - overhead))
            self._opening += self._draw(random.Random(f"{self._seed}:shared"), self._left)
            overhead = await count_prompt(self._opening)
        for _ in range(_ATTEMPTS):
            self._fit(self._tokens - overhead)
            lengths = [await count_prompt(self.make(f"check:{number}")) for number in range(_CHECKED)]
            if set(lengths) == {self._tokens}:
                return
            overhead += lengths[0] - self._tokens
        raise BenchError(
            f"no prompts of exactly {self._tokens} tokens can be made for this model: they have {sorted(set(lengths))}"
        )

    def make(self, key: str) -> str:
        """Return the prompt of a key: another one for each, the same one again for the same seed."""
        return self._opening + self._draw(random.Random(f"{self._seed}:{key}"), self._left)

    def _fit(self, left: int) -> None:
        """Prepare texts of so many tokens; `_reachable[n]` says whether words can add up to n."""
        if left < 0 or (left == 0 and self._opening == _FIRST):
            raise BenchError(f"{self._tokens} prompt tokens are too few: the template and a first word have {self._tokens - left}")
        self._left = left
        self._reachable = [True]
        for total in range(1, left + 1):
            self._reachable.append(any(cost <= total and self._reachable[total - cost] for cost in set(self._costs.values())))
        if not self._reachable[left]:
            raise BenchError(f"no words add up to {left} tokens with this model's tokenizer; choose another --prompt-tokens")

    def _draw(self, draw: random.Random, left: int) -> str:
        parts = []
        while left:
            word = draw.choice(WORDS)
            cost = self._costs[word]
            if cost <= left and self._reachable[left - cost]:
                parts.append(" " + word)
                left -= cost
        return "".join(parts)
