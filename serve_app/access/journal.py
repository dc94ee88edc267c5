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
_TRIES = 3


@dataclass(slots=True)
class Segment:
    """One file, open and locked."""

    name: str
    """Unique among all processes and times."""
    path: Path | None
    """None: without a file, in memory only."""
    file: int = -1
    is_torn: bool = False
    """Whether its last line is not whole."""

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
    """The segments of one folder; one is this process' own at any time. Where writing fails, entries are in memory only."""

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
        written = (b"\n" if segment.is_torn else b"") + line + b"\n"
        try:
            segment.is_torn = os.write(segment.file, written) != len(written)
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
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for _ in range(_TRIES):
                name = uuid.uuid4().hex
                path = self._folder / (name + _ENDING)
                file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                if _is_locked(file):
                    return Segment(name, path, file)
                os.close(file)  # another process adopted it before it was locked
            raise OSError("files there cannot be locked")
        except OSError as error:
            self._note_fault(error)
            return Segment(name, None)

    def _note_fault(self, error: OSError) -> None:
        if not self._is_faulty:
            self._is_faulty = True
            reason = error.strerror or str(error)
            logger.error("the journal of usage cannot be written (%s); until it can, a killed ingress loses a second", reason)


def _lock(path: Path) -> Segment | None:
    """Return the segment at `path`, None where a living process has it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    if _is_locked(file):
        return Segment(path.name.removesuffix(_ENDING), path, file)
    os.close(file)
    return None


def _is_locked(file: int) -> bool:
    """Lock a file, and return whether this process has it now, and it is still there."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(file).st_nlink > 0
