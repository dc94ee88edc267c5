"""`phi-serve validate`: every mistake of a configuration before anything starts."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve_app.client.configuration import print_error
from serve_app.validation.agreement import Machine
from serve_app.validation.check import UNBOUNDED, describe_machine, validate
from serve_app.validation.findings import Finding

UNUSABLE = 2
"""Exit code where there are mistakes."""
_console = Console(highlight=False, soft_wrap=True)


def validate_file(
    config: Annotated[Path, typer.Argument(help="The configuration.")] = Path("serve_config.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the mistakes as JSON.")] = False,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the cluster, all like this machine or like the options below.")] = 1,
    cpus: Annotated[float | None, typer.Option(min=0, help="Cores of a node; left out: this machine's.")] = None,
    memory_gib: Annotated[float | None, typer.Option(min=0, help="Memory of a node in GiB; left out: what is free here.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs of a node; left out: this machine's.")] = None,
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
    machine = _scale(UNBOUNDED if elsewhere else describe_machine(), nodes, cpus, memory_gib, gpus)
    found = validate(read_config(config), machine, probes_ports=ports and not elsewhere, starts_here=installed and not elsewhere)
    if as_json:
        typer.echo(json.dumps({"file": str(config), "findings": [asdict(each) for each in found]}, indent=2, allow_nan=False))
    else:
        _print(config, found)
    if found:
        raise typer.Exit(UNUSABLE)


def read_config(config: Path) -> str:
    """Return the text of a configuration; exits with 2 where it cannot be read."""
    try:
        return config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        print_error(f"cannot read {config}: {reason}")
        raise typer.Exit(UNUSABLE) from error


def require_valid(config: Path, *, probes_ports: bool = True) -> str:
    """Return the text of a configuration that this machine can start; prints the mistakes and exits with 2 where there are any."""
    text = read_config(config)
    if found := validate(text, describe_machine(), probes_ports=probes_ports):
        _print(config, found)
        raise typer.Exit(UNUSABLE)
    return text


def _scale(machine: Machine, nodes: int, cpus: float | None, memory_gib: float | None, gpus: float | None) -> Machine:
    """Return the whole cluster."""
    one = replace(
        machine,
        cpus=machine.cpus if cpus is None else cpus,
        memory_bytes=machine.memory_bytes if memory_gib is None else memory_gib * 2**30,
        gpus=machine.gpus if gpus is None else gpus,
    )
    return Machine(cpus=one.cpus * nodes, memory_bytes=one.memory_bytes * nodes, gpus=one.gpus * nodes, nodes=nodes)


def _print(config: Path, found: list[Finding]) -> None:
    for each in found:
        place = f" {each.place}" if each.place else ""
        _console.print(f"{config}:{each.line}:{place}", style="bold", markup=False)
        _console.print(f"  {each.problem}", markup=False)
        if each.fix:
            _console.print(f"  -> {each.fix}", style="green", markup=False)
    count = len(found)
    _console.print(f"{config}: {count} mistake{'' if count == 1 else 's'}" if found else f"{config}: nothing to correct")
