"""Puts filler before a question, so that the model learns to answer at the end of a long prompt."""

from dataclasses import replace
from random import Random

from training.embedded.conversation import Example
from training.embedded.families.texts import COMMON, say, sentence


def filler(rng: Random, sentences: int) -> str:
    """Write about 12 tokens of text of no consequence per sentence; sometimes one sentence over and over."""
    kind = rng.random()
    if kind < 0.2:
        return " ".join([sentence(rng)] * sentences)
    if kind < 0.3:
        return " ".join(rng.choice(COMMON) for _ in range(sentences * 8))
    if kind < 0.35:
        return (rng.choice(COMMON) + " ") * (sentences * 8)
    return " ".join(sentence(rng) for _ in range(sentences))


def bury(rng: Random, example: Example, sentences: int) -> Example:
    """Put filler before the text of the first user turn."""
    text = filler(rng, sentences) + say(rng, "after filler")
    turns = list(example.messages)
    at = next(index for index, turn in enumerate(turns) if turn.role == "user")
    turns[at] = replace(turns[at], content=text + turns[at].content)
    return replace(example, messages=tuple(turns))
