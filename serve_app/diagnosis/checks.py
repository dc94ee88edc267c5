"""The result of one check of the machine. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    """The application runs, but slower, less safely or not as written."""
    FAIL = "fail"
    """The application, or a part of it, will not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report."""

    subject: str
    """What was checked, in a word or two."""
    level: Level
    """How it ended."""
    finding: str
    """What is there, with its value."""
    fix: str = ""
    """What to do; empty where there is nothing to do."""


def ok(subject: str, finding: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(subject=subject, level=Level.OK, finding=finding)


def warn(subject: str, finding: str, fix: str) -> Check:
    """Return a check whose finding does not keep the application from running."""
    return Check(subject=subject, level=Level.WARN, finding=finding, fix=fix)


def fail(subject: str, finding: str, fix: str) -> Check:
    """Return a check whose finding keeps the application, or a part of it, from running."""
    return Check(subject=subject, level=Level.FAIL, finding=finding, fix=fix)


def has_failed(checks: Iterable[Check]) -> bool:
    """Return whether a check failed."""
    return any(each.level is Level.FAIL for each in checks)
