"""Reads one JSON object of an answer character by character, and decides whether it is a tool call. Knows nothing around it."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from serve_app.chat.answer_parser import CallOrText, CallPart

_KEYS = frozenset({"name", "arguments", "parameters", "type", "function", "id"})
"""First-level keys that a call outside the marker may have."""
_SPACE = " \t\r\n"


@dataclass(slots=True)
class CallObject:
    """One JSON object, which may be a call."""

    index: int
    marked: bool
    names: Collection[str]
    text: str
    keys: Collection[str] = ("arguments",)
    """Keys under which the syntax writes arguments; arguments under other known keys count once the object is complete."""
    beginnings: Collection[str] = ()
    """Where not empty, an unmarked call begins exactly with one of these."""
    streaming: bool = False
    """Whether the call's name is out and its arguments are streamed."""
    _depth: int = 1
    _in_quotes: bool = False
    _escaped: bool = False
    _key: str = ""
    _string: str = ""
    _in_value: bool = False
    _name: str = ""
    _spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    _start: int = -1
    _is_streamed: bool = False
    """Whether the current character belongs to streamed arguments."""
    _parts: list[CallOrText] = field(default_factory=list)

    @property
    def in_quotes(self) -> bool:
        """Whether the next character stands within a string."""
        return self._in_quotes

    def drain(self) -> list[CallOrText]:
        """Return the parts found since the last call."""
        parts, self._parts = self._parts, []
        return parts

    def feed(self, char: str) -> bool | None:
        """Take a character; return None while the object continues, then whether it was a call."""
        self.text += char
        if self._in_quotes:
            self._read_string(char)
        elif char == '"':
            self._in_quotes = True
            self._string = ""
            self._begin_value(char)
        elif char in "{[":
            self._depth += 1
            self._begin_value(char)
        elif char in "}]":
            self._depth -= 1
            if self._depth == 0:
                self._end_value(len(self.text) - 1)
                return self._finish()
        elif self._depth == 1 and char == ":":
            self._in_value = True
            return None if self._may_be_call() else False
        elif self._depth == 1 and char == ",":
            self._end_value(len(self.text) - 1)
        elif char not in _SPACE:
            self._begin_value(char)
        if self._is_streamed:
            self._parts.append(CallPart(index=self.index, arguments=char))
            if self._depth == 1 and not self._in_quotes:
                self._is_streamed = False  # the arguments' own closing brace
        return None if self._may_be_call() else False

    def _read_string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_quotes = False
            if self._depth == 1 and not self._in_value:
                self._key = self._string
            elif self._depth == 1 and self._key == "name":
                self._name = _unescape(self._string)
        self._string += char if self._in_quotes else ""

    def _begin_value(self, char: str) -> None:
        """Note where a first-level value starts; arguments of a known call are streamed from here."""
        if not self._in_value or self._start >= 0:
            return
        self._start = len(self.text) - 1
        if self._key in self.keys and char == "{" and self._name and (self.marked or self._name in self.names):
            self.streaming = self._is_streamed = True
            self._parts.append(CallPart(index=self.index, name=self._name))

    def _end_value(self, end: int) -> None:
        if self._in_value and self._start >= 0:
            self._spans[self._key] = (self._start, end)
        self._in_value, self._start, self._key = False, -1, ""

    def _may_be_call(self) -> bool:
        """Return whether it may still be a call; outside the marker it gives up early, so that other JSON is not delayed."""
        if self.marked or self.streaming:
            return True
        if self.beginnings and not any(each.startswith(self.text) or self.text.startswith(each) for each in self.beginnings):
            return False
        if self._name and not self._in_quotes and self._name not in self.names:
            return False
        return not (self._in_value and self._key not in _KEYS)

    def _finish(self) -> bool:
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
        arguments = _find_arguments(value, spans, text, self.keys)
        if not isinstance(name, str) or not name or arguments is None or not (self.marked or name in self.names):
            return False
        self._parts.append(CallPart(index=self.index, name=name, arguments=arguments))
        return True


def _unescape(text: str) -> str:
    """Return the text that the inside of a JSON string stands for; unchanged where it is no JSON."""
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text


def _find_arguments(value: dict[str, Any], spans: dict[str, tuple[int, int]], text: str, keys: Collection[str]) -> str | None:
    """Return the arguments' JSON, as the model wrote it where its span is known; None when the object is no call."""
    key = "arguments" if "arguments" in value else "parameters"
    given = value.get(key)
    if key == "parameters" and ("description" in value or (key not in keys and _is_schema(given))):
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
