"""Creates folders to write in, and removes those that dead writers left. Knows nothing of their content."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".phi-serve-export-"


@contextmanager
def create_scratch_folder(parent: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """Yield a new empty folder in `parent`, and remove it at the end unless it was moved; first remove those of dead writers.

    A writer holds a lock on its folder, which the kernel frees when the writer dies. Every folder whose name begins with `prefix`
    is treated as a writer's.
    """
    for leftover in parent.glob(f"{prefix}*"):
        _remove_abandoned(leftover)
    folder, lock = _create(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _create(parent: Path, prefix: str) -> tuple[Path, int]:
    """Create and lock a folder; start again if another process removed it before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    """Remove the folder unless its writer lives."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # already removed, or not a writer's folder
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(lock)
