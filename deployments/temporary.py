"""One folder for everything temporary of a replica: vLLM's sockets, llama.cpp's, what multiprocessing leaves. Knows none of them.

It is removed when the replica ends. Where that was killed, the next replica on the node removes it; see `serve_app.models.scratch`.
"""

import atexit
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from serve_app.models.scratch import scratch_folder

_PREFIX = ".phi-replica-"
_LONGEST_PARENT_CHARS = 40
"""A socket's path has 107 bytes at most. Below the parent come the folder's name (21) and vLLM's (36), or deeper ones."""


def claim_temp_folder() -> Callable[[], None]:
    """Make this process, and those it starts, put temporary files into a folder of their own; return a function that removes it."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _LONGEST_PARENT_CHARS:
        parent = Path("/tmp")
    held = ExitStack()
    folder = held.enter_context(scratch_folder(parent, _PREFIX))
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

    def restore() -> None:
        os.environ.pop("TMPDIR", None)
        if before[0] is not None:
            os.environ["TMPDIR"] = before[0]
        tempfile.tempdir = before[1]

    held.callback(restore)
    atexit.register(held.close)
    return held.close
