"""The file of keys: its form, reading it again when it changes, and the changes that `phi-serve keys` makes.

A key is shown once, when it is made; the file has its SHA-256 only. That suffices, and no slow hash is needed, because keys are
random: 256 bits cannot be guessed from a hash.
"""

import errno
import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError, field_validator, model_validator

from serve_app.access_config import LimitsSettings
from serve_app.caller import ANONYMOUS, STRANGER, Caller, Priority, Scope
from serve_app.engine_config import Settings

logger = logging.getLogger(__name__)

_PREFIX = "sk-phi-"
"""Lets scanners for leaked secrets recognise our keys."""
_REREAD_S = 1.0
"""Seconds between looks at the file."""


class FormerKey(Settings):
    """What a key was before it was rotated."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the key."""
    expires: AwareDatetime
    """Until when it is still taken."""


class Key(LimitsSettings):
    """One key and its bounds, without the key itself."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Names its owner in usage, metrics and logs."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the key."""
    scopes: tuple[Scope, ...] = (Scope.USE,)
    """What it may do."""
    models: tuple[str, ...] = ()
    """Models that it may use; empty: all."""
    priority: Priority = Priority.NORMAL
    created: AwareDatetime | None = None
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    former: tuple[FormerKey, ...] = ()
    """The keys that this one replaced, while they are still taken."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name in (ANONYMOUS.name, STRANGER.name):
            raise ValueError(f"'{name}' stands for those without a key in logs and usage; choose another name")
        return name

    def build_caller(self) -> Caller:
        """Return the key's owner."""
        limits = self.build_limits()
        return Caller(name=self.name, scopes=frozenset(self.scopes), models=self.models, limits=limits, priority=self.priority)


class KeyList(Settings):
    """The whole file."""

    version: Literal[1] = 1
    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> "KeyList":
        hashes = [digest for key in self.keys for digest in (key.sha256, *(each.sha256 for each in key.former))]
        if len({key.name for key in self.keys}) != len(self.keys) or len(set(hashes)) != len(hashes):
            raise ValueError("two keys have the same name or the same hash")
        return self

    def find(self, name: str) -> Key | None:
        """Return the key of a name."""
        return next((key for key in self.keys if key.name == name), None)


class KeysUnusable(Exception):
    """The file cannot be read, or is no list of keys."""


def parse_keys(raw: bytes) -> KeyList:
    """Return the keys of a file; raises `KeysUnusable` in one sentence."""
    try:
        return KeyList.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise KeysUnusable(f"{place}: {first['msg']}" if place else first["msg"]) from None


def hash_key(key: str) -> str:
    """Return the form in which a key is kept."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key() -> str:
    """Return a new key."""
    return _PREFIX + secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class _Match:
    key: Key
    caller: Caller
    sha256: str
    expires: datetime | None
    """The earliest end among the key's own and, for a former one, its grace."""


class KeyFile:
    """The keys as they are now: the file is read again within a second of a change.

    Once the file has been seen, keys are asked for until the process ends: a mistake must not open the door. Where the file becomes
    faulty the last good keys stay valid; where it disappears, none is.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file at `path`, if there is one; `clock` gives monotonic seconds."""
        self.path = path
        self._clock = clock
        self._looked_at = -_REREAD_S
        self._seen: tuple[int, int, int] | None = None
        self._fault: str | None = None
        self._is_present = False
        self._matches: dict[str, _Match] = {}

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether there is, or was, one. `find` answers by what this read."""
        now = self._clock()
        if now - self._looked_at >= _REREAD_S:
            self._looked_at = now
            self._read()
        return self._is_present

    def find(self, key: str) -> tuple[Key, Caller, datetime | None] | None:
        """Return a key's entry, its owner and its end; None for an unknown key."""
        digest = hash_key(key)
        # Found by a part of the hash, compared as a whole in constant time. Who can choose hashes that share a part gains nothing.
        match = self._matches.get(digest[:16])
        if match is None or not hmac.compare_digest(match.sha256, digest):
            return None
        return match.key, match.caller, match.expires

    def _read(self) -> None:
        try:
            found = os.stat(self.path)
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            if mark == self._seen:
                return
            self._is_present = True
            self._matches = _index(parse_keys(self.path.read_bytes()))
            self._seen = mark
        except FileNotFoundError:
            if self._matches:
                logger.error("the file of keys is gone, so no key is valid")
            self._matches, self._seen = {}, None
            self._is_present = self._is_present or os.path.lexists(self.path)  # a link to a file that is not there yet
        except KeysUnusable as error:
            self._is_present, self._seen = True, mark
            logger.error("the file of keys cannot be used, the last good keys stay valid: %s", error)
        except OSError as error:
            if self._fault != error.strerror:
                logger.error("the file of keys cannot be read, the last good keys stay valid: %s", error.strerror)
            self._is_present, self._seen, self._fault = True, None, error.strerror
        else:
            self._fault = None


def _index(keys: KeyList) -> dict[str, _Match]:
    """Return the keys by the beginning of their hashes."""
    matches: dict[str, _Match] = {}
    for key in keys.keys:
        caller = key.build_caller()
        for former in key.former:
            ends = [each for each in (key.expires, former.expires) if each is not None]
            matches[former.sha256[:16]] = _Match(key, caller, former.sha256, min(ends))
        matches[key.sha256[:16]] = _Match(key, caller, key.sha256, key.expires)
    return matches


def read_keys(path: Path) -> KeyList:
    """Return the keys of a file, none where there is no file; raises `KeysUnusable` and `OSError`."""
    try:
        return parse_keys(path.read_bytes())
    except FileNotFoundError:
        return KeyList()


@contextmanager
def changing_keys(path: Path) -> Iterator[list[Key]]:
    """Yield the keys as a list to change, and write it when the block ends without an error.

    One process at a time; readers see the old file or the new one, with the rights and owner of the old one. Raises `KeysUnusable`
    and `OSError`.
    """
    path = path.resolve()  # a link stays one
    if not path.name or path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = list(read_keys(path).keys)
        yield keys
        changed = KeyList(keys=tuple(keys))
        fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
        before = path.stat() if path.exists() else None
        mode = 0o600 if before is None else before.st_mode & 0o777
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
                file.write(
                    json.dumps(changed.model_dump(mode="json", exclude_defaults=True) | {"version": 1}, indent=1, allow_nan=False)
                    + "\n"
                )
                file.flush()
                if before is not None and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)


def now() -> datetime:
    """Return the present time to the second."""
    return datetime.now(UTC).replace(microsecond=0)
