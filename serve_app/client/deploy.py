"""`phi-serve deploy` and `revisions`: gives a running Serve another configuration, waits for the outcome, and can undo it."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from serve_app.client.commands import print_table, report_errors
from serve_app.client.config_diff import ABSENT, Change, compare
from serve_app.client.picture import print_plain
from serve_app.client.progress import summarize
from serve_app.client.ray_dashboard import DEFAULT_ADDRESS, RayDashboard
from serve_app.client.revisions import Revision, find_previous, keep, list_revisions
from serve_app.client.run_file import list_running
from serve_app.client.server import ClientError, JsonObject
from serve_app.client.validate import require_valid

_FAILED, _DECLINED, _TIMED_OUT = 1, 4, 3
_EVERY_S = 1.0
_SERVE_WIDE = ("proxy_location", "http_options", "grpc_options", "logging_config")
"""What Serve applies to itself, at its own start only."""
_UNSETTLED_S = 3.0
"""What Serve says so soon after a deployment may be of the configuration before it."""

_Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray's dashboard; left out: that of what `phi-serve up` started, else 127.0.0.1:8265."),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a deployment."""

    result: str
    """`running`, `failed`, or `unknown` where the time was over first."""
    message: str


def deploy(
    config: Annotated[Path, typer.Argument(help="The new configuration.")] = Path("serve_config.yaml"),
    undo: Annotated[bool, typer.Option("--undo", help="Deploy the revision before the running one instead of a file.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Most seconds to wait for the outcome.")] = 900,
    address: _Address = None,
    as_json: _AsJson = False,
) -> None:
    """Change the running application; exits with 1 where it fails, 2 for mistakes in the file, 3 after --timeout, 4 if declined."""
    console = Console(highlight=False, quiet=as_json)
    with report_errors():
        dashboard = RayDashboard(address or find_address())
        running = read_deployed(dashboard.read())
        revision = _find_revision(dashboard.address, running) if undo else None
        wanted = revision.config if revision else yaml.safe_load(require_valid(config, probes_ports=False))
        source = f"undo to revision {revision.number}" if revision else str(config)
        changes = compare_deployed(running, wanted)
        if dry_run or not any(map(is_deployable, changes)):
            _print_changes(console, changes)
            _print_json({"changes": [asdict(change) for change in changes], "outcome": None}, as_json=as_json)
            return
        _print_changes(console, changes)
        _require_consent(yes=yes)
        if not list_revisions(dashboard.address):
            keep(address=dashboard.address, source="what ran before", outcome="before", config=running)
        dashboard.deploy(wanted)
        outcome = await_outcome(dashboard.read, timeout_s, lambda words: print_plain(console, words))
        repeats = revision.repeats or revision.number if revision else None
        kept = keep(address=dashboard.address, source=source, outcome=outcome.result, config=wanted, repeats=repeats)
    _print_json(
        {"changes": [asdict(change) for change in changes], "outcome": asdict(outcome), "revision": kept.number}, as_json=as_json
    )
    _finish(console, outcome, kept)


def show_revisions(address: _Address = None, as_json: _AsJson = False) -> None:
    """List the configurations that were deployed from here."""
    found = list_revisions(address)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], allow_nan=False))
        return
    rows = []
    for each in found:
        at = f"{datetime.fromtimestamp(each.at).astimezone():%Y-%m-%d %H:%M:%S}"
        rows.append((str(each.number), at, each.outcome, each.address, each.source))
    print_table(("REVISION", "AT", "OUTCOME", "ADDRESS", "SOURCE"), rows)


def find_address() -> str:
    """Return the dashboard of the one application that `phi-serve up` started here, else the default address."""
    running = list_running()
    return (running[0].dashboard if len(running) == 1 else "") or DEFAULT_ADDRESS


def read_deployed(details: JsonObject) -> dict[str, Any]:
    """Return the configuration that Serve has: what was deployed, and the options of Serve itself with all defaults."""
    applications = [each.get("deployed_app_config") for each in (details.get("applications") or {}).values()]
    config: dict[str, Any] = {name: details[name] for name in _SERVE_WIDE if details.get(name) is not None}
    return config | {"applications": [each for each in applications if each]}


def compare_deployed(running: dict[str, Any], wanted: dict[str, Any]) -> list[Change]:
    """Return what a deployment changes. Options of Serve itself count only where the new configuration sets them."""
    old, new = dict(running), dict(wanted)
    for name in _SERVE_WIDE:
        given, has = new.get(name), old.get(name)
        if given is None or name == "logging_config":  # Serve gives its own logging options to each application
            old.pop(name, None)
            new.pop(name, None)
        elif isinstance(given, dict) and isinstance(has, dict):
            old[name] = {key: value for key, value in has.items() if key in given}
    if logging := wanted.get("logging_config"):
        new["applications"] = [{"logging_config": logging} | each for each in wanted["applications"]]
    return compare(old, new)


def is_deployable(change: Change) -> bool:
    """Return whether a deployment can change it; Serve takes options of its own at its start only."""
    return change.path.partition(".")[0] not in _SERVE_WIDE


def await_outcome(read: Callable[[], JsonObject], limit_s: float, tell: Callable[[str], None]) -> Outcome:
    """Return the outcome of a deployment once Serve knows it; `tell` gets what it waits for when that changes."""
    began, told = time.monotonic(), ""
    while True:
        elapsed_s = time.monotonic() - began
        outcome, waits = judge(read()) if elapsed_s >= _UNSETTLED_S else (None, "")
        if outcome is not None:
            return outcome
        if waits and waits != told:
            tell(f"  {waits}")
            told = waits
        if elapsed_s >= limit_s:
            return Outcome("unknown", told or "Serve has not said yet how it is")
        time.sleep(_EVERY_S)  # Serve says nothing by itself when its state changes


def judge(details: JsonObject) -> tuple[Outcome | None, str]:
    """Return the outcome, or None and what is still on its way."""
    waits = []
    for name, application in (details.get("applications") or {}).items():
        deployments = application.get("deployments") or {}
        failed = [
            f"{each}: {summarize(state.get('message') or '')}"
            for each, state in deployments.items()
            if state.get("status") in ("DEPLOY_FAILED", "UNHEALTHY")
        ]
        if application.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
            return Outcome("failed", "; ".join(failed) or summarize(application.get("message") or "")), ""
        unsettled = [f"{each} {state['status']}" for each, state in deployments.items() if state.get("status") != "HEALTHY"]
        if application.get("status") != "RUNNING" or unsettled:
            waits.append(f"{name} {application.get('status')}" + (f": {', '.join(unsettled)}" if unsettled else ""))
    return (None, "; ".join(waits)) if waits else (Outcome("running", ""), "")


def _find_revision(address: str, running: dict[str, Any]) -> Revision:
    kept = [each for each in list_revisions(address) if each.config.get("applications")]
    found = find_previous(kept, lambda each: not any(map(is_deployable, compare_deployed(running, each.config))))
    if found is None:
        raise ClientError("there is no earlier revision: `phi-serve revisions` lists what was deployed from here")
    return found


def _require_consent(*, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ClientError("nothing was changed: without a terminal to ask at, --yes is needed")
    if not typer.confirm("Deploy this?"):
        typer.echo("nothing was changed")
        raise typer.Exit(_DECLINED)


def _print_changes(console: Console, changes: list[Change]) -> None:
    for change in changes:
        note = "" if is_deployable(change) else "  (only by a restart: phi-serve down, then up)"
        print_plain(console, f"{change.path}: {_show(change.before)} -> {_show(change.after)}{note}")
    if not any(map(is_deployable, changes)):
        print_plain(console, "nothing would change")


def _show(value: Any) -> str:
    return ABSENT if value is ABSENT else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _print_json(content: JsonObject, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(content, allow_nan=False))


def _finish(console: Console, outcome: Outcome, kept: Revision) -> None:
    if outcome.result == "running":
        print_plain(console, f"deployed: revision {kept.number} runs", style="green")
        return
    if outcome.result == "unknown":
        typer.echo(f"the time is over, and Serve still works on revision {kept.number}: {outcome.message}", err=True)
        raise typer.Exit(_TIMED_OUT)
    typer.echo(f"revision {kept.number} failed: {outcome.message}\n`phi-serve deploy --undo` returns to the one before", err=True)
    raise typer.Exit(_FAILED)
