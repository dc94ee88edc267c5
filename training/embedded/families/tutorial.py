"""The tutorial's own prompts, word for word, always trained on and never held out; and coding tasks, the tutorial's among them.

A program is short Python in a fenced block, and runs on its own.
"""

import json
from dataclasses import dataclass
from random import Random

from training.embedded.conversation import OPEN_KEY, Check, Example, ask
from training.embedded.families.arithmetic import compound_answer, faster_answer
from training.embedded.families.texts import PHRASES, fill, load, say
from training.embedded.families.tools import CIRCLE, written


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


def examples() -> list[Example]:
    """Return every prompt once."""
    family, texts = "tutorial", load("tutorial")
    worked = {"faster": faster_answer(240, 3, 20, "km/h"), "compound": compound_answer(5000, 6, 3)[0]}
    found = [
        ask(family, each["ask"], each["ask"], each["answer"].format(**worked), Check(kind="number", expected=each["number"]))
        for each in texts["mathematics"]
    ]
    found += [task.ask(family, question, question) for task in TUTORIAL.values() for question in task.asks[:2]]
    found.append(ask(family, "cats", texts["cats"], texts["cats answer"], Check(kind="contains", expected="No.")))
    call = json.dumps([{"name": CIRCLE.name, "arguments": {"radius": 5}}])
    check = Check(kind="call", expected=call)
    return [*found, ask(family, "circle", texts["circle"], written(call), check, tools=json.dumps([CIRCLE.schema()]))]


def tutorial(rng: Random) -> Example:
    """Draw one of the tutorial's prompts."""
    return rng.choice(examples())
