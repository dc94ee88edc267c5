"""Keeps the configurations that `phi-serve deploy` has deployed, numbered, so that an earlier one can be deployed again."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serve_app.client.state_folder import find_folder, write_privately

MAX_REVISIONS = 50
"""Older ones are deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A configuration that was deployed."""

    number: int
    at: float
    """When, in seconds since 1970."""
    address: str
    """The dashboard of the Ray that got it."""
    source: str
    """The file, or why it was deployed again."""
    outcome: str
    """`running`, `failed`, or `unknown` where nobody waited for it; `before`: it ran before the first deployment from here."""
    config: dict[str, Any]
    """The whole configuration."""
    repeats: int | None = None
    """The revision to which this one returned; None: it was new."""


def list_revisions(address: str | None = None) -> list[Revision]:
    """Return what is kept, oldest first; only of one dashboard where it is named."""
    found = [revision for file in _find_folder().glob("*.json") if (revision := _read(file)) is not None]
    return sorted((each for each in found if address in (None, each.address)), key=lambda each: each.number)


def keep(*, address: str, source: str, outcome: str, config: dict[str, Any], repeats: int | None = None) -> Revision:
    """Keep a configuration under the next number; raises `OSError`."""
    known = list_revisions()
    number = known[-1].number + 1 if known else 1
    revision = Revision(
        number=number, at=time.time(), address=address, source=source, outcome=outcome, config=config, repeats=repeats
    )
    write_privately(_find_file(number), json.dumps(asdict(revision), indent=1, allow_nan=False))
    for old in known[: max(0, len(known) + 1 - MAX_REVISIONS)]:
        _find_file(old.number).unlink(missing_ok=True)
    return revision


def find_previous(revisions: list[Revision], runs: Callable[[Revision], bool]) -> Revision | None:
    """Return the latest revision that worked and differs from what runs now; None where there is none.

    `runs` returns whether a revision is what runs. After a return to an earlier revision, the one before that is meant, so that
    repeated undoing goes further back.
    """
    running = next((each for each in reversed(revisions) if runs(each)), None)
    end = None if running is None else running.repeats or running.number
    for revision in reversed(revisions):
        is_earlier = end is None or revision.number < end
        if is_earlier and revision.repeats is None and revision.outcome in ("running", "before") and not runs(revision):
            return revision
    return None


def _find_folder() -> Path:
    return find_folder("revisions")


def _find_file(number: int) -> Path:
    return _find_folder() / f"{number:06}.json"


def _read(file: Path) -> Revision | None:
    try:
        return Revision(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
