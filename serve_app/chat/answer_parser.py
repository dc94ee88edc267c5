"""Splits the streamed text of an answer into text, thoughts and tool calls.

Thoughts stand before the answer, between tags that the model's settings name. The chat format knows how calls look, and supplies
the `CallParser`. Pure: no tokenizer, no engine, no dialect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, TypeAlias

from serve_app.chat.thinking import ThinkSplitter


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPart:
    """A piece of a call: the first piece has the name, later pieces have more of the arguments' JSON."""

    index: int
    """Which call of the answer, from 0."""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the model's thoughts before its answer."""

    text: str


CallOrText: TypeAlias = str | CallPart
Part: TypeAlias = CallOrText | Thought


class CallParser(Protocol):
    """Finds calls in one answer. Contract: the joined parts do not depend on how the text was cut."""

    def push(self, text: str) -> list[CallOrText]:
        """Take more of the answer; return the parts that are certain."""
        ...

    def finish(self) -> list[CallOrText]:
        """Return the text held back, at the end of the answer."""
        ...


class AnswerParser:
    """The parser of one answer; without arguments all of it is text."""

    def __init__(
        self,
        calls: Callable[[bool], CallParser] | None = None,
        markers: Mapping[str, str] = MappingProxyType({}),
        *,
        think_tags: tuple[str, str] | None = None,
        prefill: str = "",
    ) -> None:
        """Prepare for an answer that continues `prefill`, which is not returned.

        `calls` returns the parser of calls, given whether the answer's text has begun already. `markers` maps the control tokens
        that this parser reads to code points that are no characters and stand for them.
        """
        self._thinking = None if think_tags is None else ThinkSplitter(*think_tags)
        if self._thinking is not None:
            self._thinking.resume(prefill)
        begun = bool(prefill.strip()) if self._thinking is None else self._thinking.answering
        self._calls = None if calls is None else calls(begun)
        self._markers = markers if calls is not None else {}
        self.control_texts: Mapping[str, str] = {**self._markers, **{tag: tag for tag in think_tags or ()}}
        """Text that stands for a control token, by the token's name; other control tokens are left out of the text."""

    def insert_markers(self, text: str) -> str:
        """Return a text with the code points of markers in place of their names."""
        for name, code_point in self._markers.items():
            text = text.replace(name, code_point)
        return text

    def remove_markers(self, text: str) -> str:
        """Return a text in which no code point stands for a marker."""
        for code_point in self._markers.values():
            text = text.replace(code_point, "\ufffd")
        return text

    def push(self, text: str) -> list[Part]:
        """Take more of the answer; return the parts that are certain."""
        if self._thinking is None:
            return self._split_calls(text) if text else []
        return self._split_pieces(self._thinking.push(text))

    def finish(self) -> list[Part]:
        """Return the text held back, at the end of the answer."""
        parts = [] if self._thinking is None else self._split_pieces(self._thinking.finish())
        return parts + (list[Part](self._calls.finish()) if self._calls is not None else [])

    def _split_pieces(self, pieces: list[tuple[str, bool]]) -> list[Part]:
        parts: list[Part] = []
        for piece, is_thought in pieces:
            parts += [Thought(self._spell_markers(piece))] if is_thought else self._split_calls(piece)
        return parts

    def _spell_markers(self, text: str) -> str:
        """Return a thought with the markers' names: a call in it is none, and no code point may reach a client."""
        for name, code_point in self._markers.items():
            text = text.replace(code_point, name)
        return text

    def _split_calls(self, text: str) -> list[Part]:
        return [text] if self._calls is None else list[Part](self._calls.push(text))
