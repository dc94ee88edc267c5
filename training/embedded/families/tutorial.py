"""The tutorial's own prompts, word for word; always trained on, never held out."""

import json
from random import Random

from training.embedded.conversation import Check, Example, ask
from training.embedded.families.journeys import compound_answer, faster_answer
from training.embedded.families.programs import PROGRAMS

_MATHEMATICS = (
    (
        "A train travels 240 km in 3 hours. If it increases its speed by 20 km/h, how long would the same journey take?",
        faster_answer(240, 3, 20, "km/h"),
        "2.4",
    ),
    (
        "Solve this step by step: If compound interest on $5000 at 6% annually for 3 years, what is the final amount?",
        compound_answer(5000, 6, 3)[0],
        "5955.08",
    ),
    (
        "A rectangle has length 15cm and width 8cm. If we increase both dimensions by 20%, what is the percentage "
        "increase in area?",
        "Both sides are multiplied by 1.2, so the area is multiplied by 1.2 * 1.2 = 1.44. The area increases by 44%.",
        "44",
    ),
    (
        "If a car travels at 60 mph for 2.5 hours, then at 80 mph for 1.5 hours, what is the total distance traveled?",
        "First part: 60 * 2.5 = 150 miles. Second part: 80 * 1.5 = 120 miles. Total: 150 + 120 = 270 miles.",
        "270",
    ),
)
_SYLLOGISM = "All cats are mammals. Some mammals are carnivores. Can we conclude that some cats are carnivores?"
_CIRCLE = "Calculate the area of a circle with radius 5 units"
_CIRCLE_TOOL = {
    "name": "calculate_circle_area",
    "description": "Calculate the area of a circle given its radius",
    "parameters": {
        "type": "object",
        "properties": {"radius": {"type": "number", "description": "The radius of the circle"}},
        "required": ["radius"],
    },
}


def examples() -> list[Example]:
    """Return every prompt once."""
    family = "tutorial"
    found = [ask(family, q, q, a, Check(kind="number", expected=n)) for q, a, n in _MATHEMATICS]
    for name in ("fibonacci", "binary search", "binary tree", "gcd"):
        task = PROGRAMS[name]
        check = Check(kind="code", expected=task.test)
        found += [ask(family, question, question, f"```python\n{task.text}```", check) for question in task.asks[:2]]
    answer = (
        "All cats (A) are mammals (B). Some mammals (B) are carnivores (C). So some cats (A) are carnivores (C)? No. "
        "The mammals that are carnivores may not be cats."
    )
    found.append(ask(family, "cats", _SYLLOGISM, answer, Check(kind="contains", expected="No.")))
    call = json.dumps([{"name": "calculate_circle_area", "arguments": {"radius": 5}}])
    check = Check(kind="call", expected=call)
    reply = f"<|tool_call|>{call}<|/tool_call|>"
    return [*found, ask(family, "circle", _CIRCLE, reply, check, tools=json.dumps([_CIRCLE_TOOL]))]


def tutorial(rng: Random) -> Example:
    """Draw one of them."""
    return rng.choice(examples())
