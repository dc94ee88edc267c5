"""Finds a model's folder on this machine: embedded, local, or in the hub's cache. Downloads nothing."""

import socket
from pathlib import Path

from serve_app.models.locate import EMBEDDED

_TIMEOUT_S = 3


def find_folder(path: str) -> Path | None:
    """Return the folder of a model's files on this machine; None where there is none."""
    if path == "embedded":
        return EMBEDDED
    folder = Path(path).expanduser()
    return folder if folder.is_dir() else locate_cached(path)


def is_hub_id(path: str) -> bool:
    """Return whether a model's path is of the form of a hub id, owner/name."""
    return not path.startswith((".", "/", "~")) and path.count("/") == 1


def locate_cached(path: str) -> Path | None:
    """Return the newest snapshot of a hub id in the cache; None where there is none."""
    from huggingface_hub import constants  # slow to import, and needed for hub ids only

    if path.count("/") != 1:
        return None
    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{path.replace('/', '--')}" / "snapshots"
    found = [folder for folder in snapshots.glob("*") if (folder / "config.json").exists()]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def reaches_hub() -> bool:
    """Return whether the hub's server accepts a connection within three seconds, and may be asked at all."""
    from huggingface_hub import constants  # slow to import, and needed for hub ids only

    if constants.HF_HUB_OFFLINE:
        return False
    host = constants.ENDPOINT.partition("//")[2].partition("/")[0].partition(":")[0]
    try:
        with socket.create_connection((host, 443), timeout=_TIMEOUT_S):
            return True
    except OSError:
        return False
