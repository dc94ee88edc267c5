"""The folder for forms derived from a model, what keys them, and the lock that lets one process write. Knows no form."""

import errno
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serve_app.errors import ModelUnusable

logger = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 22


def cache_dir() -> Path:
    """Return the folder for derived files: $PHI_SERVE_CACHE, else phi-serve under the user's cache."""
    configured = os.environ.get("PHI_SERVE_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phi-serve"


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock between processes; `waiting` is called where another holds it. The kernel frees a dead holder's."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn what the disk refuses while `what` is written into `ModelUnusable`."""
    try:
        yield
    except OSError as error:
        logger.exception("%s failed", what)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelUnusable(f"the disk became full while {what} was written; make room and start again") from error
        file = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
        why = f"{error.strerror or type(error).__name__}{file}"
        raise ModelUnusable(f"{what} failed: {why}; set PHI_SERVE_CACHE to a folder that can be written") from error


def read_content(file: Path) -> Iterator[bytes]:
    """Yield the file, or its hash alone where the hub's cache names it by that, which saves reading gigabytes."""
    stored = file.resolve()
    if stored.parent.name == "blobs" and re.fullmatch("(sha256-)?([0-9a-f]{40}|[0-9a-f]{64})", stored.name):
        yield stored.name.encode()
        return
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece


def identify(file: Path) -> str:
    """Return a hash of the file's content."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in read_content(file):
        digest.update(piece)
    return digest.hexdigest()
