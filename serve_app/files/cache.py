"""The cache of folders derived from a model: where they are, what keys them, and how one process writes each. Knows no content."""

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serve_app.errors import ModelUnusable
from serve_app.files.scratch import create_scratch_folder

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
"""Takes a description of the work and the fraction done, 0 to 1; 0 where nothing can be counted. Called in the working thread."""

_PIECE_BYTES = 1 << 22


def ignore_progress(what: str, fraction: float) -> None:
    """Report nothing."""


def cache_dir() -> Path:
    """Return the folder for derived files: $PHI_SERVE_CACHE, else phi-serve under the user's cache."""
    configured = os.environ.get("PHI_SERVE_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phi-serve"


def write_cached_folder(
    target: Path,
    work: str,
    write: Callable[[Path], None],
    *,
    is_whole: Callable[[Path], bool] = Path.exists,
    on_wait: Callable[[], None] = lambda: None,
) -> Path:
    """Return the cached folder `target`, and write it first unless `is_whole` accepts it.

    One process writes at a time, under a lock beside the folder; `on_wait` is called when another process holds it. `write` fills a
    new folder, which becomes `target` whole or not at all; a damaged `target` is removed before.

    Raises `ModelUnusable` when the disk refuses; `work` names the work in the message, as in "exporting int4".
    """
    if is_whole(target):
        return target
    with translate_disk_errors(work):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _hold_lock(target.with_suffix(".lock"), on_wait):
            if not is_whole(target):
                shutil.rmtree(target, ignore_errors=True)
                write_folder(target, write)
    return target


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder beside `target`, then rename it: `target` appears whole or not at all."""
    with create_scratch_folder(target.parent) as scratch:
        folder = scratch / "out"
        folder.mkdir()
        write(folder)
        os.replace(folder, target)


@contextmanager
def _hold_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock between processes. The kernel frees it when its holder dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def translate_disk_errors(work: str) -> Iterator[None]:
    """Turn an `OSError` into `ModelUnusable`; `work` names the work that failed, as in "exporting int4"."""
    try:
        yield
    except OSError as error:
        logger.exception("%s failed", work)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelUnusable(
                f"the disk became full while {work}; make room, or set PHI_SERVE_CACHE to a folder on another disk"
            ) from error
        file = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
        reason = f"{error.strerror or type(error).__name__}{file}"
        raise ModelUnusable(f"{work} failed: {reason}; set PHI_SERVE_CACHE to a folder that can be written") from error


def read_content(file: Path) -> Iterator[bytes]:
    """Yield the file's bytes; of a file that the hub's cache names by its hash, only that hash, which saves reading gigabytes."""
    stored = file.resolve()
    if stored.parent.name == "blobs" and re.fullmatch("(sha256-)?([0-9a-f]{40}|[0-9a-f]{64})", stored.name):
        yield stored.name.encode()
        return
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece


def hash_content(file: Path) -> str:
    """Return a hash of the file's content."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in read_content(file):
        digest.update(piece)
    return digest.hexdigest()
