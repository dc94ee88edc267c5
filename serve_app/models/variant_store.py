"""Stores variants as JSON files in a folder: one file each, written whole or not at all, visible to all processes that share it.

A synced temporary file is renamed, so that a killed process leaves the old state or the new. The folder's modification time shows
whether anything changed, for one `stat` per look. Links are never followed, and file names are made from checked model names, so
nothing outside the folder is read or written. Knows no model.
"""

import errno
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.config import VariantSettings
from serve_app.errors import InvalidRequest, StorageFailed
from serve_app.model_names import normalize_name, require_name
from serve_app.models.variant import Variant

logger = logging.getLogger(__name__)

MAX_VARIANTS = 1000
MAX_FILE_BYTES = 8 << 20
_SUFFIX = ".json"
_SETTLE_NS = 2_000_000_000
"""A folder that changed more recently is read again: a second change within one tick of its clock would not show."""
_ABANDONED_S = 300


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    root: str = ""
    modified: float
    settings: VariantSettings


class VariantStore:
    """The variants in one folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`; it is created with the first variant."""
        self._folder = folder
        self._seen: tuple[int, Mapping[str, Variant]] | None = None

    def all(self) -> Mapping[str, Variant]:
        """Return the variants in the folder now, by key; unreadable files are logged and left out."""
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
        except OSError:
            return MappingProxyType({})
        seen = self._seen
        if seen is not None and seen[0] == changed_ns:
            return seen[1]
        variants = MappingProxyType(self._read())
        # The time was taken before reading: a change in between shows as another time at the next look.
        self._seen = (changed_ns, variants) if abs(time.time_ns() - changed_ns) > _SETTLE_NS else None
        return variants

    def put(self, variant: Variant) -> None:
        """Write a variant, replacing one of the same name; raises `InvalidRequest` when full, `StorageFailed` when that fails."""
        if len(self.all()) >= MAX_VARIANTS and normalize_name(variant.name) not in self.all():
            raise InvalidRequest(f"{MAX_VARIANTS} models have been created here; delete some first", param="model")
        record = _Record(name=variant.name, root=variant.root, modified=variant.modified, settings=variant.settings)
        raw = record.model_dump_json(by_alias=True, indent=1).encode()
        if len(raw) > MAX_FILE_BYTES:
            raise InvalidRequest(f"a model's texts may have {MAX_FILE_BYTES} bytes together; shorten them", param="model")
        with _translate_errors(), _open_folder(self._folder) as folder:
            _remove_abandoned(folder)
            replace_file(folder, _build_file_name(variant.name), raw)

    def remove(self, name: str) -> bool:
        """Delete a variant; return False when there was none. Raises `StorageFailed`."""
        try:
            with _open_folder(self._folder, create=False) as folder:
                os.unlink(_build_file_name(name), dir_fd=folder)
                os.fsync(folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _build_error(error) from error
        return True

    def _read(self) -> dict[str, Variant]:
        found = {}
        with suppress(FileNotFoundError), _open_folder(self._folder, create=False) as folder:
            names = sorted(name for name in os.listdir(folder) if name.endswith(_SUFFIX) and not name.startswith("."))
            for name in names[:MAX_VARIANTS]:
                variant = _load(folder, name)
                if variant is not None:
                    found[normalize_name(variant.name)] = variant
        return found


def replace_file(folder: int, name: str, raw: bytes) -> None:
    """Write `raw` to `name` in the opened folder, whole or not at all; a link of that name is replaced, not followed."""
    temporary = f".{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def _build_file_name(name: str) -> str:
    return quote(normalize_name(name), safe="") + _SUFFIX


def _load(folder: int, file: str) -> Variant | None:
    try:
        record = _Record.model_validate_json(read_file(folder, file, MAX_FILE_BYTES))
        if file != _build_file_name(require_name(record.name)):
            raise ValueError("the file is not named after the model in it")
    except (OSError, ValueError, ValidationError, InvalidRequest) as error:
        logger.warning("models_dir: %s is left out: %s", file[:200], type(error).__name__)
        return None
    return Variant(
        name=record.name,
        parent=record.settings.parent,
        root=record.root,
        settings=record.settings,
        modified=record.modified,
        stored=True,
    )


def read_file(folder: int, name: str, limit: int) -> bytes:
    """Return the content of a regular file in the opened folder; raises `OSError` for other kinds and beyond `limit` bytes."""
    # O_NONBLOCK: opening a pipe of that name must not hang.
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise OSError(errno.EINVAL, "not a regular file of acceptable size")
        return stream.read(limit)


def _remove_abandoned(folder: int) -> None:
    """Remove temporary files of killed processes."""
    for name in os.listdir(folder):
        if name.startswith(".") and name.endswith(".tmp"):
            with suppress(OSError):
                if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > _ABANDONED_S:
                    os.unlink(name, dir_fd=folder)


@contextmanager
def _open_folder(path: Path, *, create: bool = True) -> Iterator[int]:
    if create:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _build_error(error) from error


def _build_error(error: OSError) -> StorageFailed:
    logger.warning("models_dir: %s", error)
    why = errno.errorcode.get(error.errno or 0, "unknown")
    return StorageFailed(f"the model could not be stored ({why}); the operator must make models_dir writable")
