"""Reads and writes strict JSON: no NaN, no Infinity, and no character at which a client might split lines. Pure."""

import json
import logging
import math
import re
from typing import Any

logger = logging.getLogger(__name__)

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
"""Line ends that JSON allows within a string, and at which line readers of Python and JavaScript split. JSON escapes the rest."""
_LARGE = re.compile(rb"[0-9](?:[eE]\+?[0-9]{3}|[0-9]{308})")
"""Occurs in every number beyond all floats. It begins with a single set of characters, since such a search is fast."""

_PIECES = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def dump(value: Any) -> bytes:
    """Return compact, strict JSON in UTF-8 without line ends of any kind. NaN and Infinity become null."""
    try:
        text = _encode(value)
    except ValueError:
        logger.exception("an answer has a number that JSON lacks; it leaves as null")
        text = _encode(_replace_non_finite(value))
    if not text.isascii():
        text = _LINE_ENDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text.encode("utf-8", "replace")


def dump_in_pieces(value: Any) -> bytes:
    """Return the same as `dump` for ASCII text and finite numbers, but let other threads run meanwhile."""
    return "".join(_PIECES.iterencode(value)).encode()


def load(text: str | bytes) -> Any:
    """Parse strict JSON; raises `ValueError` also for NaN, Infinity and numbers beyond all floats."""
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_float)


def require_finite(raw: bytes) -> None:
    """Raise `ValueError` when a body that a lenient parser accepted has NaN, Infinity or a number beyond all floats."""
    if b"NaN" in raw or b"Infinity" in raw or _LARGE.search(raw):
        load(raw)


def _encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _replace_non_finite(each) for name, each in value.items()}
    return [_replace_non_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no number in JSON")


def _parse_float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_constant(text)
