"""Checks the folders that the application writes: whether it may, and who else may read what it keeps there."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from serve_app.config import AppSettings
from serve_app.diagnosis.checks import Check, fail, ok, warn
from serve_app.files.cache import cache_dir
from serve_app.store_config import RedisSettings

_OTHERS = 0o077
"""Permissions of group and others."""


def check_folders(settings: AppSettings) -> Iterator[Check]:
    """Yield the folders of state, keys, journal, variants and derived forms."""
    if isinstance(settings.store, RedisSettings):
        yield _check_redis(settings.store)
    else:
        yield check_folder("state", Path(settings.store.path).expanduser(), private=True)
    if not settings.access.open:
        yield check_keys_file(Path(settings.access.keys_file).expanduser())
    if settings.access.journal_dir is not None:
        yield check_folder("journal", Path(settings.access.journal_dir).expanduser(), private=True)
    if settings.models_dir is not None:
        yield check_folder("models_dir", Path(settings.models_dir).expanduser(), private=False)
    yield check_folder("cache", cache_dir(), private=False)


def check_folder(subject: str, folder: Path, *, private: bool) -> Check:
    """Return whether the folder, or where it is to be made the nearest one above it, can be written; its mode too if `private`."""
    if folder.exists() and not folder.is_dir():
        return fail(subject, f"{folder} is no folder", "move it away, or name another folder")
    if not folder.exists():
        above = next(each for each in folder.absolute().parents if each.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            return fail(subject, f"{folder} cannot be made: {above} is not writable", f"make it: `install -d -m 700 {folder}`")
        return ok(subject, f"{folder} will be made")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not os.access(folder, os.W_OK | os.X_OK):
        return fail(subject, f"{folder} (mode {mode:04o}) is not writable for this user", f"give it to this user: `chown` {folder}")
    if private and mode & _OTHERS:
        return warn(subject, f"{folder} has mode {mode:04o}: others may look into it", f"run `chmod 700 {folder}`")
    return ok(subject, f"{folder} (mode {mode:04o}) is writable")


def check_keys_file(file: Path) -> Check:
    """Return whether the file of keys, if there is one, can be read, and by this user only."""
    subject = "keys"
    if not file.exists():
        return ok(subject, f"{file} does not exist: only loopback addresses are served, and no key is asked for")
    if not os.access(file, os.R_OK):
        return fail(subject, f"{file} cannot be read by this user", "give it to the user that runs the application")
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & _OTHERS:
        return warn(subject, f"{file} has mode {mode:04o}: others may read it", f"run `chmod 600 {file}`")
    return ok(subject, f"{file} (mode {mode:04o}) can be read")


def check_disk(needed_bytes: float, folder: Path) -> Check:
    """Return whether the disk of `folder`, or of the nearest one above it, holds what the first start derives from the models."""
    subject = "disk"
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    shown = f"{free / 2**30:.1f} GiB free at {there}"
    if needed_bytes > free:
        fix = "free space, or set PHI_SERVE_CACHE to a folder on a larger disk; forms that are there already need none"
        return warn(subject, f"{shown}; the forms that the first start exports take {needed_bytes / 2**30:.1f} GiB", fix)
    return ok(subject, f"{shown}; exported forms take {needed_bytes / 2**30:.1f} GiB")


def _check_redis(store: RedisSettings) -> Check:
    try:
        store.read_url()
    except ValueError as error:
        return fail("state", str(error), "set it in the environment of every ingress; the URL itself is not shown anywhere")
    return ok("state", "in Redis; its URL can be read (the server was not asked)")
