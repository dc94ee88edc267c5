"""Ends vLLM's processes when the replica that started them dies.

A replica that is killed cannot stop its engine core, which would then keep its memory. vLLM loads this plugin in each of its
processes, and the plugin waits for the parent's death. Knows nothing of vLLM.
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
