"""The values of the training set: messages, examples, and the check that judges an answer.

Knows the shape of a conversation and of a correct answer. Knows neither the families that write them nor the tokenizer.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
CheckKind = Literal["exact", "number", "contains", "code", "call", "json"]

HELD_OUT_SHARE = 10
"""One key in this many is never trained on."""

OPEN_KEY = "open"
"""The key of what may always be trained on: the multiplication table, the tutorial's circle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn."""

    role: Role
    """Who speaks."""
    content: str
    """The text between the role's marker and `<|end|>`. Tool calls are written out with their markers."""
    tools: str = ""
    """JSON list of function objects; only on a system message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How the last assistant turn is judged."""

    kind: CheckKind = "exact"
    """exact: the whole text. number: the last number. contains: a substring, case ignored. code: run it. call, json: equal JSON."""
    expected: str = ""
    """The text, number or JSON that is expected; for code, the Python statements that test it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A conversation that ends with the assistant's answer."""

    family: str
    """The family's name."""
    key: str
    """What makes the problem this problem (its numbers, its phrasing); decides whether it is held out."""
    messages: tuple[Message, ...]
    """The turns; the last is the assistant's."""
    check: Check
    """How a generated last turn is judged."""

    @property
    def answer(self) -> str:
        """The reference answer."""
        return self.messages[-1].content


Sampler = Callable[[Random], Example]


def is_held_out(key: str) -> bool:
    """Return whether a key belongs to the held-out tenth; stable over runs and machines."""
    return key != OPEN_KEY and zlib.crc32(key.encode()) % HELD_OUT_SHARE == 0


def turn(role: Role, content: str) -> Message:
    """Build a turn without tools."""
    return Message(role=role, content=content)


def ask(
    family: str, key: str, question: str, answer: str, check: Check | None = None, *, system: str = "", tools: str = ""
) -> Example:
    """Build a one-turn example.

    Without a check the whole answer is compared. A system message is added when `system` or `tools` is given.
    """
    head = (Message(role="system", content=system, tools=tools),) if system or tools else ()
    turns = (turn("user", question), turn("assistant", answer))
    return Example(family=family, key=key, messages=head + turns, check=check or Check(expected=answer))


def number(value: float) -> str:
    """Write a number as an answer shows it: no trailing zeros, two decimals at most."""
    text = f"{value:.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
