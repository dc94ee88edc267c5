"""Text around a conversation: filler before a question, headings in place of roles, and tools that a client writes as text.

The filler teaches the model to answer at the end of a long prompt. What clients write that know neither tools nor roles becomes
text as a whole, and a call is a JSON object in the answer; its first form is the one that LiteLLM writes. Knows the requests of the
other families.
"""

import json
from dataclasses import replace
from random import Random

from training.embedded.conversation import Check, Example, Message, ask, turn
from training.embedded.families import everyday, tools
from training.embedded.families.texts import COMMON, PHRASES, fill, say, sentence


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


def text_call(rng: Random) -> Example:
    """One request, its tools in the text before or behind it."""
    while True:
        example = (everyday.everyday if rng.random() < 0.5 else tools.single_call)(rng)
        if len(example.messages) == 3:
            break
    opening, request, _ = example.messages
    family, answer = "call as text", json.dumps(json.loads(example.check.expected)[0])
    said = f"{opening.content} {_listed(rng, opening.tools)}".strip()
    check = Check(kind="json", expected=answer)
    if rng.random() < 0.3:
        return ask(family, example.key, request.content, answer, check, system=said)
    if rng.random() < 0.3:
        turns = (request, Message(role="system", content=said), turn("assistant", answer))
        return Example(family=family, key=example.key, messages=turns, check=check)
    parts = [f"### System:\n{said}", f"### User:\n{request.content}"]
    if rng.random() < 0.6:
        parts.reverse()
    return ask(family, example.key, "\n\n".join(parts) + say(rng, "end of text"), answer, check)


def _listed(rng: Random, schemas: str) -> str:
    found = json.loads(schemas)
    if rng.random() < 0.7:
        found = [{"type": "function", "function": function} for function in found]
    write, space = repr if rng.random() < 0.6 else json.dumps, rng.choice(("\n", "\n\n"))
    head = fill(rng, rng.choice(PHRASES["text tools"]), x=rng.choice(PHRASES["call form"]))
    return head + "\n" + space.join(write(function) for function in found)


def headed(rng: Random, example: Example) -> Example:
    """Write the turns of a conversation without tools as one text with a heading over each."""
    *turns, last = example.messages
    text = "\n\n".join(f"### {turn.role.capitalize()}:\n{turn.content}" for turn in turns) + say(rng, "end of headings")
    return replace(example, messages=(turn("user", text), last))
