"""Ends vLLM's processes with the replica that started them.

A replica killed from outside cannot stop its engine core, which would keep its memory for good. vLLM loads this plugin in each
of its processes; it watches for the parent's death. Knows nothing of vLLM.
"""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait


def install() -> None:
    """Kill this process when its multiprocessing parent dies; does nothing in a process that has none."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def kill_with_parent() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill_with_parent, name="orphan-guard", daemon=True).start()
