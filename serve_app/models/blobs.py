"""Stores uploaded files by their SHA-256, as Ollama's clients send them before they create a model.

Weights are not accepted, so blobs are small. Nothing depends on them: the oldest are deleted to make room. Knows no model.
"""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from serve_app.errors import InvalidRequest, StorageFailed, Unsupported
from serve_app.models.variant_store import replace_file

KEEP_BYTES = 64 << 20
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


class BlobStore:
    """Blobs in one folder, which need not exist yet; without a folder nothing is stored."""

    def __init__(self, folder: Path | None) -> None:
        """Use `folder`."""
        self._folder = folder

    def holds(self, digest: str) -> bool:
        """Return whether the blob is stored; raises `InvalidRequest` for a malformed digest."""
        name = _build_file_name(digest)
        return self._folder is not None and (self._folder / name).is_file() and not (self._folder / name).is_symlink()

    def put(self, digest: str, raw: bytes) -> None:
        """Store `raw`; raises `InvalidRequest` unless `digest` is its SHA-256, `StorageFailed` when it cannot be written."""
        name = _build_file_name(digest)
        if hashlib.sha256(raw).hexdigest() != name.removeprefix("sha256-"):
            raise InvalidRequest("the digest is not the content's SHA-256; upload it again", param="digest")
        if self._folder is None:
            raise Unsupported("no files are kept here; the operator sets models_dir to allow it")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(raw))
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                replace_file(folder, name, raw)
            finally:
                os.close(folder)
        except OSError as error:
            raise StorageFailed("the blob could not be stored; the operator must make models_dir writable") from error

    def _make_room(self, wanted: int) -> None:
        """Delete the oldest blobs until `wanted` more bytes fit."""
        assert self._folder is not None
        by_age = sorted(((entry.stat(follow_symlinks=False), entry.path) for entry in os.scandir(self._folder)), key=_read_age)
        excess = sum(status.st_size for status, _ in by_age) + wanted - KEEP_BYTES
        for status, path in by_age:
            if excess <= 0:
                return
            excess -= status.st_size
            with suppress(OSError):
                os.unlink(path)


def _read_age(entry: tuple[os.stat_result, str]) -> int:
    return entry[0].st_mtime_ns


def _build_file_name(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidRequest("invalid digest format: write sha256: and 64 hexadecimal digits", param="digest")
    return f"sha256-{match[1]}"
