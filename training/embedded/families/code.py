"""Coding tasks: short Python programs in a fenced block."""

from random import Random

from training.embedded.conversation import OPEN_KEY, Check, Example, ask
from training.embedded.families.programs import PROGRAMS
from training.embedded.families.programs.tutorial import TUTORIAL

_SYSTEMS = (
    "",
    "",
    "",
    "You are a coding assistant.",
    "You are a helpful coding assistant.",
    "You are an expert Python programmer.",
)
_FRAMES = (
    "Write {}.",
    "Write {} in Python.",
    "Please write {} in Python.",
    "Implement {}.",
    "Implement {} in Python.",
    "Can you write {}?",
    "Can you implement {} in Python?",
    "I need {} in Python.",
    "Give me {}.",
    "Show me {} in Python.",
    "Create {} in Python.",
    "How do I write {} in Python?",
    "Python code for {}, please.",
    "Could you show {}?",
)
_ENDINGS = ("", "", "", " Include comments.", " Add a docstring.", " Explain it in comments.", " Keep it short.")


def program(rng: Random) -> Example:
    """Draw a task; the tutorial's four are drawn more often. Composed questions are held out by their wording."""
    chosen = rng.choice(list((TUTORIAL if rng.random() < 0.35 else PROGRAMS).values()))
    if rng.random() < 0.25:
        question, key = rng.choice(chosen.asks), OPEN_KEY
    else:
        question = key = rng.choice(_FRAMES).format(rng.choice(chosen.nouns)) + rng.choice(_ENDINGS)
    check = Check(kind="code", expected=chosen.test)
    return ask("coding", key, question, f"```python\n{chosen.text}```", check, system=rng.choice(_SYSTEMS))
