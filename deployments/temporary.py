"""Gives each replica one folder for its temporary files: vLLM's and llama.cpp's sockets, and files of multiprocessing.

It is removed when the replica ends, and by a shell that outlives it where it is killed; should that be killed too, by the next
replica on the node (see `serve_app.files.scratch`).
"""

import atexit
import os
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from serve_app.files.scratch import scratch_folder

_PREFIX = ".phi-replica-"
_LONGEST_PARENT_CHARS = 40
"""A socket's path has 107 bytes at most. Below the parent come the folder's name (21) and vLLM's (36), or deeper ones."""


def claim_temp_folder() -> Callable[[], None]:
    """Make this process, and those it starts, put temporary files into a folder of their own; return a function that removes it."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _LONGEST_PARENT_CHARS:
        parent = Path("/tmp")
    cleanup = ExitStack()
    folder = cleanup.enter_context(scratch_folder(parent, _PREFIX))
    # It reads until this process is gone, however it went. In a session of its own, since a stopped Ray ends whole process groups.
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
