"""Checks the interpreter against `requires-python`. Pure."""

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from serve_app.diagnosis.checks import Check, fail, ok

Version = tuple[int, ...]
_COMPARE: Mapping[str, Callable[[Version, Version], bool]] = MappingProxyType(
    {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
)
_CLAUSE = re.compile(r"\s*(>=|<=|==|!=|~=|>|<)\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?\s*")
_SUBJECT = "Python"


def check_python(version: Version, requires: str) -> Check:
    """Return whether the interpreter's version is one that the package is made for; `requires` is a list such as >=3.11,<3.12."""
    shown = ".".join(map(str, version))
    if all(_satisfies(version, *clause) for clause in _read_clauses(requires)):
        return ok(_SUBJECT, f"{shown}; the package needs {requires}")
    least = next((".".join(map(str, bound)) for sign, bound, _ in _read_clauses(requires) if sign == ">="), requires)
    return fail(
        _SUBJECT, f"{shown}, and the package needs {requires}", f"make the environment anew with Python {least}: `make setup`"
    )


def _read_clauses(requires: str) -> Iterator[tuple[str, Version, bool]]:
    """Yield sign, version and whether it ends with a star; a clause of another form is left out."""
    for clause in requires.split(","):
        if found := _CLAUSE.fullmatch(clause):
            yield found[1], tuple(map(int, found[2].split("."))), found[3] is not None


def _satisfies(version: Version, sign: str, bound: Version, has_star: bool) -> bool:
    if sign in _COMPARE:
        return _COMPARE[sign](version + (0,) * (len(bound) - len(version)), bound + (0,) * (len(version) - len(bound)))
    if sign == "~=":
        return version[: len(bound) - 1] == bound[:-1] and version >= bound
    shared = version[: len(bound)] if has_star else version
    return (shared == bound) is (sign == "==")
