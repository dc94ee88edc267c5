"""The families of synthetic conversations, each a module of samplers; this file holds the mixture.

A family's sampler draws one example from a seeded random source. Whether an example may be trained on is decided by its
key alone (`conversation.is_held_out`), so that train and test never share a problem.
"""

from collections.abc import Iterator
from random import Random

from training.conversation import Example, Sampler, is_held_out
from training.families import arithmetic, chat, code, journeys, logic, long_prompts, tools, tutorial

MIXTURE: dict[Sampler, float] = {
    tutorial.tutorial: 6,
    chat.small_talk: 4,
    chat.identity: 3,
    chat.definition: 6,
    chat.capital_letters: 5,
    chat.repeat: 14,
    chat.styled: 4,
    chat.memory: 3,
    arithmetic.plain: 14,
    arithmetic.steps: 3,
    arithmetic.percentage: 3,
    arithmetic.unit_price: 3,
    arithmetic.greatest_divisor: 2,
    arithmetic.counting: 5,
    journeys.faster_journey: 6,
    journeys.two_legs: 6,
    journeys.compound_interest: 5,
    journeys.scaled_rectangle: 4,
    journeys.rectangle_area: 2,
    code.program: 6,
    logic.syllogism: 6,
    logic.ordering: 3,
    tools.single_call: 8,
    tools.no_call: 2,
    tools.with_result: 2,
    tools.json_answer: 2,
}
"""Relative number of examples, not of tokens."""

FINITE = frozenset({tutorial.tutorial, chat.small_talk, chat.identity, chat.definition, code.program})
"""Families whose answers cannot be derived, only known: nothing of them is held out but phrasings asked otherwise."""


def draw(sampler: Sampler, rng: Random, *, held_out: bool) -> Example:
    """Draw one example from the wanted side of the split."""
    while True:
        example = sampler(rng)
        if sampler in FINITE or is_held_out(example.key) == held_out:
            return example


def mixture(seed: int, *, long_share: float = 0.0) -> Iterator[Example]:
    """Yield training examples for ever; the same seed gives the same stream.

    `long_share` of them stand behind hundreds or thousands of tokens of filler.
    """
    rng = Random(seed)
    samplers, weights = list(MIXTURE), list(MIXTURE.values())
    while True:
        example = draw(rng.choices(samplers, weights)[0], rng, held_out=False)
        if rng.random() < long_share:
            example = long_prompts.bury(rng, example, rng.choice((40, 100, 180, 260)))
        elif rng.random() < 0.03:
            example = long_prompts.bury(rng, example, rng.randint(1, 12))
        if rng.random() < 0.06:
            example = chat.greeted(rng, example)
        elif rng.random() < 0.2:
            example = chat.framed(rng, example)
        yield example
