"""The tutorial's own prompts, word for word; always trained on, never held out."""

import json
from random import Random

from training.embedded.conversation import Check, Example, ask
from training.embedded.families.arithmetic import compound_answer, faster_answer
from training.embedded.families.programs import TUTORIAL
from training.embedded.families.texts import load
from training.embedded.families.tools import CIRCLE, written

_WORKED = {"faster": faster_answer(240, 3, 20, "km/h"), "compound": compound_answer(5000, 6, 3)[0]}


def examples() -> list[Example]:
    """Return every prompt once."""
    family, texts = "tutorial", load("tutorial")
    found = [
        ask(family, each["ask"], each["ask"], each["answer"].format(**_WORKED), Check(kind="number", expected=each["number"]))
        for each in texts["mathematics"]
    ]
    found += [task.ask(family, question, question) for task in TUTORIAL.values() for question in task.asks[:2]]
    found.append(ask(family, "cats", texts["cats"], texts["cats answer"], Check(kind="contains", expected="No.")))
    call = json.dumps([{"name": CIRCLE.name, "arguments": {"radius": 5}}])
    check = Check(kind="call", expected=call)
    return [*found, ask(family, "circle", texts["circle"], written(call), check, tools=json.dumps([CIRCLE.schema()]))]


def tutorial(rng: Random) -> Example:
    """Draw one of them."""
    return rng.choice(examples())
