"""The process behind `phi-serve up --detach`: starts the application, keeps its log, and ends it on SIGTERM. Shows nothing."""

import subprocess
import sys
import time
from pathlib import Path

from serve_app.client.run_file import RunFile, find_process, list_running
from serve_app.client.supervisor import Supervisor, catching_signals, end_in_order
from serve_app.client.target import Target, describe_target

_START_LIMIT_S = 30.0
_TICK_S = 0.2


class Background:
    """The application as the command sees it that started it in the background."""

    def __init__(self, target: Target) -> None:
        """Start it; raises `OSError` where it ended at once."""
        command = [sys.executable, "-m", __name__, str(target.config)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        self.run = self._await_run_file(target)

    def poll(self) -> int | None:
        """Return the exit code once the application has ended."""
        return self._process.poll()

    def ask_to_end(self) -> None:
        """Let it end in order; asked again, at once."""
        self._process.terminate()

    kill = ask_to_end

    def finish(self) -> None:
        """Wait until it has ended."""
        self._process.wait()

    def _await_run_file(self, target: Target) -> RunFile:
        deadline = time.monotonic() + _START_LIMIT_S
        own = find_process(self._process.pid)
        while self._process.poll() is None and time.monotonic() < deadline:
            for run in list_running():
                if run.port == target.port and run.supervisor == own:
                    return run
            time.sleep(_TICK_S)  # a file appears without a signal
        self._process.kill()
        raise OSError("the process in the background ended at once")


def main(config: Path) -> int:
    """Run the application until it ends or a signal comes; return the exit code."""
    with catching_signals() as signals:
        supervisor = Supervisor(describe_target(config, config.read_text(encoding="utf-8")))
        while supervisor.poll() is None and not signals.count:
            signals.wait(_TICK_S)
        code = supervisor.poll()
        end_in_order(supervisor, signals)
    return 0 if code is None else code or 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
