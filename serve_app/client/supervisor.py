"""Starts `serve run` in a session of its own, writes its output into the log, and ends it with everything that it started."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Protocol, TextIO

from serve_app.client.run_file import Process, RunFile, find_process
from serve_app.client.run_log import RunLog, clean, find_dashboard
from serve_app.client.target import Target
from serve_app.manifests.files import read_serve_environment

_LONGEST_LINE = 1 << 16
_END_LIMIT_S = 60.0
"""Serve gives its replicas 30 s of this."""
_LEFT_LIMIT_S = 10.0
"""How long Ray's processes may take to end after `serve run`."""


class Supervisor:
    """One application and its processes."""

    def __init__(self, target: Target, copy: TextIO | None = None) -> None:
        """Start `serve run`; its output goes to the log, and as it is to `copy`. Raises `OSError`."""
        self._log = RunLog(target.port)
        self._copy = copy
        command = [str(Path(sys.executable).parent / "serve"), "run", str(target.config)]
        environment = {"RAY_DEDUP_LOGS": "0", "PYTHONUNBUFFERED": "1"} | os.environ | read_serve_environment()
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        own, child = find_process(os.getpid()), find_process(self._child.pid)
        if own is None or child is None:
            raise OSError("serve run ended at once")
        self.run = RunFile(
            port=target.port,
            supervisor=own,
            child=child,
            config=str(target.config),
            url=target.url,
            log=str(self._log.path),
            version=version("phi-serve"),
        )
        self.run.write()
        assert self._child.stdout is not None
        self._pump = threading.Thread(target=self._write_lines, args=(self._child.stdout,), daemon=True)
        self._pump.start()

    def poll(self) -> int | None:
        """Return the exit code of `serve run`; None while it runs."""
        return self._child.poll()

    def ask_to_end(self) -> None:
        """Let Serve end its replicas, then Ray."""
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End every process of the application at once."""
        end_session(self.run.child, limit_s=0)

    def finish(self) -> None:
        """Wait until `serve run` has ended, end what it left, and close the log."""
        self._child.wait()
        end_session(self.run.child, limit_s=_LEFT_LIMIT_S)
        self._pump.join(timeout=5)  # the pipe is at its end: nobody has the other side any more
        self._log.close()
        self.run.remove()

    def _write_lines(self, pipe: BinaryIO) -> None:
        while raw := pipe.readline(_LONGEST_LINE):
            line = raw.decode(errors="replace")
            self._log.write(line)
            if not self.run.dashboard and (dashboard := find_dashboard(clean(line))):
                self.run = replace(self.run, dashboard=dashboard)
                with suppress(OSError):  # commands then need --address
                    self.run.write()
            if self._copy is not None:
                with suppress(OSError, ValueError):
                    print(line, end="", file=self._copy, flush=True)


def end_session(leader: Process, limit_s: float) -> None:
    """Wait until no process of the leader's session is left; after `limit_s` seconds kill those that are.

    A session's number belongs to the leader as long as any process of it lives, so no strange process can have it.
    """
    deadline = time.monotonic() + limit_s
    while left := _list_session(leader):
        if time.monotonic() >= deadline:
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)  # processes end by themselves; there is nothing to wait on, for they are not our children


def _list_session(leader: Process) -> list[int]:
    """Return the living processes of a session, and no later ones with its number."""
    boot = leader.started.partition("/")[0]
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError, UnicodeDecodeError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[3] == str(leader.pid) and fields[0] not in "ZX":
                found.append(int(entry.name))
    now = find_process(leader.pid)
    if (now is not None and now != leader) or not _is_current_boot(boot):
        return []
    return found


def _is_current_boot(boot: str) -> bool:
    own = find_process(os.getpid())
    return own is not None and own.started.startswith(f"{boot}/")


class Application(Protocol):
    """What can be ended: in this process, or in one in the background."""

    def poll(self) -> int | None:
        """Return the exit code once it has ended."""
        ...

    def ask_to_end(self) -> None:
        """Let it end in order."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def finish(self) -> None:
        """Wait until nothing of it is left."""
        ...


def end_in_order(application: Application, signals: "Signals") -> bool:
    """End an application; one more signal, or a minute, ends it at once. Return whether it ended in order."""
    before, deadline = signals.count, time.monotonic() + _END_LIMIT_S
    application.ask_to_end()
    while application.poll() is None:
        if signals.count > before or time.monotonic() > deadline:
            application.kill()
            application.finish()
            return False
        signals.wait(0.1)
    application.finish()
    return True


class Signals:
    """Counts SIGINT, SIGTERM and SIGHUP, and lets a loop wait for them."""

    def __init__(self, reader: int) -> None:
        """Wait at the end of a pipe into which the handlers write."""
        self._reader = reader
        self.count = 0
        """How many have come."""
        self.last = 0
        """The number of the last one."""

    def wait(self, limit_s: float) -> bool:
        """Wait for so many seconds, or until a signal comes; return whether one came."""
        ready, _, _ = select.select([self._reader], [], [], limit_s)
        if ready:
            os.read(self._reader, 1)
        return bool(ready)


@contextmanager
def catching_signals() -> Iterator[Signals]:
    """Catch the signals that ask a command to end. SIGINT also where a shell in the background had switched it off."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signals = Signals(reader)

    def note(number: int, frame: FrameType | None) -> None:
        signals.count, signals.last = signals.count + 1, number
        with suppress(BlockingIOError):
            os.write(writer, b"x")

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield signals
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
        os.close(reader)
        os.close(writer)
