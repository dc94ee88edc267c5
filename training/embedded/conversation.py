"""The values of the training set: messages, examples, and the check that judges an answer: numbers compared, programs run.

Knows the shape of a conversation and of a correct answer. Knows neither the families that write them nor the tokenizer.
"""

import json
import re
import subprocess
import sys
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
TIME_LIMIT_S = 5.0
"""A program that runs longer has failed."""
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FENCE = re.compile(r"```(?:python)?\n(.*?)```", re.DOTALL)
_CALL = re.compile(r"<\|tool_call\|>(.*?)(?:<\|/tool_call\|>|$)", re.DOTALL)


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


def number(value: float, decimals: int = 2) -> str:
    """Write a number as an answer shows it: no trailing zeros, so many decimals at most."""
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def is_right(answer: str, check: Check) -> bool:
    """Return whether the text (special tokens visible) passes the check."""
    match check.kind:
        case "number":
            numbers = _NUMBER.findall(answer)
            return bool(numbers) and float(numbers[-1].replace(",", "")) == float(check.expected)
        case "contains":
            return check.expected.lower() in answer.lower()
        case "code":
            found = _FENCE.search(answer)
            return _runs(f"{found[1] if found else answer}\n{check.expected}\n")
        case "call":
            found = _CALL.search(answer)
            return found is not None and _same_json(found[1], check.expected)
        case "json":
            return _same_json(answer, check.expected)
        case "exact":
            return answer.strip() == check.expected.strip()


def _same_json(text: str, expected: str) -> bool:
    try:
        return bool(json.loads(text) == json.loads(expected))
    except json.JSONDecodeError:
        return False


def _runs(program: str) -> bool:
    try:
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=TIME_LIMIT_S, check=False)
        return done.returncode == 0
    except subprocess.TimeoutExpired:
        return False
