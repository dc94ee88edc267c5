"""What clients write that know neither tools nor roles: both become text, and a call is a JSON object in the answer.

Knows the requests of the other families. The wordings are its own; the first form of the JSON is the one that LiteLLM writes.
"""

import json
from dataclasses import replace
from random import Random

from training.embedded.conversation import Check, Example, Message, ask
from training.embedded.families import everyday, tools

_HEADS = (
    "Answer with JSON only, in the form {}. You can call these functions:",
    "If a function helps, reply with a JSON object such as {} and with nothing else. Functions:",
    "To use a function write JSON like {}. When you have its result, answer in plain words. These functions exist:",
    "Call one of the functions below. Your answer is a single JSON object: {}",
    "These are the functions. Reply with only JSON in this format: {}",
)
_FORMS = (
    '{"name": "function_name", "arguments":{"argument_name": "argument_value"}}',
    '{"name": "function_name", "arguments": {"argument_name": "argument_value"}}',
    '{"name": "tool", "arguments": {"parameter": "value"}}',
    '{"name": ..., "arguments": {...}}',
)


def text_call(rng: Random) -> Example:
    """One request, its tools in the text before or behind it."""
    while True:
        example = (everyday.everyday if rng.random() < 0.5 else tools.single_call)(rng)
        if len(example.messages) == 3:
            break
    opening, request, _ = example.messages
    answer = json.dumps(json.loads(example.check.expected)[0])
    listed = _listed(rng, opening.tools)
    said = f"{opening.content} {listed}".strip()
    check = Check(kind="json", expected=answer)
    if rng.random() < 0.3:
        return ask("call as text", example.key, request.content, answer, check, system=said)
    if rng.random() < 0.3:
        turns = (request, Message(role="system", content=said), Message(role="assistant", content=answer))
        return Example(family="call as text", key=example.key, messages=turns, check=check)
    parts = [f"### System:\n{said}", f"### User:\n{request.content}"]
    if rng.random() < 0.6:
        parts.reverse()
    end = rng.choice(("", "\n", "\n\n", "\n\n\n"))
    return ask("call as text", example.key, "\n\n".join(parts) + end, answer, check)


def _listed(rng: Random, schemas: str) -> str:
    found = json.loads(schemas)
    if rng.random() < 0.7:
        found = [{"type": "function", "function": function} for function in found]
    write = repr if rng.random() < 0.6 else json.dumps
    space = rng.choice(("\n", "\n\n"))
    return rng.choice(_HEADS).format(rng.choice(_FORMS)) + "\n" + space.join(write(function) for function in found)


def headed(rng: Random, example: Example) -> Example:
    """Write the turns of a conversation without tools as one text with a heading over each."""
    *turns, last = example.messages
    said = [f"### {turn.role.capitalize()}:\n{turn.content}" for turn in turns]
    text = "\n\n".join(said) + rng.choice(("", "\n", "\n\n", "\n\n\n", "\n\n### Assistant:\n"))
    return replace(example, messages=(Message(role="user", content=text), last))
