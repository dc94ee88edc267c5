"""Finds tool calls in generated text, character by character, so that the result does not depend on how the text was cut.

Forms understood: `<|tool_call|>[{"name", "arguments"}]<|/tool_call|>`, without the end tag, without brackets, several in a row;
`functools[...]`; a fenced block; bare JSON at the beginning of an answer; `parameters` for `arguments`; arguments as a JSON string;
`{"type": "function", "function": {...}}`. Outside the model's own marker a call must name a tool that was offered. What only looks
like a call, an echoed function document included, comes out as the text it is. The model's markers are tokens, and come as `BEGIN`
and `END`: text that spells one is text. They are never told, nor is a call behind one that was cut off before its name was known.

Knows the model's forms; no tokenizer, no dialect.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

from serve_app.chat.answer_parser import CallOrText, CallPart
from serve_app.chat.formats.phi4.call_object import CallObject
from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN_MARK as BEGIN
from serve_app.chat.formats.phi4.tokens import CALLS_END_MARK as END
from serve_app.chat.overlap import overlap

_FUNCTOOLS, _FENCE = "functools[", "```"
_SPACE = " \t\r\n"


class Phi4CallParser:
    """Splits one answer into text and calls. Contract: joining the parts gives the same whatever pieces were pushed."""

    def __init__(self, names: Collection[str], *, marked_only: bool = False, begun: bool = False) -> None:
        """Know the offered tools' names; with `marked_only` nothing counts but the model's own marker.

        `begun`: the text continues an answer, so that bare JSON does not stand at its beginning.
        """
        self._names = names
        self._openers = (BEGIN,) if marked_only else (BEGIN, _FUNCTOOLS, _FENCE)
        self._bare = "" if marked_only else "[{"
        self._held = ""
        self._begun = begun
        """Whether anything but white space was said."""
        self._block: _Block | None = None
        self.calls = 0
        """Calls found so far."""

    def push(self, text: str) -> list[CallOrText]:
        """Take more of the answer; return what is certain."""
        parts: list[CallOrText] = []
        for char in text:
            self._take(char, parts)
        return _joined(parts)

    def finish(self) -> list[CallOrText]:
        """Return what was held back, at the end of the answer; a call that had begun stays cut where the model stopped."""
        parts: list[CallOrText] = []
        while self._block is not None:
            block, self._block = self._block, None
            if not block.marked:
                self._reject(block, "", parts)
        parts.append(self._held)
        self._held = ""
        return _joined(parts)

    def _take(self, char: str, parts: list[CallOrText]) -> None:
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

    def _reject(self, block: "_Block", char: str, parts: list[CallOrText]) -> None:
        """The block was no call: its opener is text, and what followed is looked at again."""
        raw = block.raw
        if not raw:
            for again in char:
                self._take(again, parts)
            return
        opener = len(block.opener) if raw.startswith(block.opener) else 1
        self._begun = True
        parts.append("" if raw[0] == BEGIN else raw[:opener])
        for again in raw[opener:] + char:
            self._take(again, parts)

    def _search(self, char: str, parts: list[CallOrText]) -> None:
        """Look for an opener in plain text, holding back what may become one."""
        if not self._begun and char in self._bare and not self._held.strip():
            parts.append(self._held)
            self._held, self._begun = "", True
            self._open(char, parts)
            return
        if char == END:
            return
        self._held += char
        for opener in self._openers:
            if self._held.endswith(opener):
                parts.append(self._held[: -len(opener)])
                self._held = ""
                self._open(opener, parts)
                return
        keep = overlap(self._held, self._openers)
        if not self._begun and not self._held.strip():
            return
        said = self._held[: len(self._held) - keep]
        self._begun = self._begun or bool(said.strip())
        parts.append(said)
        self._held = self._held[len(said) :]

    def _open(self, opener: str, parts: list[CallOrText]) -> None:
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
    _object: CallObject | None = None
    _listed: bool = False
    _closed: bool = False
    """Whether a list or a lone object has ended."""
    _tail: str = ""
    """What may become the closing fence."""
    _language: bool = False
    _parts: list[CallOrText] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Account for the opener."""
        self.raw = self.opener
        self._listed = self.opener == _FUNCTOOLS

    @property
    def marked(self) -> bool:
        """Whether it is behind the model's own marker."""
        return self.opener == BEGIN

    def drain(self) -> list[CallOrText]:
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
            self._object = CallObject(self.index, self.marked, self.names, char)
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
        if not self._fresh and char == END and self.marked:
            return _Outcome.ENDED
        if not self._fresh and char == _FENCE[0] and self.opener == _FENCE:
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
        self._tail += char
        if self._tail == _FENCE:
            return _Outcome.ENDED
        return _Outcome.GO if _FENCE.startswith(self._tail) else self._end(self._tail)

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


def _joined(parts: list[CallOrText]) -> list[CallOrText]:
    """Join neighbouring pieces of text, and of one call; drop empty text."""
    joined: list[CallOrText] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        elif isinstance(part, CallPart) and isinstance(last, CallPart) and part.index == last.index:
            joined[-1] = CallPart(index=last.index, name=last.name + part.name, arguments=last.arguments + part.arguments)
        elif part:
            joined.append(part)
    return joined
