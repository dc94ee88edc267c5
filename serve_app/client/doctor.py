"""`phi-serve doctor`: what is wrong with this machine, for a configuration."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve_app.client.configuration import Mistake, print_error, read_text
from serve_app.diagnosis.checks import Check, Level, has_failed
from serve_app.diagnosis.run import diagnose

_FAILED = 2
"""Exit code where a check failed."""
_DEFAULT = Path("serve_config.yaml")
_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
_console = Console(highlight=False, soft_wrap=True)


def examine(
    config: Annotated[Path | None, typer.Argument(help="The configuration; left out: serve_config.yaml, if it is there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check this machine: packages, processor, memory, limits, ports, folders; exits with 2 where something fails."""
    try:
        text = read_text(config or _DEFAULT) if config is not None or _DEFAULT.exists() else None
    except Mistake as error:
        print_error(str(error))
        raise typer.Exit(_FAILED) from error
    checks: list[Check] = []
    for each in diagnose(text):
        checks.append(each)
        if not as_json:
            _print(each)
    counts = Counter(each.level for each in checks)
    if as_json:
        summary = {level.value: counts[level] for level in Level}
        typer.echo(json.dumps({"summary": summary, "checks": [asdict(each) for each in checks]}, indent=2, allow_nan=False))
    else:
        if text is None:
            _console.print("no configuration was read: what depends on one was left out")
        _console.print(", ".join(f"{counts[level]} {level}" for level in Level))
    if has_failed(checks):
        raise typer.Exit(_FAILED)


def _print(check: Check) -> None:
    _console.print(f"{check.level:<4}", style=_STYLES[check.level], end=" ")
    _console.print(f"{check.subject}: {check.finding}", markup=False)
    if check.fix:
        _console.print(f"     -> {check.fix}", style=_STYLES[check.level], markup=False)
