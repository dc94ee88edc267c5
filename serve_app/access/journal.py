"""Files with what is not yet in the store, one line an entry. They survive a killed process, and the next one finds them.

A file belongs to the process that has it locked; the lock ends with the process. Knows nothing of what the lines mean.
"""

import fcntl
import logging
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_ENDING = ".jsonl"


@dataclass(slots=True)
class Segment:
    """One file, open and locked."""

    name: str
    """Unique among all processes and times."""
    path: Path | None
    """None: without a file, in memory only."""
    file: int = -1

    def read(self) -> list[bytes]:
        """Return its whole lines; one that was being written when its process was killed is left out."""
        if self.path is None:
            return []
        with self.path.open("rb") as file:
            return file.read().split(b"\n")[:-1]

    def remove(self) -> None:
        """Delete the file, and let go of the lock."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let go of the lock, and leave the file to others."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


class Journal:
    """The segments of one folder; one is this process' own at any time. Where the folder fails, it goes on without files."""

    def __init__(self, folder: Path | None) -> None:
        """Use `folder`, made when needed; None: no files."""
        self._folder = folder
        self._own: Segment | None = None
        self._is_faulty = False

    def write(self, line: bytes) -> None:
        """Add a line (without its end) to the present segment; when this returns it survives this process."""
        segment = self._own
        if segment is None:
            segment = self._own = self._begin()
        if segment.file < 0:
            return
        try:
            if os.write(segment.file, line + b"\n") != len(line) + 1:
                raise OSError("the disk is full")
            self._is_faulty = False
        except OSError as error:
            self._note_fault(error)

    def rotate(self) -> Segment | None:
        """Return the present segment, to be removed once its entries are in the store; None where it has no entries."""
        segment, self._own = self._own, None
        return segment

    def adopt(self) -> list[Segment]:
        """Return the segments of processes that ended, locked for this one."""
        if self._folder is None or not self._folder.is_dir():
            return []
        return [segment for path in sorted(self._folder.glob(f"*{_ENDING}")) if (segment := _lock(path)) is not None]

    def _begin(self) -> Segment:
        name = uuid.uuid4().hex
        if self._folder is None:
            return Segment(name, None)
        path = self._folder / (name + _ENDING)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._note_fault(error)
            return Segment(name, None)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Segment(name, path, file)

    def _note_fault(self, error: OSError) -> None:
        if not self._is_faulty:
            self._is_faulty = True
            logger.error(
                "the journal of usage cannot be written (%s); until it can, a killed ingress loses a second", error.strerror
            )


def _lock(path: Path) -> Segment | None:
    """Return the segment at `path`, None where a living process has it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:  # else another process was done with it a moment ago
            return Segment(path.name.removesuffix(_ENDING), path, file)
    except OSError:
        pass
    os.close(file)
    return None
