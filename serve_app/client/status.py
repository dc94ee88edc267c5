"""`phi-serve status`: the groups of a running application and their replicas."""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from serve_app.client.commands import Url, report_errors
from serve_app.client.picture import format_s
from serve_app.client.run_file import list_running
from serve_app.client.running import Port
from serve_app.client.server import DEFAULT_URL, ClientError, JsonObject, Server
from serve_app.client.supervisor import catching_signals

_LIMIT_S = 5.0
_EVERY_S = 2.0
_STYLES = {"ready": "green", "failed": "red", "draining": "yellow", "asleep": "dim"}


def show_status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew every two seconds, until Ctrl-C.")] = False,
    port: Port = None,
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show each group and its replicas; exits with 1 where nothing answers."""
    with report_errors():
        server = Server(find_url(url, port))
        first = read_state(server)
        if not watch:
            _print(first, as_json=as_json)
            return
        console = Console(highlight=False)
        with catching_signals() as signals:
            if as_json or not console.is_terminal:
                _print(first, as_json=as_json)
                while not signals.wait(_EVERY_S):
                    _print(read_state(server), as_json=as_json)
                return
            with Live(render(first), console=console, auto_refresh=False) as live:
                while not signals.wait(_EVERY_S):
                    try:
                        live.update(render(read_state(server)), refresh=True)
                    except ClientError as error:
                        live.update(Text(str(error)), refresh=True)


def find_url(url: str, port: int | None) -> str:
    """Return the given address; the default one only where `phi-serve up` did not start the only application elsewhere."""
    running = list_running()
    if port is not None:
        return next((run.url for run in running if run.port == port), f"127.0.0.1:{port}")
    return running[0].url if url == DEFAULT_URL and len(running) == 1 else url


def read_state(server: Server) -> JsonObject:
    """Return the operations API's state where the caller may read it, else /health; raises `ClientError`."""
    found = server.probe("/v1/operations/state", limit_s=_LIMIT_S)
    if found is not None and found[0] == HTTPStatus.OK and isinstance(found[1].get("groups"), list):
        return found[1]
    found = server.probe("/health", limit_s=_LIMIT_S)
    if found is None or not isinstance(groups := found[1].get("groups"), dict):
        raise ClientError(f"nothing answers at {server.url}; start it with `make serve`, or name another with --url")
    listed = [{"name": name} | {"ready_replicas": state.get("replicas")} | state for name, state in groups.items()]
    for group in listed:
        group["replicas"] = []
    return {"object": "health", "status": found[1].get("status"), "groups": listed}


def _print(state: JsonObject, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(state, allow_nan=False))
    else:
        Console(highlight=False, soft_wrap=True).print(render(state))


def render(state: JsonObject) -> RenderableType:
    """Return a table of the groups, and one of the replicas where they are known."""
    table = _table("GROUP", "PHASE", "READY", "RUNNING", "WAITING", "TOKENS/S", "MODEL", "NOTE")
    replicas = _table("REPLICA", "GROUP", "PHASE", "FOR", "RUNNING", "WAITING", "MEMORY", "NODE", "NOTE")
    has_replicas = False
    for group in state["groups"]:
        cells = (group.get(name) for name in ("running", "waiting"))
        pace = group.get("tokens_per_second")
        row = [_count(group.get("ready_replicas")), *map(_count, cells), "-" if pace is None else f"{pace:.1f}"]
        table.add_row(group["name"], _phase(group), *row, group.get("model") or "-", _note(group))
        for replica in group.get("replicas") or ():
            has_replicas = True
            replicas.add_row(*_list_cells(replica, group["name"], state.get("now")))
    title = Text(f"status: {state.get('status')}")
    return Group(title, table, Text(), replicas) if has_replicas else Group(title, table)


def _list_cells(replica: JsonObject, group: str, now: float | None) -> Iterator[RenderableType]:
    since = replica.get("since_s")
    memory = replica.get("pss_bytes")
    yield replica.get("id") or "-"
    yield group
    yield _phase(replica)
    yield format_s(max(0.0, now - since)) if now and since else "-"
    yield _count(replica.get("running"))
    yield _count(replica.get("waiting"))
    yield f"{memory / 2**20:,.0f} MiB" if memory else "-"
    yield str(replica.get("node") or "-")
    yield _note(replica)


def _table(*titles: str) -> Table:
    return Table(*titles, box=None, pad_edge=False, header_style="bold")


def _phase(entry: JsonObject) -> Text:
    phase = str(entry.get("phase") or "-")
    return Text(phase, style=_STYLES.get(phase, ""))


def _note(entry: JsonObject) -> Text:
    words = [str(entry["reason"])] if entry.get("reason") else []
    if entry.get("fix"):
        words.append(f"-> {entry['fix']}")
    if entry.get("breaker") not in (None, "closed"):
        words.append(f"circuit breaker {entry['breaker']}")
    if entry.get("quarantined"):
        words.append("quarantined")
    return Text(" ".join(words))


def _count(value: Any) -> str:
    return "-" if value is None else str(value)
