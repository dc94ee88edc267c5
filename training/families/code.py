"""Coding tasks: short Python programs in a fenced block."""

from random import Random

from training.conversation import Check, Example, ask
from training.families.code_texts import PROGRAMS

_SYSTEMS = (
    "",
    "",
    "",
    "You are a coding assistant.",
    "You are a helpful coding assistant.",
    "You are an expert Python programmer.",
)


def program(rng: Random) -> Example:
    """Draw a task; the tutorial's four are drawn more often."""
    names = list(PROGRAMS)
    return _example(rng, rng.choice(names[:4] if rng.random() < 0.5 else names))


def _example(rng: Random, name: str) -> Example:
    chosen = PROGRAMS[name]
    question = rng.choice(chosen.asks)
    answer = f"```python\n{chosen.text}```"
    return ask("coding", question, question, answer, Check(kind="code", expected=chosen.test), system=rng.choice(_SYSTEMS))
