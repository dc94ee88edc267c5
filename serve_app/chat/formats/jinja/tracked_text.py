"""Text with the origin of each character: the template or a client.

A template treats it as any string, so a conversation renders to the same text as without it. A plain `str` is text of the template
itself. Every operation of a template on text goes through functions of this folder. A function that cannot follow characters
returns text of a client, which is the safe direction. Knows no templates and no tokens.
"""

from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

from jinja2 import Undefined

from serve_app.chat.formats.jinja.budget import spend_deep, spend_text

TEMPLATE, CLIENT, CUT = b"\0", b"\1", b"\2"
"""Origins of a character: the template, a client, and the mark at which a prompt is cut."""


class TrackedText(str):
    """A string with the origin of each character."""

    __slots__ = ("_origin",)
    _origin: bytes

    def __new__(cls, text: str, origin: bytes) -> "TrackedText":
        """Return `text` with one origin per character."""
        self = super().__new__(cls, text)
        self._origin = origin
        return self

    def __str__(self) -> str:
        """Return the text with its origins: generated code calls `str` on every output."""
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        """Return a character or a slice with its origins."""
        if isinstance(key, slice):
            return track(super().__getitem__(key), self._origin[key])
        return track(super().__getitem__(key), bytes((self._origin[key],)))

    def __iter__(self) -> Iterator[str]:
        """Yield the characters with their origins."""
        for char, origin in zip(super().__iter__(), self._origin, strict=True):
            yield track(char, bytes((origin,)))


def track(text: str, origin: bytes) -> str:
    """Return text with one origin per character; text of the template alone is a plain `str`."""
    return TrackedText(text, origin) if origin.count(TEMPLATE) != len(origin) else text


def mark(text: str, origin: bytes = CLIENT) -> str:
    """Return text of which every character has one origin."""
    return TrackedText(text, origin * len(text)) if text else text


def find_origins(text: str) -> bytes:
    """Return the origin of each character."""
    return text._origin if isinstance(text, TrackedText) else TEMPLATE * len(text)


def concat(pieces: Iterable[str]) -> str:
    """Return the pieces as one text."""
    pieces = list(pieces)
    spend_text(sum(map(len, pieces)))
    text = "".join(pieces)
    if not any(isinstance(piece, TrackedText) for piece in pieces):
        return text
    return TrackedText(text, b"".join(map(find_origins, pieces)))


def to_text(value: Any) -> str:
    """Return a value as a template prints it. Numbers and structures may come from a client, so their text counts as a client's."""
    if isinstance(value, str):
        return value
    if isinstance(value, Undefined):
        return str(value)
    spend_deep(value)
    text = str(value)
    spend_text(len(text))
    return mark(text)


def is_tracked(value: Any) -> bool:
    """Return whether a value contains anything but the template's own text, such as a client's text or a number."""
    spend_deep(value)
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += (part for pair in item.items() for part in pair)
        elif isinstance(item, list | tuple):
            pending += item
        elif isinstance(item, TrackedText) or not isinstance(item, str | bool | Undefined | None):
            return True
    return False
