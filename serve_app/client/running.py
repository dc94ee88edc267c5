"""`phi-serve logs` and `down`: the log and the end of what `phi-serve up` started on this machine."""

import json
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from serve_app.client.commands import report_errors
from serve_app.client.run_file import RunFile, list_running
from serve_app.client.run_log import Follower, find_group, find_log, read_last, select
from serve_app.client.server import ClientError
from serve_app.client.supervisor import catching_signals, end_session

_TICK_S = 0.2
Port = Annotated[int | None, typer.Option("--port", help="The application on this port, where several were started.")]
_Config = Annotated[Path | None, typer.Option("--config", help="The application of this configuration.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show_logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C.")] = False,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Only lines of this group's replicas, or `ingress`.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="The last lines to show.")] = 100,
    port: Port = None,
    as_json: _AsJson = False,
) -> None:
    """Show the log of what `phi-serve up` started; also of the last start, after its end."""
    with report_errors():
        log = _choose_log(port)
        follower = Follower(log, at_end=True)
        try:
            _print_lines(read_last(log, lines, group), as_json=as_json)
        except OSError as error:
            raise ClientError(f"{log} cannot be read: {error.strerror}") from error
        if follow:
            with catching_signals() as signals:
                while not signals.wait(_TICK_S):
                    _print_lines(select(follower.read(), group), as_json=as_json)
        follower.close()


def down(
    port: Port = None,
    config: _Config = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Seconds after which everything is ended at once.")] = 60,
    as_json: _AsJson = False,
) -> None:
    """End what `phi-serve up` started, and wait until it has ended."""
    with report_errors():
        run = choose_run(port, config)
        in_order = _end(run, timeout_s)
    if as_json:
        typer.echo(json.dumps({"port": run.port, "pid": run.supervisor.pid, "in_order": in_order}, allow_nan=False))
    else:
        typer.echo(f"stopped what ran at {run.url}" + ("" if in_order else "; it did not end by itself and was killed"))


def choose_run(port: int | None, config: Path | None = None) -> RunFile:
    """Return the one running application that fits; raises `ClientError` where there is none, or several."""
    found = [
        run
        for run in list_running()
        if port in (None, run.port) and (config is None or Path(run.config) == config.expanduser().resolve())
    ]
    if not found:
        raise ClientError("nothing runs here that `phi-serve up` started" + (" so" if port or config else ""))
    if len(found) > 1:
        raise ClientError(f"several applications run here; choose one: {', '.join(f'--port {run.port}' for run in found)}")
    return found[0]


def _end(run: RunFile, limit_s: float) -> bool:
    """End an application; return whether it ended by itself in time."""
    deadline = time.monotonic() + limit_s
    if run.supervisor.lives:
        _send(run.supervisor.pid, signal.SIGTERM)
    else:  # killed: only `serve run` is left
        _send(run.child.pid, signal.SIGINT)
    while run.lives and time.monotonic() < deadline:
        time.sleep(_TICK_S)  # not our children: there is nothing to wait on
    in_order = not run.lives
    end_session(run.child, limit_s=max(1.0, deadline - time.monotonic()) if in_order else 0)
    while run.supervisor.lives:  # sees the end of `serve run`, closes the log and ends
        time.sleep(_TICK_S)  # it is not our child either
    run.remove()
    return in_order


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        try:
            os.kill(pid, number)
        except PermissionError as error:
            raise ClientError(f"process {pid} belongs to another user") from error


def _choose_log(port: int | None) -> Path:
    """Return the log of a port, of what runs, or else of the last start."""
    if port is not None:
        return find_log(port)
    running = list_running()
    if running:
        return Path(choose_run(None).log)
    logs = sorted(find_log(0).parent.glob("*.log"), key=lambda log: log.stat().st_mtime)
    if not logs:
        raise ClientError("there is no log: nothing was started by `phi-serve up`")
    return logs[-1]


def _print_lines(lines: Iterable[str], *, as_json: bool) -> None:
    for line in lines:
        if not as_json:
            typer.echo(line)
            continue
        group, pid = find_group(line) or (None, None)
        typer.echo(json.dumps({"group": group, "pid": pid, "line": line}, allow_nan=False))
