"""Finds JSON tool calls in generated text, character by character, so that the result does not depend on how the text was cut.

Understands after a marker and in a fenced block: an object, several, a list of them, with the closing marker and brackets or
without; the same forms bare at the beginning of an answer; the keys `arguments` and `parameters`; arguments as a JSON string;
`{"type": "function", "function": {...}}`. Outside a marker a call must name an offered tool. Text that only looks like a call, such
as an echoed function document, stays text. Markers are never returned, nor is a call after a marker that ends before its name is
known.

`CallMarks` says what stands around the calls; each marker is one code point. Knows no tokenizer and no dialect.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

from serve_app.chat.answer_parser import CallOrText, CallPart
from serve_app.chat.formats.call_object import CallObject
from serve_app.chat.overlap import overlap

FENCE = "```"
_FENCED_JSON = f"{FENCE}json"
SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMarks:
    """What stands around, between and in the calls of one syntax."""

    begin: str
    """The code point of the marker before calls."""
    end: str = ""
    """The code point of the marker after calls; empty: none."""
    openers: tuple[str, ...] = (FENCE,)
    """Texts before calls other than the marker. One that ends with a bracket opens a list."""
    separators: str = ","
    """Characters between calls, beside white space."""
    keys: tuple[str, ...] = ("arguments",)
    """As `CallObject.keys`."""
    bare_sequence: bool = False
    """Whether a bare object may be followed by others."""


class JsonCallParser:
    """Splits one answer into text and calls. Contract: the joined parts do not depend on how the text was cut."""

    def __init__(
        self,
        marks: CallMarks,
        names: Collection[str],
        *,
        strict: bool = False,
        beginnings: Collection[str] = (),
        begun: bool = False,
    ) -> None:
        """Know the offered tools' names.

        With `strict` only the marker opens calls, and a bare object that begins with one of `beginnings`. `begun`: the text
        continues an answer, so bare JSON in it does not stand at the answer's beginning.
        """
        self._marks = marks
        self._names = names
        self._beginnings = beginnings if strict else ()
        self._openers = (marks.begin,) if strict else (marks.begin, *marks.openers)
        self._bare_openers = "[{" if not strict else "{" if beginnings else ""
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
        return join_parts(parts)

    def finish(self) -> list[CallOrText]:
        """Return the text held back, at the end of the answer; a call that had begun stays cut where the model stopped."""
        parts: list[CallOrText] = []
        while self._block is not None:
            block, self._block = self._block, None
            if not block.marked:
                self._reject(block, "", parts)
        parts.append(self._pending)
        self._pending = ""
        return join_parts(parts)

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
        parts.append("" if raw[0] == self._marks.begin else raw[:opener])
        for again in raw[opener:] + char:
            self._take(again, parts)

    def _search(self, char: str, parts: list[CallOrText]) -> None:
        """Look for an opener in plain text, and hold back text that may become one."""
        if not self._has_text and char in self._bare_openers and not self._pending.strip(SPACE):
            parts.append(self._pending)
            self._pending, self._has_text = "", True
            self._open(char, parts)
            return
        if char == self._marks.end:
            return
        self._pending += char
        for opener in self._openers:
            if self._pending.endswith(opener):
                parts.append(self._pending[: -len(opener)])
                self._pending = ""
                self._open(opener, parts)
                return
        kept_chars = overlap(self._pending, self._openers)
        if not self._has_text and not self._pending.strip(SPACE):
            return
        certain = self._pending[: len(self._pending) - kept_chars]
        self._has_text = self._has_text or bool(certain.strip(SPACE))
        parts.append(certain)
        self._pending = self._pending[len(certain) :]

    def _open(self, opener: str, parts: list[CallOrText]) -> None:
        self._block = _Block(opener, self._marks, self._names, self._beginnings, self.calls)
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
    marks: CallMarks
    names: Collection[str]
    beginnings: Collection[str]
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
    _fenced: bool = False
    """Whether a fence stands between the marker and the calls."""
    _parts: list[CallOrText] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Account for the opener."""
        self.raw = self.opener
        self._listed = self._opens_list

    @property
    def marked(self) -> bool:
        """Whether it stands after the model's own marker."""
        return self.opener == self.marks.begin

    @property
    def _opens_list(self) -> bool:
        """Whether the opener is a text that ends with a bracket."""
        return len(self.opener) > 1 and self.opener.endswith("[")

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
        if char in SPACE or (char in self.marks.separators and self._has_call):
            self.raw += char if self.raw else ""
            return _Outcome.CONTINUE
        if char == "{" and not (self._closed and self._is_over):
            self.raw += char
            self._object = CallObject(self.index, self.marked, self.names, char, self.marks.keys, self.beginnings)
            return _Outcome.CONTINUE
        if char == "[" and not self._listed:
            self.raw += char
            self._listed = True
            return _Outcome.CONTINUE
        if char == "]" and self._listed and self._has_call:
            return self._end_list()
        if not self._has_call and self.opener == FENCE and not self._listed and char.isalpha():
            self.raw += char
            return _Outcome.CONTINUE if "json".startswith(self.raw[len(FENCE) :].lower()) else self._reject_char()
        if self.marked and self._is_fence_within(char):
            self.raw += char if self.raw else ""
            return _Outcome.CONTINUE
        if self._has_call and char == self.marks.end and self.marked:
            return _Outcome.ENDED
        if self._has_call and char == FENCE[0] and self.opener == FENCE:
            self._fence = char
            return _Outcome.CONTINUE
        return self._end(char)

    def _is_fence_within(self, char: str) -> bool:
        """Return whether a character belongs to a fence around calls that stands after the marker."""
        if self._has_call:
            return self._fenced and char == FENCE[0]
        is_fence = _FENCED_JSON.startswith(self.raw[len(self.opener) :].lstrip(SPACE) + char)
        self._fenced = self._fenced or is_fence
        return is_fence

    @property
    def _is_over(self) -> bool:
        """Whether no further object belongs to a block after the end of its list or object."""
        return self.opener == "[" or (self.opener == "{" and not self.marks.bare_sequence)

    @property
    def _has_call(self) -> bool:
        """Whether a call has been found: from then on no text is kept that would have to be returned."""
        return not self.raw

    def _reject_char(self) -> _Outcome:
        self.raw = self.raw[:-1]
        return _Outcome.REJECTED

    def _end(self, leftover: str) -> _Outcome:
        if not self._has_call:
            return _Outcome.REJECTED
        self.leftover = leftover
        return _Outcome.ENDED

    def _end_list(self) -> _Outcome:
        self._listed = False
        self._closed = True
        if self._opens_list or self.opener == "[":
            return _Outcome.ENDED
        return _Outcome.CONTINUE

    def _feed_fence(self, char: str) -> _Outcome:
        self._fence += char
        if self._fence == FENCE:
            return _Outcome.ENDED
        return _Outcome.CONTINUE if FENCE.startswith(self._fence) else self._end(self._fence)

    def _feed_object(self, char: str) -> _Outcome:
        assert self._object is not None
        if char in (self.marks.begin, self.marks.end) and not self._object.in_quotes:
            self.index += self._object.streaming
            return self._end(char)
        is_call = self._object.feed(char)
        if not self._object.streaming:
            self.raw += char
        self._parts += self._object.drain()
        if self._object.streaming:
            self.raw = ""
        if is_call is None:
            return _Outcome.CONTINUE
        if not is_call:
            if not self._has_call and not self._object.streaming:
                return self._reject_char()
            self._parts.append(self._object.text)
        else:
            self.index += 1
            self.raw = ""
        self._object = None
        self._closed = not self._listed
        return _Outcome.ENDED if self._closed and self.opener == "{" and self._is_over else _Outcome.CONTINUE


def join_parts(parts: list[CallOrText]) -> list[CallOrText]:
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
