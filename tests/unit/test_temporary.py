"""A replica's temporary files: in one folder that goes with it, however it ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.temporary import claim_temp_folder

_REPLICA = """
import multiprocessing, multiprocessing.util, os, socket, subprocess, sys, tempfile, time
from deployments.temporary import claim_temp_folder
release = claim_temp_folder()
socket.socket(socket.AF_UNIX).bind(os.path.join(tempfile.gettempdir(), "b4c1b0a2-7d3c-4a2e-9f57-4d0e7c3f1a2b"))
tempfile.mkdtemp(prefix="phi-llama-")
multiprocessing.util.get_temp_dir()
child = [sys.executable, "-c", "import tempfile; open(tempfile.mkdtemp(prefix='vllm_dist_') + '/x', 'w')"]
subprocess.run(child, check=True)
print(tempfile.gettempdir(), flush=True)
sys.stdin.readline()
if len(sys.argv) > 1:
    release()
"""


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def _replica(*arguments: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", _REPLICA, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def _end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=30)


@pytest.mark.parametrize("arguments", [("graceful",), ()], ids=["destructor", "exit"])
def test_a_replica_that_stops_leaves_nothing(parent: Path, arguments: tuple[str, ...]) -> None:
    process, folder = _replica(*arguments)
    assert [each for each in parent.iterdir()] == [folder]
    assert {each.name.split("-")[0].split("_")[0] for each in folder.iterdir()} == {"b4c1b0a2", "phi", "pymp", "vllm"}
    assert folder.stat().st_mode & 0o077 == 0
    _end(process)
    assert list(parent.iterdir()) == []


def _await_contents(parent: Path, expected: set[Path]) -> None:
    deadline = time.monotonic() + 30
    while set(parent.iterdir()) != expected:
        assert time.monotonic() < deadline, list(parent.iterdir())
        time.sleep(0.01)


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(30)
    for pipe in (process.stdin, process.stdout):
        assert pipe
        pipe.close()


def test_a_replica_that_is_killed_leaves_nothing(parent: Path) -> None:
    (killed, _), (living, kept) = _replica(), _replica()
    _kill(killed)
    _await_contents(parent, {kept})
    assert len(list(kept.iterdir())) == 4
    _end(living)
    assert list(parent.iterdir()) == []


def test_what_is_left_nevertheless_goes_when_the_next_replica_starts(parent: Path) -> None:
    (killed, lost), (living, kept) = _replica(), _replica()
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    for child in map(int, children):
        os.kill(child, signal.SIGKILL)
    _kill(killed)
    assert set(parent.iterdir()) == {lost, kept}
    successor, own = _replica()
    assert set(parent.iterdir()) == {kept, own}
    assert len(list(kept.iterdir())) == 4
    for process in (living, successor):
        _end(process)
    assert list(parent.iterdir()) == []


def test_a_long_path_leaves_room_for_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    release = claim_temp_folder()
    try:
        assert len(tempfile.gettempdir()) + 1 + 36 < 107
        assert list(long.iterdir()) == []
    finally:
        release()
    assert os.environ["TMPDIR"] == str(long)
