"""Folders that are being written: renamed when whole, removed when their writer is gone. Knows nothing of their content."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".phi-serve-export-"


@contextmanager
def scratch_folder(parent: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """Yield a new empty folder in `parent`, and remove what is left of it at the end; first remove what dead writers left there.

    A writer holds a lock on its folder, which the kernel frees when the writer dies, however it dies. A folder whose name begins
    with `prefix` counts as a writer's.
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
    except OSError:  # gone already, or no folder of ours
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(lock)
