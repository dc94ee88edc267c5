"""Checks a whole configuration; all mistakes at once."""

import math
import os
from pathlib import Path

from serve_app.config import AppSettings
from serve_app.memory import read_available_bytes
from serve_app.validation.agreement import Machine, check_agreement, check_size
from serve_app.validation.app_half import parse_args
from serve_app.validation.findings import Finding, Place
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
    applications = document.value.get("applications") if isinstance(document.value, dict) else None
    parsed: list[tuple[Place, AppSettings]] = []
    for at, application in enumerate(applications if isinstance(applications, list) else ()):
        place: Place = ("applications", at)
        if not isinstance(application, dict):
            continue
        args = application.get("args")
        if not isinstance(args, dict):
            findings.append(document.report((*place, "args"), "args is missing", "write models and engines under args"))
            continue
        settings, faults = parse_args(document, (*place, "args"), args)
        findings += faults
        if settings is not None:
            parsed.append(((*place, "args"), settings))
            findings += check_surroundings(document, (*place, "args"), settings, has_files=starts_here)
            if starts_here:
                findings += check_installed(document, (*place, "args"), settings)
        findings += check_agreement(document, place, application)
        findings += check_size(document, place, application, machine)
    if probes_ports:
        findings += check_ports(document, parsed)
    return sorted(dict.fromkeys(findings))


def describe_machine() -> Machine:
    """Return this machine: the cores, memory and GPUs that Ray would find; without bounds where Ray runs elsewhere already."""
    if os.environ.get("RAY_ADDRESS"):
        return UNBOUNDED
    gpus = float(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))
    if any(Path(device).exists() for device in _OTHER_GPUS):
        gpus = math.inf
    return Machine(cpus=float(os.cpu_count() or 1), memory_bytes=float(read_available_bytes()), gpus=gpus)
