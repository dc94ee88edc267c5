"""The tutorial's own prompts, word for word; always trained on, never held out."""

import json
from random import Random

from training.conversation import Check, Example, ask
from training.families.code_texts import PROGRAMS

_MATHEMATICS = (
    (
        "A train travels 240 km in 3 hours. If it increases its speed by 20 km/h, how long would the same journey take?",
        "The speed is 240 / 3 = 80 km/h. The new speed is 80 + 20 = 100 km/h. The time is 240 / 100 = 2 + 40 / 100 = "
        "2 + 0.4 = 2.4 hours.",
        "2.4",
    ),
    (
        "Solve this step by step: If compound interest on $5000 at 6% annually for 3 years, what is the final amount?",
        "Year 1: 5000 * 6 = 30000, so 6% of 5000 is 300, and 5000 + 300 = 5300.\nYear 2: 5300 * 6 = 5000 * 6 + 300 * 6 = "
        "30000 + 1800 = 31800, so 6% of 5300 is 318, and 5300 + 318 = 5618.\nYear 3: 5618 * 6 = 5000 * 6 + 600 * 6 + 10 * 6 + "
        "8 * 6 = 30000 + 3600 + 60 + 48 = 33600 + 60 + 48 = 33660 + 48 = 33708, so 6% of 5618 is 337.08, and 5618 + 337.08 = "
        "5955.08.\nThe final amount is $5955.08.",
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
    answer = "No. The mammals that are carnivores may not be cats."
    found.append(ask(family, "cats", _SYLLOGISM, answer, Check(kind="contains", expected="No.")))
    call = json.dumps([{"name": "calculate_circle_area", "arguments": {"radius": 5}}])
    check = Check(kind="call", expected=call)
    reply = f"<|tool_call|>{call}<|/tool_call|>"
    return [*found, ask(family, "circle", _CIRCLE, reply, check, tools=json.dumps([_CIRCLE_TOOL]))]


def tutorial(rng: Random) -> Example:
    """Draw one of them."""
    return rng.choice(examples())
