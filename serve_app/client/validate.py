"""`phi-serve validate`: every mistake of a configuration before anything starts."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve_app.client.configuration import Mistake, print_error, read_text
from serve_app.validation.check import UNBOUNDED, describe_cluster, describe_machine, validate
from serve_app.validation.findings import Finding

UNUSABLE = 2
"""Exit code where there are mistakes."""
_console = Console(highlight=False, soft_wrap=True)

Nodes = Annotated[int, typer.Option(min=1, help="Nodes of the cluster, all like this machine or like the options below.")]
Cpus = Annotated[float | None, typer.Option(min=0, help="Cores of a node; left out: this machine's.")]
MemoryGib = Annotated[float | None, typer.Option(min=0, help="Memory of a node in GiB; left out: what is free here.")]
Gpus = Annotated[float | None, typer.Option(min=0, help="GPUs of a node; left out: this machine's.")]


def validate_file(
    config: Annotated[Path, typer.Argument(help="The configuration.")] = Path("serve_config.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the mistakes as JSON.")] = False,
    nodes: Nodes = 1,
    cpus: Cpus = None,
    memory_gib: MemoryGib = None,
    gpus: Gpus = None,
    ports: Annotated[bool, typer.Option(help="Whether the ports must be free.")] = True,
    installed: Annotated[bool, typer.Option(help="Whether the engines must be installed here.")] = True,
    elsewhere: Annotated[
        bool,
        typer.Option(
            "--elsewhere", help="Replicas run on other machines: ports, sizes, engines and files of this one do not count."
        ),
    ] = False,
) -> None:
    """Check both halves of a configuration, without Ray and without a network; exits with 2 where there are mistakes."""
    elsewhere = elsewhere or bool(os.environ.get("RAY_ADDRESS"))
    machine = describe_cluster(nodes, cpus, memory_gib, gpus, UNBOUNDED if elsewhere else None)
    found = validate(read_config(config), machine, probes_ports=ports and not elsewhere, starts_here=installed and not elsewhere)
    if as_json:
        typer.echo(json.dumps({"file": str(config), "findings": [asdict(each) for each in found]}, indent=2, allow_nan=False))
    else:
        print_findings(config, found)
    if found:
        raise typer.Exit(UNUSABLE)


def read_config(config: Path) -> str:
    """Return the text of a configuration; exits with 2 where it cannot be read."""
    try:
        return read_text(config)
    except Mistake as error:
        print_error(str(error))
        raise typer.Exit(UNUSABLE) from error


def require_valid(config: Path, *, probes_ports: bool = True) -> str:
    """Return the text of a configuration that this machine can start; prints the mistakes and exits with 2 where there are any."""
    text = read_config(config)
    if found := validate(text, describe_machine(), probes_ports=probes_ports):
        print_findings(config, found)
        raise typer.Exit(UNUSABLE)
    return text


def print_findings(config: Path, found: list[Finding]) -> None:
    """Print mistakes with their lines and what to write instead."""
    for each in found:
        place = f" {each.place}" if each.place else ""
        _console.print(f"{config}:{each.line}:{place}", style="bold", markup=False)
        _console.print(f"  {each.problem}", markup=False)
        if each.fix:
            _console.print(f"  -> {each.fix}", style="green", markup=False)
    count = len(found)
    _console.print(f"{config}: {count} mistake{'' if count == 1 else 's'}" if found else f"{config}: nothing to correct")
