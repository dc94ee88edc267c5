"""Tells what a model thinks from what it answers, in text that comes in pieces. Pure.

A reasoning model writes `<think>...</think>` before its answer. Only tags at the very beginning count: later ones are text.
"""

from serve_app.chat.overlap import overlap


class ThinkSplitter:
    """Incremental splitter for one answer; what may yet be a tag is held back until `finish`."""

    def __init__(self, begin: str, end: str) -> None:
        """Expect thoughts between `begin` and `end`, neither empty."""
        self._begin, self._end = begin, end
        self._held = ""
        self._old = 0
        """How many characters at the beginning of what is held back were there before: they are not returned."""
        self._state = "before"

    @property
    def answering(self) -> bool:
        """Whether the answer has begun."""
        return self._state == "answering"

    def resume(self, said: str) -> None:
        """Begin with an answer of which `said` exists already; nothing of it is returned."""
        self.push(said)
        self._old = len(self._held)

    def push(self, text: str) -> list[tuple[str, bool]]:
        """Take more text; return pieces that are certain, each with whether it is thought."""
        self._held += text
        if self._state == "before":
            told = self._open()
        elif self._state == "thinking":
            told = self._think()
        elif self._state == "between":
            told = self._answer()
        else:
            told, self._held = [(self._held, False)], ""
        return [(piece, thought) for piece, thought in told if piece]

    def finish(self) -> list[tuple[str, bool]]:
        """Return what was held back: thoughts that never ended stay thoughts."""
        held, self._held = self._held[self._old :], ""
        return [(held, self._state == "thinking")] if held and self._state != "between" else []

    def _open(self) -> list[tuple[str, bool]]:
        start = self._held.lstrip()
        if start.startswith(self._begin):
            self._state, self._held, self._old = "thinking", start.removeprefix(self._begin), 0
            return self._think()
        if self._begin.startswith(start):
            return []
        self._state = "answering"
        told, self._held = [(self._held[self._old :], False)], ""
        return told

    def _think(self) -> list[tuple[str, bool]]:
        thought, tag, rest = self._held.partition(self._end)
        if tag:
            self._state, self._held = "between", rest
            return [(thought[self._old :], True), *self._answer()]
        certain_chars = len(self._held) - overlap(self._held, (self._end,))
        certain, self._held = self._held[:certain_chars], self._held[certain_chars:]
        new, self._old = certain[self._old :], max(0, self._old - certain_chars)
        return [(new, True)]

    def _answer(self) -> list[tuple[str, bool]]:
        """Drop the line ends between the end tag and the answer."""
        self._held = self._held.lstrip("\r\n")
        if not self._held:
            return []
        self._state = "answering"
        told, self._held = [(self._held, False)], ""
        return told
