"""What is wrong with a configuration: the line, the place, the fault, and what to write instead. Pure."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

Place: TypeAlias = tuple[str | int, ...]
"""Keys and indices from the file's root."""
_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """One mistake."""

    line: int
    """Line of the file, from 1; 0: of the file as a whole."""
    place: str
    """Keys from the file's root, with dots."""
    problem: str
    """The mistake, with the value that is there."""
    fix: str = ""
    """What to do; empty where the problem says it."""


def show_place(place: Place) -> str:
    """Return a place as text, such as applications.0.args.engines."""
    return ".".join(map(str, place))


def show_value(value: Any) -> str:
    """Return a value as it is quoted in a finding."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name that resembles `name`, or with all of them where none does."""
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
