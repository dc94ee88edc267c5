"""This replica's own log, which Serve writes: lets our loggers write there, and reads its end. Knows no configuration."""

import logging
from collections import deque
from pathlib import Path

_MAX_BYTES = 2 << 20
"""Bytes from the end that are read at most."""


def write_to_serve_log(*loggers: logging.Logger) -> None:
    """Let these loggers write to Serve's log of this replica, from level INFO on."""
    for log in loggers:
        log.setLevel(logging.INFO)
        log.propagate = False
        log.handlers = logging.getLogger("ray.serve").handlers


def read_tail(lines: int) -> list[str]:
    """Return the last lines; none where the log is not in a file."""
    file = find_log()
    if file is None:
        return []
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _MAX_BYTES))
        return list(deque(stream.read().decode(errors="replace").splitlines(), lines))


def find_log() -> Path | None:
    """Return the file of Serve's log of this replica."""
    for handler in logging.getLogger("ray.serve").handlers:
        target = getattr(handler, "target", None) or handler  # Serve may collect lines before it writes them
        if isinstance(target, logging.FileHandler):
            target.flush()
            return Path(target.baseFilename)
    return None
