"""Checks a whole configuration; all mistakes at once."""

import math
import os
from pathlib import Path

from serve_app.memory import read_available_bytes
from serve_app.validation.agreement import Machine, check_agreement, check_size
from serve_app.validation.applications import read_applications
from serve_app.validation.findings import Finding
from serve_app.validation.serve_half import check_serve_half
from serve_app.validation.surroundings import check_installed, check_ports, check_surroundings
from serve_app.validation.text import read_document

_OTHER_GPUS = ("/dev/dxg", "/dev/kfd")
"""Devices of GPUs whose number cannot be read so: under Windows, and AMD's."""


UNBOUNDED = Machine(cpus=math.inf, memory_bytes=math.inf, gpus=math.inf)
"""A cluster of which nothing is known."""


def validate(text: str, machine: Machine, *, probes_ports: bool = True, starts_here: bool = True) -> list[Finding]:
    """Return the mistakes of a configuration, by line; empty where it can be started.

    `starts_here`: replicas run in this environment, so their engines must be installed in it, and models' files be here.
    """
    document = read_document(text)
    if document.value is None:
        return document.findings or [document.report((), "the file is empty", "begin with serve_config.yaml of the package")]
    findings = [*document.findings, *check_serve_half(document)]
    applications = read_applications(document)
    for each in applications:
        findings += each.findings
        if each.settings is not None:
            findings += check_surroundings(document, (*each.place, "args"), each.settings, has_files=starts_here)
            if starts_here:
                findings += check_installed(document, (*each.place, "args"), each.settings)
        if isinstance(each.given.get("args"), dict):
            findings += check_agreement(document, each.place, each.given)
            findings += check_size(document, each.place, each.given, machine)
    if probes_ports:
        parsed = [((*each.place, "args"), each.settings) for each in applications if each.settings is not None]
        findings += check_ports(document, parsed)
    return sorted(dict.fromkeys(findings))


def describe_cluster(
    nodes: int, cpus: float | None, memory_gib: float | None, gpus: float | None, node: Machine | None = None
) -> Machine:
    """Return all nodes together, each like `node` (None: this machine) but for the numbers that are given."""
    here = node or describe_machine()
    return Machine(
        cpus=nodes * (here.cpus if cpus is None else cpus),
        memory_bytes=nodes * (here.memory_bytes if memory_gib is None else memory_gib * 2**30),
        gpus=nodes * (here.gpus if gpus is None else gpus),
        nodes=nodes,
    )


def describe_machine() -> Machine:
    """Return this machine: the cores, memory and GPUs that Ray would find; without bounds where Ray runs elsewhere already."""
    if os.environ.get("RAY_ADDRESS"):
        return UNBOUNDED
    gpus = float(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))
    if any(Path(device).exists() for device in _OTHER_GPUS):
        gpus = math.inf
    return Machine(cpus=float(os.cpu_count() or 1), memory_bytes=float(read_available_bytes()), gpus=gpus)
