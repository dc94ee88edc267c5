"""Remembers how long each part of an application took to start on this machine, and estimates the next start from that."""

import json
import statistics
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from serve_app.client.state_folder import find_folder, write_privately

_KEPT = 5
"""Starts of a part that are remembered."""
_MAX_PARTS = 200


def _find_file() -> Path:
    return find_folder("starts") / "seconds.json"


def read_expected_s() -> dict[str, float]:
    """Return the median seconds of each known part; empty where nothing is remembered."""
    return {part: statistics.median(seconds) for part, seconds in _read().items()}


def remember(seconds: Mapping[str, float]) -> None:
    """Add the seconds of a start, by part. Does nothing where they cannot be written: they are a convenience."""
    known = _read()
    for part, took_s in seconds.items():
        known[part] = [*known.pop(part, []), round(took_s, 1)][-_KEPT:]  # the parts of the latest start stand last
    kept = dict(list(known.items())[-_MAX_PARTS:])
    with suppress(OSError):
        write_privately(_find_file(), json.dumps(kept, indent=1, allow_nan=False))


def _read() -> dict[str, list[float]]:
    try:
        found = json.loads(_find_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        str(part): [float(each) for each in seconds]
        for part, seconds in found.items()
        if isinstance(seconds, list) and seconds and all(isinstance(each, int | float) for each in seconds)
    }
