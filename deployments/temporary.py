"""Gives each replica one folder for its temporary files: vLLM's and llama.cpp's sockets, and files of multiprocessing.

The replica removes the folder when it ends. If the replica is killed, a shell that outlives it does so. If the shell is killed too,
the next replica on the node does so (see `serve_app.files.scratch`).
"""

import atexit
import os
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from serve_app.files.scratch import create_scratch_folder

_PREFIX = ".phi-replica-"
_LONGEST_PARENT_CHARS = 40
"""A socket's path has at most 107 bytes. The folder's name takes 21, vLLM's socket 36, and other names may be longer."""


def claim_temp_folder() -> Callable[[], None]:
    """Create a folder for the temporary files of this process and its children; return a function that removes it."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _LONGEST_PARENT_CHARS:
        parent = Path("/tmp")
    cleanup = ExitStack()
    folder = cleanup.enter_context(create_scratch_folder(parent, _PREFIX))
    # The shell reads until this process is gone. It has its own session, since a stopping Ray kills whole process groups.
    command = ["/bin/sh", "-c", 'while read -r _; do :; done; rm -rf -- "$1"', "sh", str(folder)]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    cleanup.callback(_stop_watcher, watcher)
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

    def restore() -> None:
        os.environ.pop("TMPDIR", None)
        if before[0] is not None:
            os.environ["TMPDIR"] = before[0]
        tempfile.tempdir = before[1]

    cleanup.callback(restore)
    atexit.register(cleanup.close)
    return cleanup.close


def _stop_watcher(watcher: subprocess.Popen[bytes]) -> None:
    watcher.kill()  # closing its input is not enough: forked children may hold a copy
    watcher.communicate()
