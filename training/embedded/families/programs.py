"""Coding tasks: short Python programs in a fenced block. Every program runs on its own."""

from dataclasses import dataclass
from random import Random

from training.embedded.conversation import OPEN_KEY, Check, Example, ask
from training.embedded.families.texts import PHRASES, fill, load, say


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One coding task: an entry of `texts/programs.yaml`, which explains the fields."""

    asks: list[str]
    nouns: list[str]
    text: str
    test: str

    def ask(self, family: str, key: str, question: str, system: str = "") -> Example:
        """Return an example that asks for the program."""
        return ask(family, key, question, f"```python\n{self.text}```", Check(kind="code", expected=self.test), system=system)


TUTORIAL, _RELATIVES = ({name: Program(**task) for name, task in group.items()} for group in load("programs").values())
PROGRAMS = TUTORIAL | _RELATIVES


def program(rng: Random) -> Example:
    """Draw a task; the tutorial's four are drawn more often. Composed questions are held out by their wording."""
    chosen = rng.choice(list((TUTORIAL if rng.random() < 0.35 else PROGRAMS).values()))
    if rng.random() < 0.25:
        question, key = rng.choice(chosen.asks), OPEN_KEY
    else:
        question = key = fill(rng, rng.choice(PHRASES["code"]), x=rng.choice(chosen.nouns)) + say(rng, "code ending")
    return chosen.ask("coding", key, question, say(rng, "code system"))
