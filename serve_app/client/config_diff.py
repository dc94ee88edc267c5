"""How two configurations differ, by path. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = "(not set)"
_NAMED = ("applications", "deployments")
"""Lists whose entries are known by their name, not by their place."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference."""

    path: str
    """Keys with dots; entries of applications and deployments by their names."""
    before: Any
    """The value that runs; `ABSENT` where there is none."""
    after: Any
    """The value in the file; `ABSENT` where there is none."""


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return the differences of two whole configurations, in the order of their paths."""
    old, new = dict(_flatten(before)), dict(_flatten(after))
    paths = sorted(old.keys() | new.keys())
    changes = [Change(path, old.get(path, ABSENT), new.get(path, ABSENT)) for path in paths]
    return [change for change in changes if change.before != change.after]


def _flatten(value: Any, path: str = "", key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flatten(inner, f"{path}.{name}" if path else str(name), str(name))
    elif key in _NAMED and isinstance(value, list) and value:
        for at, inner in enumerate(value):
            name = inner.get("name", at) if isinstance(inner, Mapping) else at
            yield from _flatten(inner, f"{path}.{name}")
    else:
        yield path, value
