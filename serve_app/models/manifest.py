"""Lists a folder's files with sizes and SHA-256 sums, and checks a folder against its list. Knows nothing of the files' meaning."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from serve_app.errors import ModelUnusable
from serve_app.files.inside import lies_inside

logger = logging.getLogger(__name__)

NAME = "manifest.json"
_NONE: Mapping[str, str] = MappingProxyType({})


def write(folder: Path, about: dict[str, str], sums: Mapping[str, str] = _NONE) -> None:
    """Write `manifest.json` with every file of the folder; `about` describes it, `sums` are SHA-256 sums known already."""
    paths = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != NAME
    }
    files = {name: {"bytes": path.stat().st_size, "sha256": sums.get(name) or sum_file(path)} for name, path in paths.items()}
    (folder / NAME).write_text(json.dumps({"about": about, "files": files}, indent=2) + "\n")


def verify(folder: Path, sums: Mapping[str, str] = _NONE) -> dict[str, str]:
    """Return the folder's description; raises `ModelUnusable` naming the first file that is missing, truncated or altered.

    `sums` are SHA-256 sums that the caller knows already; their files are not read again.
    """
    try:
        manifest = json.loads((folder / NAME).read_text())
        about, files = manifest["about"], manifest["files"]
        expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnusable(f"{NAME} is missing or unreadable in the model's folder; export the model again") from error
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            raise ModelUnusable(f"{name} is missing from the model's folder; export the model again")
        if not lies_inside(folder, path):
            raise ModelUnusable(f"{name} lies outside the model's folder, or is a link that leads there; put the file itself there")
        if path.stat().st_size != size:
            raise ModelUnusable(
                f"{name} has {path.stat().st_size} bytes, not the {size} it was written with; export the model again"
            )
        if (sums.get(name) or sum_file(path)) != digest:
            raise ModelUnusable(f"{name} has changed since it was written: its SHA-256 sum differs; export the model again")
    return {str(key): str(value) for key, value in about.items()}


def read_about(folder: Path) -> dict[str, str]:
    """Return the folder's description as `write` got it; the files are not checked."""
    about: dict[str, str] = json.loads((folder / NAME).read_text())["about"]
    return about


def sum_file(path: Path) -> str:
    """Return the file's SHA-256 sum in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_whole(folder: Path, sums: Mapping[str, str] = _NONE) -> bool:
    """Return whether the folder exists and is undamaged; damage is logged, for the caller writes the folder again."""
    if not folder.exists():
        return False
    try:
        verify(folder, sums)
    except ModelUnusable as error:
        logger.warning("a damaged folder in the cache is written again: %s", error.message)
        return False
    return True
