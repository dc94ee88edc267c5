"""`phi-serve up`: starts a configuration, shows how far it is, and stays until it is told to end."""

import json
import signal
import sys
import warnings
from contextlib import suppress
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve_app.access.operator import find_operators
from serve_app.client.background import Background
from serve_app.client.configuration import print_error
from serve_app.client.picture import Moving, Picture, Plain, Silent, describe, print_box, print_causes, print_plain
from serve_app.client.progress import Verdict
from serve_app.client.run_file import list_running
from serve_app.client.run_log import find_log
from serve_app.client.start import Start, watch
from serve_app.client.supervisor import Signals, Supervisor, catching_signals, end_in_order
from serve_app.client.target import Target, describe_target
from serve_app.client.validate import UNUSABLE, require_valid

_FAILED = 1
_INTERRUPTED = 128
"""Exit code, plus the signal's number, where a signal ended a start."""


class LogForm(StrEnum):
    """What of the output is shown."""

    PICTURE = "picture"
    RAW = "raw"


def up(
    config: Annotated[Path, typer.Argument(help="The configuration.")] = Path("serve_config.yaml"),
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running in the background once it serves.")] = False,
    log: Annotated[LogForm, typer.Option("--log", help="`raw` shows the whole output instead of the picture.")] = LogForm.PICTURE,
    as_json: Annotated[bool, typer.Option("--json", help="With --detach: print the outcome as JSON only.")] = False,
) -> None:
    """Start Ray and the application, show the progress, and stay until Ctrl-C, which ends both."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # other packages' warnings are for their developers
    if as_json and not detach:
        raise typer.BadParameter("goes with --detach only", param_hint="--json")
    _require_free(config)
    target = describe_target(config, require_valid(config))
    with catching_signals() as signals:
        try:
            application = Background(target) if detach else Supervisor(target, sys.stdout if log is LogForm.RAW else None)
        except OSError as error:
            print_error(f"cannot start serve run: {error}")
            raise typer.Exit(_FAILED) from error
        code = _Command(target, application, signals, is_raw=log is LogForm.RAW, as_json=as_json).run()
    raise typer.Exit(code)


def _require_free(config: Path) -> None:
    """Exit where the same file runs already: `validate` would only say that its port is in use."""
    for run in list_running():
        if Path(run.config) == config.resolve():
            print_error(f"{config} runs already at {run.url} (pid {run.supervisor.pid}); `phi-serve down` ends it")
            raise typer.Exit(UNUSABLE)


class _Command:
    """One run of the command, from the start of the processes to their end."""

    def __init__(
        self, target: Target, application: Supervisor | Background, signals: Signals, *, is_raw: bool, as_json: bool
    ) -> None:
        self._target, self._application, self._signals = target, application, signals
        self._console = Console(highlight=False, quiet=as_json)
        self._log = _shorten(find_log(target.port))
        self._is_raw, self._as_json = is_raw, as_json
        self._start = Start(target, find_log(target.port))

    def run(self) -> int:
        """Return the exit code."""
        try:
            verdict = self._start.run(self._application, self._signals, self._choose_picture())
        finally:
            self._start.close()
        if self._as_json:
            typer.echo(
                json.dumps(
                    describe(self._start.progress) | {"log": str(find_log(self._target.port)), "url": self._target.url},
                    allow_nan=False,
                )
            )
        if verdict is Verdict.HOPELESS:
            return self._give_up()
        if verdict is Verdict.UNDER_WAY:
            self._end()
            return _INTERRUPTED + self._signals.last
        self._require_ticket()
        print_box(self._console, self._start.progress, self._target, self._log)
        if isinstance(self._application, Background):
            self._say(f"It runs in the background (pid {self._application.run.supervisor.pid}); phi-serve down ends it.")
            return 0
        self._say("Ctrl-C ends it. phi-serve status and phi-serve logs, in another terminal, show more.")
        code = watch(self._application, self._target.url, self._signals, self._console)
        if code is not None:
            self._say(f"serve run ended with status {code}; its log: {self._log}")
            self._application.finish()
            return code if code > 0 else _FAILED
        self._end()
        return 0 if self._signals.last == signal.SIGINT else _INTERRUPTED + self._signals.last

    def _choose_picture(self) -> Picture:
        name = self._target.config.name
        self._say(f"phi-serve {version('phi-serve')} starts {name}; its output goes to {self._log}")
        if self._is_raw:
            return Silent()
        shape = Moving if self._console.is_terminal else Plain
        return shape(self._console, self._start.progress, self._start.elapsed_s)

    def _require_ticket(self) -> None:
        """Make the operator's secret, which commands read, and a ticket where the application has printed none.

        The application prints one only once every group is ready.
        """
        if self._target.asks_for_keys:
            return
        operators = find_operators(self._target.keys_file)
        with suppress(OSError):
            operators.read_secret()
            self._start.progress.ticket = self._start.progress.ticket or operators.issue_ticket()

    def _give_up(self) -> int:
        print_causes(self._console, self._start.progress)
        end_in_order(self._application, self._signals)
        if not self._as_json:
            print_error(f"nothing can be served, and everything is stopped; the log: {self._log}")
        return _FAILED

    def _end(self) -> None:
        self._say("Stopping; Ctrl-C again ends everything at once.")
        in_order = end_in_order(self._application, self._signals)
        self._say("Stopped." if in_order else "Ended at once.")

    def _say(self, what: str) -> None:
        print_plain(self._console, what)


def _shorten(path: Path) -> str:
    """Return a path with ~ for the user's folder."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
