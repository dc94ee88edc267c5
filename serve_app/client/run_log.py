"""The log of what `phi-serve up` runs: written from the output of `serve run`, bounded in size, read by line and by group."""

import logging
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from serve_app.client.state_folder import find_folder

_MAX_BYTES = 8 << 20
_OLD_FILES = 4
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|[\x00-\x08\x0b-\x1f\x7f]")
_DASHBOARD = re.compile(r"View the dashboard at\s+(https?://[^\s]+)")
_FROM_REPLICA = re.compile(r"\(ServeReplica:[^:()]*:(?P<group>[^ ()]+) pid=(?P<pid>\d+)")


def find_log(port: int) -> Path:
    """Return the path of a port's log."""
    return find_folder("logs") / f"{port}.log"


class RunLog:
    """Appends lines to a port's log; full files are set aside, the oldest is deleted. Only this user can read them."""

    def __init__(self, port: int) -> None:
        """Begin a new file for a new start; raises `OSError`."""
        self.path = find_log(port)
        begins_anew = self.path.exists() and self.path.stat().st_size > 0
        self._file = _PrivateFile(self.path, maxBytes=_MAX_BYTES, backupCount=_OLD_FILES, encoding="utf-8")
        if begins_anew:
            self._file.doRollover()

    def write(self, line: str) -> None:
        """Append a line, without a terminal's control codes."""
        self._file.emit(logging.makeLogRecord({"msg": clean(line)}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _PrivateFile(RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600))

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line where the disk is full: the application must not stop for its log."""


def clean(line: str) -> str:
    """Return a line as it stands at its end, without a terminal's control codes."""
    return _CONTROL.sub("", line.rstrip("\r\n").rpartition("\r")[2])


def find_group(line: str) -> tuple[str, int] | None:
    """Return the deployment and the process that wrote a line; None for lines of Ray, Serve and the driver."""
    match = _FROM_REPLICA.match(line)
    return (match["group"], int(match["pid"])) if match else None


def find_dashboard(line: str) -> str | None:
    """Return the URL of Ray's dashboard where a clean line names it; Ray does so once it has started."""
    match = _DASHBOARD.search(line)
    return match[1].rstrip("/.") if match else None


def select(lines: Iterable[str], group: str | None) -> Iterator[str]:
    """Yield the lines of a group's replicas; all for None."""
    for line in lines:
        if group is None or ((found := find_group(line)) is not None and found[0] == group):
            yield line


def read_last(log: Path, count: int, group: str | None) -> list[str]:
    """Return the last lines of a group, from older files too where the newest has too few; raises `OSError`."""
    kept: deque[str] = deque(maxlen=count)
    older = [file for number in range(_OLD_FILES, 0, -1) if (file := Path(f"{log}.{number}")).exists()]
    for file in (*older, log):
        with file.open(encoding="utf-8", errors="replace") as text:
            kept.extend(select((line.rstrip("\n") for line in text), group))
    return list(kept)


class Follower:
    """Reads the lines that are appended to a log, across the change to a new file."""

    def __init__(self, log: Path, *, at_end: bool = False) -> None:
        """Begin at the start of the file, or at its end."""
        self._log = log
        self._file: TextIO | None = None
        self._part = ""
        if at_end and (file := self._open()) is not None:
            file.seek(0, os.SEEK_END)

    def read(self) -> list[str]:
        """Return the whole lines since the last call."""
        lines: list[str] = []
        while (file := self._open()) is not None:
            is_replaced = self._is_replaced(file)  # before the read: nothing is appended after it
            *whole, self._part = (self._part + file.read()).split("\n")
            lines += whole
            if not is_replaced:
                break
            file.close()
            self._file = None
        return lines

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> TextIO | None:
        if self._file is None:
            with suppress(OSError):
                self._file = self._log.open(encoding="utf-8", errors="replace")
        return self._file

    def _is_replaced(self, file: TextIO) -> bool:
        try:
            return self._log.stat().st_ino != os.fstat(file.fileno()).st_ino
        except OSError:
            return False
