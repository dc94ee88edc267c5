"""Finds the markers of calls, as tokens of the vocabulary or as spelled text, and keeps white space around calls out of the text.

A parser sees each marker as one code point. `serve_app.chat.text_stream` inserts it for a token; where the vocabulary has no such
token, `SpelledMarkers` inserts it for the spelled text.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from serve_app.chat.answer_parser import CallOrText, CallPart
from serve_app.chat.formats.call_parser import SPACE, JsonCallParser, join_parts
from serve_app.chat.overlap import overlap


def select_tokens(markers: Mapping[str, str], added: Collection[str]) -> dict[str, str]:
    """Return the markers that are added tokens of a vocabulary."""
    return {name: mark for name, mark in markers.items() if name in added}


class SpelledMarkers:
    """Replaces spelled markers by their code points in streamed text."""

    def __init__(self, markers: Mapping[str, str]) -> None:
        """Take code points by spelling; without any, text is unchanged."""
        self._markers = markers
        self._pending = ""

    def push(self, text: str) -> str:
        """Take more text; return what is certain. Code points that the text itself has are no markers."""
        if not self._markers:
            return text
        for mark in self._markers.values():
            text = text.replace(mark, "\ufffd")
        text = self._pending + text
        for name, mark in self._markers.items():
            text = text.replace(name, mark)
        kept_chars = overlap(text, self._markers)
        self._pending = text[len(text) - kept_chars :]
        return text[: len(text) - kept_chars]

    def finish(self) -> str:
        """Return the text held back."""
        text, self._pending = self._pending, ""
        return text


class MarkedCallParser:
    """Splits one answer into text and calls. Contract: the joined parts do not depend on how the text was cut.

    White space around calls is returned only between two texts. A marker within a JSON string is its spelling.
    """

    def __init__(self, calls: JsonCallParser, markers: Mapping[str, str], tokens: Collection[str]) -> None:
        """Read with `calls` an answer in which each of `markers` is a token, if among `tokens`, or spelled text."""
        self._calls = calls
        self._markers = markers
        self._spelled = SpelledMarkers({name: mark for name, mark in markers.items() if name not in tokens})
        self._space = ""
        """White space after the last text."""
        self._has_text = False
        self._has_call = False
        """Whether a call has come since the last text."""

    def push(self, text: str) -> list[CallOrText]:
        """See `CallParser.push`."""
        return self._tidy(self._calls.push(self._spelled.push(text)))

    def finish(self) -> list[CallOrText]:
        """See `CallParser.finish`."""
        parts = self._tidy(self._calls.push(self._spelled.finish()) + self._calls.finish())
        return join_parts([*parts, "" if self._has_call else self._space])

    def _tidy(self, parts: list[CallOrText]) -> list[CallOrText]:
        return join_parts([self._tidy_text(part) if isinstance(part, str) else self._tidy_call(part) for part in parts])

    def _tidy_text(self, text: str) -> str:
        text = self._space + self._spell(text)
        body = text.rstrip(SPACE)
        self._space = text[len(body) :]
        if not body:
            return ""
        is_first_after_call = self._has_call and not self._has_text
        self._has_text, self._has_call = True, False
        return body.lstrip(SPACE) if is_first_after_call else body

    def _tidy_call(self, call: CallPart) -> CallPart:
        self._has_call = True
        return replace(call, name=self._spell(call.name), arguments=self._spell(call.arguments))

    def _spell(self, text: str) -> str:
        for name, mark in self._markers.items():
            text = text.replace(mark, name)
        return text
