"""The memory of processes, measured on real ones."""

import os
import subprocess
import sys

from serve_app.memory import measure_tree_bytes

_CHILD = "import sys; held = bytearray(64 << 20); held[:] = b'x' * len(held); print('ready', flush=True); sys.stdin.read()"


def test_what_a_child_holds_counts_for_its_parent() -> None:
    before = measure_tree_bytes(os.getpid())
    with subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        alone, together = measure_tree_bytes(child.pid), measure_tree_bytes(os.getpid())
        child.communicate(b"")
    assert before is not None
    assert alone is not None
    assert together is not None
    assert 64 << 20 <= alone < 160 << 20
    assert together - before > 60 << 20


def test_a_process_that_is_gone_has_no_size() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert measure_tree_bytes(child.pid) is None
