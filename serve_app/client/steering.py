"""`phi-serve drain`, `resume`, `restart`, `scale`, `wake` and `cancel`: change a running application over its operations API."""

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from serve_app.client.commands import Url, report_errors
from serve_app.client.running import Port
from serve_app.client.server import DEFAULT_URL, ClientError, JsonObject, Server
from serve_app.client.status import find_url
from serve_app.client.supervisor import Signals, catching_signals

_EVERY_S = 1.0
_LIMIT_S = 5.0
_INTERRUPTED = 128
_TIMED_OUT = 3
"""Exit code where the time of `--timeout` is over; what was asked for continues."""

_Group = Annotated[str, typer.Argument(help="A group's name.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once, not when it is done.")]
_Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Most seconds to wait; exits with 3 when they are over.")]

State = JsonObject
Judge = Callable[[State], str]
"""Returns what is left to wait for; empty where nothing is."""


def drain(
    target: Annotated[str, typer.Argument(help="A group, or one replica's id as `phi-serve status` shows it.")],
    no_wait: _NoWait = False,
    timeout_s: _Timeout = 660,
    url: Url = DEFAULT_URL,
    port: Port = None,
    as_json: _AsJson = False,
) -> None:
    """Send nothing new to a group or a replica, and wait until its requests have ended."""
    with report_errors():
        server = Server(find_url(url, port))
        group, answer = _act_on_target(server, target, "drain")
        drained = frozenset(answer.get("replicas") or ())
        _report(answer, f"draining {target}: {_requests(answer.get('running'))} to end", as_json=as_json)
        if not no_wait:
            _wait(server, lambda state: judge_drain(state, group, drained), f"draining {target}", timeout_s, as_json=as_json)


def resume(
    target: Annotated[str, typer.Argument(help="A group, or one replica's id.")],
    url: Url = DEFAULT_URL,
    port: Port = None,
    as_json: _AsJson = False,
) -> None:
    """Send requests again to what was drained."""
    with report_errors():
        _, answer = _act_on_target(Server(find_url(url, port)), target, "resume")
        _report(answer, f"{target} gets requests again", as_json=as_json)


def restart(
    group: _Group,
    no_wait: _NoWait = False,
    timeout_s: _Timeout = 1800,
    url: Url = DEFAULT_URL,
    port: Port = None,
    as_json: _AsJson = False,
) -> None:
    """Replace a group's replicas one by one: each is drained, ended and replaced."""
    with report_errors():
        server = Server(find_url(url, port))
        answer = _act(server, group, "restart", {})
        old = frozenset(answer.get("restarting") or ())
        _report(answer, f"restarting {group}: {', '.join(sorted(old)) or 'no replica'}", as_json=as_json)
        if not no_wait:
            _wait(server, lambda state: judge_restart(state, group, old), f"restarting {group}", timeout_s, as_json=as_json)


def scale(
    group: _Group,
    minimum: Annotated[int, typer.Argument(metavar="MIN", min=0, help="Least replicas.")],
    maximum: Annotated[int | None, typer.Argument(metavar="[MAX]", min=1, help="Most replicas; left out: as it is.")] = None,
    url: Url = DEFAULT_URL,
    port: Port = None,
    as_json: _AsJson = False,
) -> None:
    """Change between how many replicas a group may have."""
    with report_errors():
        body = {"min": minimum} | ({} if maximum is None else {"max": maximum})
        answer = _act(Server(find_url(url, port)), group, "scale", body)
        shown = [
            f"{bounds.get('min')} to {bounds.get('max')}" for bounds in (answer.get(name) or {} for name in ("bounds", "before"))
        ]
        _report(answer, f"{group} may have {shown[0]} replicas ({shown[1]} before)", as_json=as_json)


def wake(group: _Group, url: Url = DEFAULT_URL, port: Port = None, as_json: _AsJson = False) -> None:
    """Start a sleeping group before a request needs it."""
    with report_errors():
        answer = _act(Server(find_url(url, port)), group, "wake", {})
        _report(answer, f"{group} is waking up; `phi-serve status --watch` shows when it is ready", as_json=as_json)


def cancel(
    request_id: Annotated[str, typer.Argument(help="The request's id: header x-request-id, or `live` of the operations page.")],
    url: Url = DEFAULT_URL,
    port: Port = None,
    as_json: _AsJson = False,
) -> None:
    """End a running request."""
    with report_errors():
        server = Server(find_url(url, port))
        answer = server.request(f"/v1/operations/requests/{quote(request_id, safe='')}/cancel", {}, method="POST")
        _report(answer, f"cancelled {request_id}", as_json=as_json)


def add_steering(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (drain, resume, restart, scale, wake, cancel):
        app.command(command.__name__)(command)


def find_target(state: State, target: str) -> tuple[str, str]:
    """Return the group, and the replica's id or nothing; a group's name wins. Raises `ClientError` for unknown ones."""
    groups = {group["name"]: group for group in state["groups"]}
    if target in groups:
        return target, ""
    replicas = {replica["id"]: name for name, group in groups.items() for replica in group.get("replicas") or ()}
    if target in replicas:
        return replicas[target], target
    raise ClientError(f"there is no group and no replica '{target}'; groups: {', '.join(groups)}; replicas: {', '.join(replicas)}")


def judge_drain(state: State, group: str, drained: frozenset[str]) -> str:
    """Return how many requests the drained replicas still have; empty where none."""
    left = [replica for replica in _list_replicas(state, group) if replica["id"] in drained]
    count = sum(int(replica.get("running") or 0) + int(replica.get("waiting") or 0) for replica in left)
    return f"{_requests(count)} left" if count else ""


def judge_restart(state: State, group: str, old: frozenset[str]) -> str:
    """Return what a restart still waits for: old replicas, and new ones that are not ready; empty where nothing."""
    replicas = _list_replicas(state, group)
    waits = []
    if left := [replica for replica in replicas if replica["id"] in old]:
        count = sum(int(replica.get("running") or 0) + int(replica.get("waiting") or 0) for replica in left)
        waits.append(f"{len(left)} of {len(old)} to be replaced, {_requests(count)} left on them")
    ready = sum(replica["id"] not in old and replica.get("phase") == "ready" for replica in replicas)
    if ready < len(old):
        waits.append(f"{ready} of {len(old)} new ones ready")
    return "; ".join(waits)


def _list_replicas(state: State, group: str) -> list[JsonObject]:
    return [replica for each in state["groups"] if each["name"] == group for replica in each.get("replicas") or ()]


def _show_bounds(bounds: JsonObject | None) -> str:
    return f"{bounds['min']} to {bounds['max']}" if bounds else "any number of"


def _requests(count: Any) -> str:
    return "1 request" if count == 1 else f"{count or 0} requests"


def _act_on_target(server: Server, target: str, action: str) -> tuple[str, JsonObject]:
    """Let a group, or one replica, do something; return the group and the answer."""
    group, replica = find_target(_read_state(server), target)
    return group, _act(server, group, action, {"replica": replica} if replica else {})


def _act(server: Server, group: str, action: str, body: JsonObject) -> JsonObject:
    return server.request(f"/v1/operations/groups/{quote(group, safe='')}/{action}", body, method="POST")


def _read_state(server: Server) -> State:
    state = server.request("/v1/operations/state")
    if not isinstance(state.get("groups"), list):
        raise ClientError(f"{server.url} has no operations API; it runs an older version")
    return state


def _report(answer: JsonObject, sentence: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(answer, allow_nan=False) if as_json else sentence)


def _wait(server: Server, judge: Judge, what: str, limit_s: float, *, as_json: bool) -> None:
    """Show what is left until nothing is; exits where a signal comes or the time is over. The work continues then."""
    console = Console(highlight=False, stderr=as_json)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with (
        catching_signals() as signals,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown,
    ):
        task = shown.add_task(what, total=None)

        def show(left: str) -> None:
            shown.update(task, description=f"{what}: {left}")
            if not console.is_terminal and not as_json:
                typer.echo(f"{what}: {left}")

        left = _poll(server, judge, signals, limit_s, show)
    if not left:
        if not as_json:
            typer.echo(f"{what}: done")
        return
    typer.echo(f"{what} continues: {left}", err=True)
    raise typer.Exit(_INTERRUPTED + signals.last if signals.count else _TIMED_OUT)


def _poll(server: Server, judge: Judge, signals: Signals, limit_s: float, show: Callable[[str], None]) -> str:
    """Return what was left when the wait ended; `show` gets each change of it."""
    waited_s, left, shown = 0.0, "its state is not known", ""
    while True:
        found = server.probe("/v1/operations/state", limit_s=_LIMIT_S)  # an ingress that is replaced does not answer for a moment
        if found is not None and found[0] == HTTPStatus.OK and isinstance(found[1].get("groups"), list):
            left = judge(found[1])
        if not left or waited_s >= limit_s:
            return left
        if left != shown:
            show(left)
            shown = left
        if signals.wait(_EVERY_S):
            return left
        waited_s += _EVERY_S
