"""`phi-serve plan`: whether a configuration fits this machine, or other nodes, and what to change where it does not."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from serve_app.client.validate import UNUSABLE, Cpus, Gpus, MemoryGib, Nodes, print_findings, read_config
from serve_app.sizing.advice import Advice, Edit, advise
from serve_app.sizing.plan import GroupPlan, Plan, Total, build_plan
from serve_app.validation.check import describe_cluster

_console = Console(highlight=False, soft_wrap=True)


def plan_file(
    config: Annotated[Path, typer.Argument(help="The configuration.")] = Path("serve_config.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON; sizes are bytes.")] = False,
    nodes: Nodes = 1,
    cpus: Cpus = None,
    memory_gib: MemoryGib = None,
    gpus: Gpus = None,
) -> None:
    """Show what each replica takes with its KV cache full, and whether all fit; exits with 2 where they do not."""
    plan = build_plan(read_config(config), describe_cluster(nodes, cpus, memory_gib, gpus))
    advice = advise(plan)
    if as_json:
        typer.echo(json.dumps(_to_json(config, plan, advice), indent=2, allow_nan=False))
    elif plan.findings:
        print_findings(config, list(plan.findings))
    else:
        _print(plan, advice)
    if not plan.fits:
        raise typer.Exit(UNUSABLE)


def _to_json(config: Path, plan: Plan, advice: Advice) -> dict[str, Any]:
    machine = {name: None if math.isinf(value) else value for name, value in asdict(plan.machine).items()}
    groups = [
        {
            "name": each.name,
            "kind": each.kind,
            "model": each.model,
            "replicas": {"least": each.wants.least, "most": each.wants.most},
            "weights_bytes": round(each.size.weights_bytes),
            "kv_bytes": round(each.size.kv_bytes),
            "other_bytes": round(each.size.other_bytes),
            "total_bytes": round(each.size.total_bytes),
            "gpu_bytes": round(each.size.gpu_bytes),
            "num_cpus": each.wants.cpus,
            "threads": each.threads,
            "num_gpus": each.wants.gpus,
            "start_s_estimate": round(each.size.start_s, 1),
            "first_start_s_estimate": round(each.size.start_s + each.size.export_s, 1),
        }
        for each in plan.groups
    ]
    return {
        "file": str(config),
        "fits": plan.fits,
        "machine": machine,
        "groups": groups,
        "ray_bytes": {name: round(size) for name, size in plan.ray.items()},
        "least": asdict(plan.least),
        "most": asdict(plan.most),
        "notes": list(plan.notes),
        "edits": asdict(advice),
        "findings": [asdict(each) for each in plan.findings],
    }


def _print(plan: Plan, advice: Advice) -> None:
    _console.print("One replica, its KV cache full; GiB:")
    for line in _align([_HEADINGS, *map(_build_row, plan.groups)]):
        _console.print(line, markup=False)
    shown = ", ".join(f"{name} {_gib(size)}" for name, size in plan.ray.items())
    _console.print(f"Ray itself: {_gib(sum(plan.ray.values()))} GiB ({shown})", markup=False)
    totals = {"at the start": plan.least, "at the most replicas": plan.most}
    if plan.least == plan.most:
        totals = {"together": plan.most}
    for name, total in totals.items():
        _console.print(f"{name}: {_describe(total)}", markup=False)
    machine = plan.machine
    where = f"{machine.nodes} nodes together have" if machine.nodes > 1 else "here are"
    has = ", ".join(
        (_amount(machine.memory_bytes / 2**30, "GiB free"), _amount(machine.cpus, "cores"), _amount(machine.gpus, "GPUs"))
    )
    _console.print(f"{where} {has}", markup=False)
    for note in plan.notes:
        _console.print(f"note: {note}", markup=False)
    if plan.fits:
        _console.print("it fits", style="green")
        return
    name, total = next((name, total) for name, total in totals.items() if not total.fits)
    missing = ", ".join(f"{count} of '{group}'" for group, count in total.unplaced.items()) or "Ray"
    where = "" if name == "together" else f" {name}"
    _console.print(f"it does not fit{where}: no room for {missing}; {total.why}", style="red", markup=False)
    _print_advice(advice)


def _print_advice(advice: Advice) -> None:
    if advice.alone:
        _console.print("change one of these:", style="green")
        _print_edits(advice.alone)
    if advice.together and advice.together[-1].suffices:
        _console.print("or all of these:" if advice.alone else "change all of these:", style="green")
        _print_edits(advice.together)
    elif not advice.alone:
        _console.print("no smaller setting of these groups fits: use larger or more nodes, or a smaller model", style="green")


def _print_edits(edits: tuple[Edit, ...]) -> None:
    for each in edits:
        replica = f"a replica takes {_gib(each.replica_bytes)} GiB, " if each.replica_bytes else ""
        size = f"{replica}everything {_gib(each.total_bytes)} GiB"
        _console.print(f"  {'; '.join(each.changes)}  ({size})", style="green", markup=False)


_HEADINGS = ("group", "kind", "weights", "KV", "other", "total", "GPU", "cores", "threads", "GPUs", "replicas", "start (estimate)")
_TEXTS = frozenset({0, 1, len(_HEADINGS) - 1})
"""Columns that begin at their left edge."""


def _build_row(group: GroupPlan) -> tuple[str, ...]:
    size, wants = group.size, group.wants
    start = f"{size.start_s:.0f} s" if size.start_s else ""
    if size.export_s >= 1:
        start += f", the first {size.start_s + size.export_s:.0f} s"
    return (
        group.name,
        group.kind,
        _gib(size.weights_bytes) if size.weights_bytes else "",
        _gib(size.kv_bytes) if size.kv_bytes else "",
        _gib(size.other_bytes),
        _gib(size.total_bytes),
        _gib(size.gpu_bytes) if size.gpu_bytes else "",
        f"{wants.cpus:g}",
        str(group.threads or ""),
        f"{wants.gpus:g}" if wants.gpus else "",
        str(wants.least) if wants.least == wants.most else f"{wants.least} to {wants.most}",
        start,
    )


def _align(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the rows as lines of equal columns, without the columns in which only the heading stands."""
    kept = [at for at in range(len(rows[0])) if any(row[at] for row in rows[1:])]
    widths = {at: max(len(row[at]) for row in rows) for at in kept}
    lines = []
    for row in rows:
        cells = (row[at].ljust(widths[at]) if at in _TEXTS else row[at].rjust(widths[at]) for at in kept)
        lines.append("  ".join(cells).rstrip())
    return lines


def _describe(total: Total) -> str:
    return (
        f"{total.replicas} replicas, {_gib(total.memory_bytes)} GiB with Ray, {total.cpus:g} cores asked for, {total.gpus:g} GPUs"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


def _amount(value: float, unit: str) -> str:
    return f"unknown {unit}" if math.isinf(value) else f"{value:.4g} {unit}"
