"""Finds tool calls in generated text, character by character, so that the result does not depend on how the text was cut.

Forms understood: `<|tool_call|>[{"name", "arguments"}]<|/tool_call|>`, without the end tag, without brackets, several in a row;
`functools[...]`; a fenced block; bare JSON at the beginning of an answer; `parameters` for `arguments`; arguments as a JSON string;
`{"type": "function", "function": {...}}`. Outside the model's own marker a call must name a tool that was offered. What only looks
like a call, an echoed function document included, comes out as the text it is.

Knows the model's forms; no tokenizer, no dialect.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

BEGIN, END = "<|tool_call|>", "<|/tool_call|>"
_FUNCTOOLS, _FENCE = "functools[", "```"
_KEYS = frozenset({"name", "arguments", "parameters", "type", "function", "id"})
"""First-level keys that an object outside the marker may have and still be a call."""
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPart:
    """A piece of a call: the first has its name, those after it more of its arguments' JSON."""

    index: int
    """Which call of the answer, from 0."""
    name: str = ""
    arguments: str = ""


Part: TypeAlias = str | CallPart
"""Text of the answer, or a piece of a call."""


class ToolCallParser:
    """Splits one answer into text and calls. Contract: joining the parts gives the same whatever pieces were pushed."""

    def __init__(self, names: Collection[str]) -> None:
        """Know the offered tools' names."""
        self._names = names
        self._held = ""
        self._begun = False
        """Whether anything but white space was said."""
        self._block: _Block | None = None
        self.calls = 0
        """Calls found so far."""

    def push(self, text: str) -> list[Part]:
        """Take more of the answer; return what is certain."""
        parts: list[Part] = []
        for char in text:
            self._take(char, parts)
        return _joined(parts)

    def finish(self) -> list[Part]:
        """Return what was held back, at the end of the answer; a call that had begun stays cut where the model stopped."""
        parts: list[Part] = []
        while self._block is not None:
            block, self._block = self._block, None
            self._reject(block, "", parts)
        parts.append(self._held)
        self._held = ""
        return _joined(parts)

    def _take(self, char: str, parts: list[Part]) -> None:
        if self._block is None:
            self._search(char, parts)
            return
        block = self._block
        outcome = block.feed(char)
        parts.extend(block.drain())
        self.calls = block.index
        if outcome is _Outcome.GO:
            return
        self._block = None
        if outcome is _Outcome.REJECTED:
            self._reject(block, char, parts)
        else:
            for again in block.leftover:
                self._take(again, parts)

    def _reject(self, block: "_Block", char: str, parts: list[Part]) -> None:
        """The block was no call: its opener is text, and what followed is looked at again."""
        raw = block.raw
        if not raw:
            for again in char:
                self._take(again, parts)
            return
        opener = len(block.opener) if raw.startswith(block.opener) else 1
        self._begun = True
        parts.append(raw[:opener])
        for again in raw[opener:] + char:
            self._take(again, parts)

    def _search(self, char: str, parts: list[Part]) -> None:
        """Look for an opener in plain text, holding back what may become one."""
        if not self._begun and char in "[{" and not self._held.strip():
            parts.append(self._held)
            self._held, self._begun = "", True
            self._open(char, parts)
            return
        self._held += char
        for opener in (BEGIN, _FUNCTOOLS, _FENCE):
            if self._held.endswith(opener):
                parts.append(self._held[: -len(opener)])
                self._held = ""
                self._open(opener, parts)
                return
        keep = max(_overlap(self._held, opener) for opener in (BEGIN, _FUNCTOOLS, _FENCE))
        if not self._begun and not self._held.strip():
            return
        said = self._held[: len(self._held) - keep]
        self._begun = self._begun or bool(said.strip())
        parts.append(said)
        self._held = self._held[len(said) :]

    def _open(self, opener: str, parts: list[Part]) -> None:
        self._block = _Block(opener, self._names, self.calls)
        if opener in "[{":
            self._block.raw = ""
            self._block.opener = opener
            self._take(opener, parts)


class _Outcome(Enum):
    """What a character did to a block."""

    GO = "go"
    ENDED = "ended"
    REJECTED = "rejected"


@dataclass(slots=True)
class _Block:
    """From an opener to the end of its calls."""

    opener: str
    names: Collection[str]
    index: int
    raw: str = field(init=False)
    """Everything since the opener that no call has accounted for yet."""
    leftover: str = ""
    """Characters after the end, to be looked at again."""
    _object: "_Object | None" = None
    _listed: bool = False
    _closed: bool = False
    """Whether a list or a lone object has ended."""
    _tail: str = ""
    """What may become the end tag or the closing fence."""
    _language: bool = False
    _parts: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Account for the opener."""
        self.raw = self.opener
        self._listed = self.opener == _FUNCTOOLS

    @property
    def _marked(self) -> bool:
        return self.opener == BEGIN

    def drain(self) -> list[Part]:
        """Return the parts found since the last call."""
        parts, self._parts = self._parts, []
        return parts

    def feed(self, char: str) -> _Outcome:
        """Take a character; a rejected one is not part of the block."""
        if self._object is not None:
            return self._inside(char)
        if self._tail:
            return self._ending(char)
        if char in _SPACE or (char == "," and not self._fresh):
            self.raw += char if self.raw else ""
            return _Outcome.GO
        if char == "{" and not (self._closed and self.opener in ("[", "{")):
            self.raw += char
            self._object = _Object(self.index, self._marked, self.names, char)
            return _Outcome.GO
        if char == "[" and not self._listed:
            self.raw += char
            self._listed = True
            return _Outcome.GO
        if char == "]" and self._listed and not self._fresh:
            return self._end_list()
        if self._fresh and self.opener == _FENCE and not self._listed and char.isalpha():
            self.raw += char
            return _Outcome.GO if "json".startswith(self.raw[len(_FENCE) :].lower()) else self._refuse()
        if not self._fresh and ((char == END[0] and self._marked) or (char == _FENCE[0] and self.opener == _FENCE)):
            self._tail = char
            return _Outcome.GO
        return self._end(char)

    @property
    def _fresh(self) -> bool:
        """Whether no call has been found yet."""
        return bool(self.raw)

    def _refuse(self) -> _Outcome:
        self.raw = self.raw[:-1]
        return _Outcome.REJECTED

    def _end(self, leftover: str) -> _Outcome:
        if self._fresh:
            return _Outcome.REJECTED
        self.leftover = leftover
        return _Outcome.ENDED

    def _end_list(self) -> _Outcome:
        self._listed = False
        self._closed = True
        if self.opener in (_FUNCTOOLS, "["):
            return _Outcome.ENDED
        return _Outcome.GO

    def _ending(self, char: str) -> _Outcome:
        tag = END if self._marked else _FENCE
        self._tail += char
        if self._tail == tag:
            return _Outcome.ENDED
        return _Outcome.GO if tag.startswith(self._tail) else self._end(self._tail)

    def _inside(self, char: str) -> _Outcome:
        assert self._object is not None
        found = self._object.feed(char)
        if not self._object.streaming:
            self.raw += char
        self._parts += self._object.drain()
        if self._object.streaming:
            self.raw = ""
        if found is None:
            return _Outcome.GO
        if not found:
            if self._fresh and not self._object.streaming:
                return self._refuse()
            self._parts.append(self._object.text)
        else:
            self.index += 1
            self.raw = ""
        self._object = None
        self._closed = not self._listed
        return _Outcome.ENDED if self._closed and self.opener == "{" else _Outcome.GO


@dataclass(slots=True)
class _Object:
    """One JSON object: a call, or not."""

    index: int
    marked: bool
    names: Collection[str]
    text: str
    streaming: bool = False
    """Whether its call has been announced and its arguments are being told as they come."""
    _depth: int = 1
    _quoted: bool = False
    _escaped: bool = False
    _key: str = ""
    _string: str = ""
    _in_value: bool = False
    _name: str = ""
    _spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    _start: int = -1
    _live: bool = False
    """Whether the present character belongs to arguments that are told as they come."""
    _parts: list[Part] = field(default_factory=list)

    def drain(self) -> list[Part]:
        """Return the parts found since the last call."""
        parts, self._parts = self._parts, []
        return parts

    def feed(self, char: str) -> bool | None:
        """Take a character; return None while the object goes on, then whether it was a call."""
        self.text += char
        if self._quoted:
            self._in_string(char)
        elif char == '"':
            self._quoted = True
            self._string = ""
            self._begin_value(char)
        elif char in "{[":
            self._depth += 1
            self._begin_value(char)
        elif char in "}]":
            self._depth -= 1
            if self._depth == 0:
                self._end_value(len(self.text) - 1)
                return self._judge()
        elif self._depth == 1 and char == ":":
            self._in_value = True
            return None if self._plausible() else False
        elif self._depth == 1 and char == ",":
            self._end_value(len(self.text) - 1)
        elif char not in _SPACE:
            self._begin_value(char)
        if self._live:
            self._parts.append(CallPart(index=self.index, arguments=char))
            if self._depth == 1 and not self._quoted:
                self._live = False  # the arguments' own closing brace
        return None if self._plausible() else False

    def _in_string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._quoted = False
            if self._depth == 1 and not self._in_value:
                self._key = self._string
            elif self._depth == 1 and self._key == "name":
                self._name = self._string
        self._string += char if self._quoted else ""

    def _begin_value(self, char: str) -> None:
        """Note where a first-level value starts; arguments of a known call are told from here on."""
        if not self._in_value or self._start >= 0:
            return
        self._start = len(self.text) - 1
        if self._key == "arguments" and char == "{" and self._name and (self.marked or self._name in self.names):
            self.streaming = self._live = True
            self._parts.append(CallPart(index=self.index, name=self._name))

    def _end_value(self, end: int) -> None:
        if self._in_value and self._start >= 0:
            self._spans[self._key] = (self._start, end)
        self._in_value, self._start, self._key = False, -1, ""

    def _plausible(self) -> bool:
        """Whether it may still be a call; outside the marker this is given up early, so that other JSON is not held back."""
        if self.marked or self.streaming:
            return True
        if self._name and not self._quoted and self._name not in self.names:
            return False
        return not (self._in_value and self._key not in _KEYS)

    def _judge(self) -> bool:
        if self.streaming:
            return True
        try:
            value = json.loads(self.text, strict=False)
        except ValueError:
            return False
        spans, text = self._spans, self.text
        if isinstance(value.get("function"), dict):
            value, spans, text = value["function"], {}, ""
        name = value.get("name")
        arguments = _arguments(value, spans, text)
        if not isinstance(name, str) or not name or arguments is None or not (self.marked or name in self.names):
            return False
        self._parts.append(CallPart(index=self.index, name=name, arguments=arguments))
        return True


def _arguments(value: dict[str, Any], spans: dict[str, tuple[int, int]], text: str) -> str | None:
    """Return the arguments' JSON as the model wrote it where it can be had; None when the object is no call."""
    key = "arguments" if "arguments" in value else "parameters"
    given = value.get(key)
    if key == "parameters" and ("description" in value or _is_schema(given)):
        return None
    if given is None:
        return "{}" if "description" not in value else None
    if isinstance(given, str):
        return given
    if key in spans:
        start, end = spans[key]
        return text[start:end].strip()
    return json.dumps(given, ensure_ascii=False)


def _is_schema(value: object) -> bool:
    return isinstance(value, dict) and (value.get("type") == "object" or isinstance(value.get("properties"), dict))


def _overlap(text: str, opener: str) -> int:
    """Return the length of the longest end of `text` that begins `opener`."""
    return next((size for size in range(min(len(opener) - 1, len(text)), 0, -1) if opener.startswith(text[-size:])), 0)


def _joined(parts: list[Part]) -> list[Part]:
    """Join neighbouring pieces of text, and of one call; drop empty text."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        elif isinstance(part, CallPart) and isinstance(last, CallPart) and part.index == last.index:
            joined[-1] = CallPart(index=last.index, name=last.name + part.name, arguments=last.arguments + part.arguments)
        elif part:
            joined.append(part)
    return joined
