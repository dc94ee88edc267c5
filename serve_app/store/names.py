"""Encodes any text as a part of a key: the store's keys have few characters, and names of models more."""

from urllib.parse import quote, unquote

_MAX_CHARS = 80


def encode_name(name: str) -> str:
    """Return a part of a key for `name`, without slashes; names beyond 80 characters of it are cut."""
    return quote(name, safe="").replace("~", "%7E").replace("%", "=")[:_MAX_CHARS] or "="


def decode_name(part: str) -> str:
    """Return the name in a part of a key."""
    return unquote(part.replace("=", "%")) if part != "=" else ""
