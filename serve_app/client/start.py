"""Follows an application from the command until it serves or cannot, and afterwards tells of its changes."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from serve_app.client import start_times
from serve_app.client.picture import Picture, print_plain
from serve_app.client.progress import INGRESS, RAY, Progress, Verdict, list_changes, summarize
from serve_app.client.ray_dashboard import RayDashboard
from serve_app.client.run_log import Follower
from serve_app.client.server import ClientError, Server
from serve_app.client.supervisor import Signals
from serve_app.client.target import Target

_TICK_S = 0.25
_HEALTH_LIMIT_S = 3.0
_SERVE_EVERY_S = 2.0
"""Between questions to Serve, which costs more to answer than /health."""
_WATCH_EVERY_S = 1.0
_REMEMBERED_CHARS = 4000
_SILENT_TIMES = 3
"""So many questions in a row without an answer are told."""


class Running(Protocol):
    """An application that is being started, or serves."""

    def poll(self) -> int | None:
        """Return the exit code once it has ended."""
        ...


class Start:
    """One start of an application, from its log, its /health and Serve."""

    def __init__(self, target: Target, log: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Follow the log from its beginning; the command was given now."""
        self._target = target
        self._clock, self._began = clock, clock()
        self._keys = {RAY: RAY, INGRESS: INGRESS} | dict(target.groups)
        known = start_times.read_expected_s()
        self.progress = Progress.begin(target.groups, {name: known[key] for name, key in self._keys.items() if key in known})
        self._follower = Follower(log)
        self._server = Server(target.url)
        self._asked_s = 0.0
        self._last = ""

    def elapsed_s(self) -> float:
        """Return the seconds since the command."""
        return self._clock() - self._began

    def run(self, running: Running, signals: Signals, picture: Picture) -> Verdict:
        """Follow until it serves, or cannot, or a signal comes (`UNDER_WAY`)."""
        with picture:
            while True:
                self._look()
                picture.update()
                code = running.poll()
                if code is not None:
                    self._read_lines()
                    self.progress.cause = self.progress.cause or f"serve run ended with status {code}: {summarize(self._last)}"
                if signals.count or self.progress.verdict is not Verdict.UNDER_WAY:
                    break
                signals.wait(_TICK_S)
        if self.progress.verdict is Verdict.SERVING:
            start_times.remember({self._keys[name]: took_s for name, took_s in self.progress.list_seconds().items()})
        return self.progress.verdict

    def close(self) -> None:
        """Close the log."""
        self._follower.close()

    def _look(self) -> None:
        self._read_lines()
        found = self._server.probe("/health", limit_s=_HEALTH_LIMIT_S)
        self.progress.push_health(found[1] if found else None, self.elapsed_s())
        if self.progress.dashboard and self.elapsed_s() >= self._asked_s + _SERVE_EVERY_S:
            with suppress(ClientError):
                applications = RayDashboard(self.progress.dashboard, limit_s=_HEALTH_LIMIT_S).read().get("applications") or {}
                self.progress.push_serve(next(iter(applications.values()), None))
            self._asked_s = self.elapsed_s()

    def _read_lines(self) -> None:
        for line in self._follower.read():
            self._last = f"{self._last}\n{line}"[-_REMEMBERED_CHARS:]
            self.progress.push_line(line, self.elapsed_s())


def watch(running: Running, url: str, signals: Signals, console: Console) -> int | None:
    """Print a line for every change of a group until a signal comes (None) or `serve run` ends (its exit code)."""
    server = Server(url)
    before: Mapping[str, Any] = {}
    silent = 0
    while not signals.wait(_WATCH_EVERY_S) and not signals.count:
        if (code := running.poll()) is not None:
            return code
        found = server.probe("/health", limit_s=_HEALTH_LIMIT_S)
        groups = found[1].get("groups") if found else None
        if not isinstance(groups, dict):
            silent += 1
            if silent == _SILENT_TIMES:
                _tell(console, "the ingress does not answer")
            continue
        if silent >= _SILENT_TIMES:
            _tell(console, "the ingress answers again")
        silent = 0
        for change in list_changes(before, groups):
            _tell(console, change)
        before = groups
    return None


def _tell(console: Console, what: str) -> None:
    print_plain(console, f"{datetime.now().astimezone():%H:%M:%S}  {what}")
