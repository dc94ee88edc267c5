"""The families of synthetic conversations, each a module of samplers; this file holds the mixture.

A family's sampler draws one example from a seeded random source. Whether an example may be trained on is decided by its
key alone (`conversation.is_held_out`), so that train and test never share a problem.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from training.embedded.conversation import Example, Sampler, is_held_out
from training.embedded.families import arithmetic, chat, code, everyday, journeys, logic, long_prompts, text_calls, tools, tutorial

MIXTURE: dict[Sampler, float] = {
    tutorial.tutorial: 5,
    chat.small_talk: 2,
    chat.identity: 1,
    chat.definition: 2,
    chat.capital_letters: 5,
    chat.repeat: 6,
    chat.styled: 7,
    chat.memory: 1,
    arithmetic.plain: 16,
    arithmetic.steps: 4,
    arithmetic.percentage: 5,
    arithmetic.unit_price: 5,
    arithmetic.greatest_divisor: 6,
    arithmetic.counting: 3,
    journeys.faster_journey: 10,
    journeys.two_legs: 2,
    journeys.compound_interest: 12,
    journeys.scaled_rectangle: 2,
    journeys.rectangle_area: 1,
    code.program: 3,
    logic.syllogism: 7,
    logic.ordering: 8,
    tools.single_call: 26,
    tools.odd_name: 6,
    tools.parallel_calls: 24,
    tools.no_call: 15,
    tools.with_result: 5,
    tools.json_answer: 4,
    everyday.everyday: 12,
    everyday.several: 8,
    everyday.no_everyday: 3,
    text_calls.text_call: 9,
}
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
    """Yield training examples for ever; the same seed gives the same stream.

    `long_share` of them stand behind hundreds or thousands of tokens of filler. A third of the examples without a system
    message become the turns of one conversation.
    """
    rng = Random(seed)
    samplers, weights = list(MIXTURE), list(MIXTURE.values())
    waiting: list[Example] = []
    while True:
        example = draw(rng.choices(samplers, weights)[0], rng, held_out=False)
        if rng.random() < long_share:
            yield long_prompts.bury(rng, example, rng.choice((40, 100, 180, 260, 330)))
        elif example.messages[0].role != "system" and rng.random() < 0.33:
            waiting.append(example)
            if len(waiting) >= rng.choice((2, 3, 4)):
                turns = tuple(turn for part in waiting for turn in part.messages)
                yield (
                    chat.framed(rng, replace(waiting[-1], messages=turns))
                    if rng.random() < 0.3
                    else replace(waiting[-1], messages=turns)
                )
                waiting = []
        elif rng.random() < 0.03:
            yield long_prompts.bury(rng, example, rng.randint(1, 12))
        elif not any(turn.tools or turn.role == "tool" for turn in example.messages) and rng.random() < 0.05:
            yield text_calls.headed(rng, example)
        elif example.messages[0].role != "system" and rng.random() < 0.06:
            yield tools.offered(rng, example)
        elif rng.random() < 0.2:
            yield chat.framed(rng, example)
        else:
            yield example
