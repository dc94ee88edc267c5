"""A folder's list of files with sizes and SHA-256 sums: what was written whole is loaded whole, or refused by name.

Knows nothing of what the files mean.
"""

import hashlib
import json
from pathlib import Path

from serve_app.errors import ModelUnusable

NAME = "manifest.json"


def write(folder: Path, about: dict[str, str]) -> None:
    """Write `manifest.json` over every file of the folder; `about` says what the folder is."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sum(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != NAME
    }
    (folder / NAME).write_text(json.dumps({"about": about, "files": files}, indent=2) + "\n")


def verify(folder: Path) -> dict[str, str]:
    """Return what the folder is; raises `ModelUnusable` naming the first file that is missing, truncated or altered."""
    try:
        manifest = json.loads((folder / NAME).read_text())
        about, files = manifest["about"], manifest["files"]
        expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnusable(f"{NAME} is missing or unreadable in the model's folder; export the model again") from error
    for name, (size, digest) in expected.items():
        path = folder / name
        if folder.resolve() not in path.resolve().parents or not path.is_file():
            raise ModelUnusable(f"{name} is missing from the model's folder; export the model again")
        if path.stat().st_size != size:
            raise ModelUnusable(
                f"{name} has {path.stat().st_size} bytes, not the {size} it was written with; export the model again"
            )
        if _sum(path) != digest:
            raise ModelUnusable(f"{name} is not what was written: its SHA-256 sum differs; export the model again")
    return {str(key): str(value) for key, value in about.items()}


def _sum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
