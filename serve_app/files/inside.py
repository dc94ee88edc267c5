"""Keeps the paths in a model's files within the model's folder: no absolute paths, no `..`, no links that lead elsewhere.

A symbolic link may lead into the `blobs` of the hub repository that the folder is a snapshot of, because the hub's cache stores
files that way. Knows no format.
"""

import os
from pathlib import Path, PurePosixPath

from serve_app.errors import ModelUnusable

_FORBIDDEN = ("\0", "\\", "_ORT_MEM_ADDR_")
"""The last is onnxruntime's own mark for data that is already in memory, at an address in the graph."""


def resolve_inside(folder: Path, name: str, what: str) -> Path:
    """Return the path of the file `name` within `folder`, links resolved.

    Raises `ModelUnusable` when it is not a file or lies elsewhere; `what` names it in the message: "tensor x of model.onnx".
    """
    written = PurePosixPath(name)
    if not name or written.is_absolute() or ".." in written.parts or any(each in name for each in _FORBIDDEN):
        raise ModelUnusable(f"{what} lies in {name!r}, which leaves the model's folder; the file must be beside the graph")
    try:
        path = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ModelUnusable(f"{what} lies in {name!r}, which is missing or cannot be read; fetch the folder again") from error
    if not lies_inside(folder, path):
        raise ModelUnusable(f"{what} lies in {name!r}, a link that leaves the model's folder; put the file itself there")
    if not path.is_file():
        raise ModelUnusable(f"{what} lies in {name!r}, which is not a file; fetch the folder again")
    return path


def lies_inside(folder: Path, path: Path) -> bool:
    """Return whether `path`, links resolved, is in `folder`, or in the blobs of the hub repository that it is a snapshot of."""
    resolved = path.resolve()
    return any(root in resolved.parents for root in _allowed_roots(folder))


def _allowed_roots(folder: Path) -> set[Path]:
    """Return the folder, and for a snapshot in the hub's cache (models--OWNER--NAME/snapshots/REVISION) its repository's blobs."""
    roots = {folder.resolve()}
    for inside in (Path(os.path.abspath(folder)), folder.resolve()):
        for parent in (inside, *inside.parents):
            if parent.parent.name == "snapshots" and parent.parent.parent.name.startswith("models--"):
                roots.add(parent.parent.parent.resolve() / "blobs")  # if `blobs` is a link, its target is not allowed
    return roots
