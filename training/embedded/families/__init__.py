"""The families of synthetic conversations, each a module of samplers; `texts/mixture.yaml` has their weights.

A family's sampler draws one example from a seeded random source. Whether an example may be trained on is decided by its
key alone (`conversation.is_held_out`), so that train and test never share a problem.
"""

from collections.abc import Iterator
from dataclasses import replace
from pkgutil import resolve_name
from random import Random

from training.embedded.conversation import Example, Sampler, is_held_out
from training.embedded.families import chat, text_calls, tools, tutorial
from training.embedded.families.texts import load

MIXTURE: dict[Sampler, float] = {resolve_name(f"{__name__}.{sampler}"): weight for sampler, weight in load("mixture").items()}
"""Relative number of examples, not of tokens."""

FINITE = frozenset({tutorial.tutorial, chat.small_talk, chat.identity, chat.definition})
"""Families whose answers cannot be derived, only known: nothing of them is held out."""


def draw(sampler: Sampler, rng: Random, *, held_out: bool) -> Example:
    """Draw one example from the wanted side of the split."""
    while True:
        example = sampler(rng)
        if sampler in FINITE or is_held_out(example.key) == held_out:
            return example


def mixture(seed: int, *, long_share: float = 0.0) -> Iterator[Example]:
    """Yield training examples without end; the same seed gives the same stream.

    `long_share` of them stand behind hundreds or thousands of tokens of filler. A third of the examples without a system
    message become the turns of one conversation.
    """
    rng = Random(seed)
    samplers, weights = list(MIXTURE), list(MIXTURE.values())
    waiting: list[Example] = []
    while True:
        example = draw(rng.choices(samplers, weights)[0], rng, held_out=False)
        if rng.random() < long_share:
            yield text_calls.bury(rng, example, rng.choice((40, 100, 180, 260, 330)))
        elif example.messages[0].role != "system" and rng.random() < 0.33:
            waiting.append(example)
            if len(waiting) >= rng.choice((2, 3, 4)):
                joined = replace(example, messages=tuple(turn for part in waiting for turn in part.messages))
                yield chat.framed(rng, joined) if rng.random() < 0.3 else joined
                waiting = []
        elif rng.random() < 0.03:
            yield text_calls.bury(rng, example, rng.randint(1, 12))
        elif not any(turn.tools or turn.role == "tool" for turn in example.messages) and rng.random() < 0.05:
            yield text_calls.headed(rng, example)
        elif example.messages[0].role != "system" and rng.random() < 0.06:
            yield tools.parse_tools(rng, example)
        elif rng.random() < 0.2:
            yield chat.framed(rng, example)
        else:
            yield example
