"""Finds tool calls in generated text, character by character, so that the result does not depend on how the text was cut.

Understands: `<|tool_call|>[{"name", "arguments"}]<|/tool_call|>`, without the end tag, without brackets, several in a row;
`functools[...]`; a fenced block; bare JSON at the beginning of an answer; `parameters` for `arguments`; arguments as a JSON string;
`{"type": "function", "function": {...}}`. Outside the model's own marker a call must name an offered tool. Text that only looks
like a call, such as an echoed function document, stays text. The model's markers are tokens, and come as `BEGIN` and `END`; text
that spells a marker is text. Markers are never returned, nor is a call after a marker that ends before its name is known.

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
    """Splits one answer into text and calls. Contract: the joined parts do not depend on how the text was cut."""

    def __init__(self, names: Collection[str], *, marked_only: bool = False, begun: bool = False) -> None:
        """Know the offered tools' names; with `marked_only` only the model's own marker opens calls.

        `begun`: the text continues an answer, so bare JSON in it does not stand at the answer's beginning.
        """
        self._names = names
        self._openers = (BEGIN,) if marked_only else (BEGIN, _FUNCTOOLS, _FENCE)
        self._bare_openers = "" if marked_only else "[{"
        self._pending = ""
        self._has_text = begun
        """Whether the answer has anything but white space."""
        self._block: _Block | None = None
        self.calls = 0
        """Calls found so far."""

    def push(self, text: str) -> list[CallOrText]:
        """Take more of the answer; return the parts that are certain."""
        parts: list[CallOrText] = []
        for char in text:
            self._take(char, parts)
        return _join_parts(parts)

    def finish(self) -> list[CallOrText]:
        """Return the text held back, at the end of the answer; a call that had begun stays cut where the model stopped."""
        parts: list[CallOrText] = []
        while self._block is not None:
            block, self._block = self._block, None
            if not block.marked:
                self._reject(block, "", parts)
        parts.append(self._pending)
        self._pending = ""
        return _join_parts(parts)

    def _take(self, char: str, parts: list[CallOrText]) -> None:
        if self._block is None:
            self._search(char, parts)
            return
        block = self._block
        outcome = block.feed(char)
        parts.extend(block.drain())
        self.calls = block.index
        if outcome is _Outcome.CONTINUE:
            return
        self._block = None
        if outcome is _Outcome.REJECTED:
            self._reject(block, char, parts)
        else:
            for again in block.leftover:
                self._take(again, parts)

    def _reject(self, block: "_Block", char: str, parts: list[CallOrText]) -> None:
        """Return the opener of a block without a call as text, and read the rest of the block again."""
        raw = block.raw
        if not raw:
            for again in char:
                self._take(again, parts)
            return
        opener = len(block.opener) if raw.startswith(block.opener) else 1
        self._has_text = True
        parts.append("" if raw[0] == BEGIN else raw[:opener])
        for again in raw[opener:] + char:
            self._take(again, parts)

    def _search(self, char: str, parts: list[CallOrText]) -> None:
        """Look for an opener in plain text, and hold back text that may become one."""
        if not self._has_text and char in self._bare_openers and not self._pending.strip():
            parts.append(self._pending)
            self._pending, self._has_text = "", True
            self._open(char, parts)
            return
        if char == END:
            return
        self._pending += char
        for opener in self._openers:
            if self._pending.endswith(opener):
                parts.append(self._pending[: -len(opener)])
                self._pending = ""
                self._open(opener, parts)
                return
        kept_chars = overlap(self._pending, self._openers)
        if not self._has_text and not self._pending.strip():
            return
        certain = self._pending[: len(self._pending) - kept_chars]
        self._has_text = self._has_text or bool(certain.strip())
        parts.append(certain)
        self._pending = self._pending[len(certain) :]

    def _open(self, opener: str, parts: list[CallOrText]) -> None:
        self._block = _Block(opener, self._names, self.calls)
        if opener in "[{":
            self._block.raw = ""
            self._block.opener = opener
            self._take(opener, parts)


class _Outcome(Enum):
    """What a character means for a block."""

    CONTINUE = "continue"
    ENDED = "ended"
    REJECTED = "rejected"


@dataclass(slots=True)
class _Block:
    """The text from an opener to the end of its calls."""

    opener: str
    names: Collection[str]
    index: int
    raw: str = field(init=False)
    """The text since the opener that belongs to no call so far."""
    leftover: str = ""
    """Characters after the end, to be read again."""
    _object: CallObject | None = None
    _listed: bool = False
    _closed: bool = False
    """Whether a list or a lone object has ended."""
    _fence: str = ""
    """The beginning of what may be the closing fence."""
    _language: bool = False
    _parts: list[CallOrText] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Account for the opener."""
        self.raw = self.opener
        self._listed = self.opener == _FUNCTOOLS

    @property
    def marked(self) -> bool:
        """Whether it stands after the model's own marker."""
        return self.opener == BEGIN

    def drain(self) -> list[CallOrText]:
        """Return the parts found since the last call."""
        parts, self._parts = self._parts, []
        return parts

    def feed(self, char: str) -> _Outcome:
        """Take a character; a rejected one is not part of the block."""
        if self._object is not None:
            return self._feed_object(char)
        if self._fence:
            return self._feed_fence(char)
        if char in _SPACE or (char == "," and not self._has_no_call):
            self.raw += char if self.raw else ""
            return _Outcome.CONTINUE
        if char == "{" and not (self._closed and self.opener in ("[", "{")):
            self.raw += char
            self._object = CallObject(self.index, self.marked, self.names, char)
            return _Outcome.CONTINUE
        if char == "[" and not self._listed:
            self.raw += char
            self._listed = True
            return _Outcome.CONTINUE
        if char == "]" and self._listed and not self._has_no_call:
            return self._end_list()
        if self._has_no_call and self.opener == _FENCE and not self._listed and char.isalpha():
            self.raw += char
            return _Outcome.CONTINUE if "json".startswith(self.raw[len(_FENCE) :].lower()) else self._reject_char()
        if not self._has_no_call and char == END and self.marked:
            return _Outcome.ENDED
        if not self._has_no_call and char == _FENCE[0] and self.opener == _FENCE:
            self._fence = char
            return _Outcome.CONTINUE
        return self._end(char)

    @property
    def _has_no_call(self) -> bool:
        """Whether no call has been found yet."""
        return bool(self.raw)

    def _reject_char(self) -> _Outcome:
        self.raw = self.raw[:-1]
        return _Outcome.REJECTED

    def _end(self, leftover: str) -> _Outcome:
        if self._has_no_call:
            return _Outcome.REJECTED
        self.leftover = leftover
        return _Outcome.ENDED

    def _end_list(self) -> _Outcome:
        self._listed = False
        self._closed = True
        if self.opener in (_FUNCTOOLS, "["):
            return _Outcome.ENDED
        return _Outcome.CONTINUE

    def _feed_fence(self, char: str) -> _Outcome:
        self._fence += char
        if self._fence == _FENCE:
            return _Outcome.ENDED
        return _Outcome.CONTINUE if _FENCE.startswith(self._fence) else self._end(self._fence)

    def _feed_object(self, char: str) -> _Outcome:
        assert self._object is not None
        is_call = self._object.feed(char)
        if not self._object.streaming:
            self.raw += char
        self._parts += self._object.drain()
        if self._object.streaming:
            self.raw = ""
        if is_call is None:
            return _Outcome.CONTINUE
        if not is_call:
            if self._has_no_call and not self._object.streaming:
                return self._reject_char()
            self._parts.append(self._object.text)
        else:
            self.index += 1
            self.raw = ""
        self._object = None
        self._closed = not self._listed
        return _Outcome.ENDED if self._closed and self.opener == "{" else _Outcome.CONTINUE


def _join_parts(parts: list[CallOrText]) -> list[CallOrText]:
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
