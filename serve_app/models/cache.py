"""The folder for forms derived from a model, what keys them, and the lock that lets one process write. Knows no form."""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
