"""Reads and writes strict JSON: no NaN, no Infinity, and no character at which a client might split a line. Pure."""

import json
import logging
import math
import re
from typing import Any

logger = logging.getLogger(__name__)

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
"""What JSON allows within a string although readers of lines, Python's and JavaScript's, cut there. The others are below U+0020."""
_LARGE = re.compile(rb"[0-9](?:[eE]\+?[0-9]{3}|[0-9]{308})")
"""What a number beyond all floats has. It begins with one set of characters because that is searched for fast."""


def dump(value: Any) -> bytes:
    """Return compact, strict JSON in UTF-8 without line ends of any kind. NaN and Infinity become null."""
    try:
        text = _encode(value)
    except ValueError:
        logger.exception("an answer has a number that JSON lacks; it leaves as null")
        text = _encode(_finite(value))
    if not text.isascii():
        text = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text.encode("utf-8", "replace")


def load(text: str | bytes) -> Any:
    """Return what strict JSON says; raises `ValueError` also for NaN, Infinity and numbers beyond all floats."""
    return json.loads(text, parse_constant=_refuse, parse_float=_float)


def require_finite(raw: bytes) -> None:
    """Raise `ValueError` when a body, known to be JSON but for its numbers, has one that JSON lacks, or one beyond all floats."""
    if b"NaN" in raw or b"Infinity" in raw or _LARGE.search(raw):
        load(raw)


def _encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number in JSON")


def _float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)
