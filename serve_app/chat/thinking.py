"""Separates thoughts from the answer in streamed text. Pure.

A reasoning model writes `<think>...</think>` before its answer. Only tags at the very beginning count: later ones are text.
"""

from serve_app.chat.overlap import overlap


class ThinkSplitter:
    """Incremental splitter for one answer; text that may yet become a tag is held back until `finish`."""

    def __init__(self, begin: str, end: str) -> None:
        """Expect thoughts between `begin` and `end`, neither empty."""
        self._begin, self._end = begin, end
        self._pending = ""
        self._resumed_chars = 0
        """Characters at the beginning of the pending text that `resume` was given; they are not returned."""
        self._state = "before"

    @property
    def answering(self) -> bool:
        """Whether the answer has begun."""
        return self._state == "answering"

    def resume(self, existing: str) -> None:
        """Begin with an answer of which `existing` is written already; it is not returned."""
        self.push(existing)
        self._resumed_chars = len(self._pending)

    def push(self, text: str) -> list[tuple[str, bool]]:
        """Take more text; return the pieces that are certain, each with whether it is a thought."""
        self._pending += text
        if self._state == "before":
            pieces = self._read_opening()
        elif self._state == "thinking":
            pieces = self._read_thoughts()
        elif self._state == "between":
            pieces = self._skip_line_ends()
        else:
            pieces, self._pending = [(self._pending, False)], ""
        return [(piece, thought) for piece, thought in pieces if piece]

    def finish(self) -> list[tuple[str, bool]]:
        """Return the text held back; a thought that never ended stays a thought."""
        pending, self._pending = self._pending[self._resumed_chars :], ""
        return [(pending, self._state == "thinking")] if pending and self._state != "between" else []

    def _read_opening(self) -> list[tuple[str, bool]]:
        start = self._pending.lstrip()
        if start.startswith(self._begin):
            self._state, self._pending, self._resumed_chars = "thinking", start.removeprefix(self._begin), 0
            return self._read_thoughts()
        if self._begin.startswith(start):
            return []
        self._state = "answering"
        pieces, self._pending = [(self._pending[self._resumed_chars :], False)], ""
        return pieces

    def _read_thoughts(self) -> list[tuple[str, bool]]:
        thought, tag, rest = self._pending.partition(self._end)
        if tag:
            self._state, self._pending = "between", rest
            return [(thought[self._resumed_chars :], True), *self._skip_line_ends()]
        certain_chars = len(self._pending) - overlap(self._pending, (self._end,))
        certain, self._pending = self._pending[:certain_chars], self._pending[certain_chars:]
        new, self._resumed_chars = certain[self._resumed_chars :], max(0, self._resumed_chars - certain_chars)
        return [(new, True)]

    def _skip_line_ends(self) -> list[tuple[str, bool]]:
        """Drop the line ends between the end tag and the answer."""
        self._pending = self._pending.lstrip("\r\n")
        if not self._pending:
            return []
        self._state = "answering"
        pieces, self._pending = [(self._pending, False)], ""
        return pieces
