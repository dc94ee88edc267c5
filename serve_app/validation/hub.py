"""Finds a model in the hub's cache on this machine, without a network."""

from pathlib import Path


def locate_cached(path: str) -> Path | None:
    """Return the newest snapshot of a hub id in the cache; None where there is none."""
    from huggingface_hub import constants  # slow to import, and needed for hub ids only

    if path.count("/") != 1:
        return None
    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{path.replace('/', '--')}" / "snapshots"
    found = [folder for folder in snapshots.glob("*") if (folder / "config.json").exists()]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)
