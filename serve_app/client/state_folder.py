"""Where the commands keep what they know of this machine: logs, run files, times of earlier starts, revisions of configurations."""

import os
import tempfile
from pathlib import Path

_STATE = "~/.local/share/phi-serve"


def find_folder(name: str) -> Path:
    """Return a folder within the state folder; makes it, for this user only, where it is missing."""
    folder = Path(_STATE).expanduser() / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def write_privately(file: Path, text: str) -> None:
    """Replace a file at once, readable by this user only."""
    descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
        Path(draft).replace(file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
