"""Reads both halves of a configuration's applications: the settings under `args`, and the deployments' options by name. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.config import AppSettings
from serve_app.validation.app_half import parse_args
from serve_app.validation.findings import Finding, Place
from serve_app.validation.text import Document

INGRESS = "ingress"
"""The name of the deployment that is no group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """One application of a configuration."""

    place: Place
    """Where it stands in the file."""
    given: Mapping[str, Any]
    """What is written there."""
    settings: AppSettings | None
    """`args`; None where they are wrong."""
    findings: tuple[Finding, ...]
    """The mistakes of `args`."""

    @property
    def deployments(self) -> dict[str, dict[str, Any]]:
        """The deployments' options by name; what is no deployment is left out."""
        return {each["name"]: each for each in list_deployments(self.given)}


def read_applications(document: Document) -> list[Application]:
    """Return the applications of a file, those that are no mappings left out."""
    listed = document.value.get("applications") if isinstance(document.value, dict) else None
    found: list[Application] = []
    for at, given in enumerate(listed if isinstance(listed, list) else ()):
        if not isinstance(given, dict):
            continue
        place: Place = ("applications", at)
        args = given.get("args")
        settings: AppSettings | None = None
        faults: list[Finding] = []
        if isinstance(args, dict):
            settings, faults = parse_args(document, (*place, "args"), args)
        else:
            faults = [document.report((*place, "args"), "args is missing", "write models and engines under args")]
        found.append(Application(place=place, given=given, settings=settings, findings=tuple(faults)))
    return found


def list_deployments(application: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the deployments of an application that have a name."""
    given = application.get("deployments")
    listed = given if isinstance(given, list) else []
    return [each for each in listed if isinstance(each, dict) and isinstance(each.get("name"), str)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """What one replica of a deployment asks Ray for, and how many there are."""

    cpus: float
    gpus: float
    memory_bytes: float
    """0: nothing is reserved; Ray does not measure what a replica takes."""
    least: int
    """Replicas at the start and at the least."""
    most: int
    """Replicas that autoscaling may add up to."""


_REPLICA_CPUS = 1.0
"""Ray's own default."""
_AUTO_MOST = 100
"""The most replicas with `num_replicas: auto`, by Serve's documentation."""


def read_wants(deployment: Mapping[str, Any]) -> Wants:
    """Return the resources and the number of replicas of a deployment; values of a wrong type count as left out."""
    options = deployment.get("ray_actor_options")
    options = options if isinstance(options, dict) else {}
    scaling, fixed = deployment.get("autoscaling_config"), deployment.get("num_replicas")
    if fixed == "auto" or scaling == "auto":
        scaling = {"max_replicas": _AUTO_MOST} | (scaling if isinstance(scaling, dict) else {})
    if isinstance(scaling, dict):
        least = int(_read(scaling.get("min_replicas"), 1.0))
        most = max(least, int(_read(scaling.get("max_replicas"), 1.0)))
    else:
        least = most = int(_read(fixed, 1.0))
    return Wants(
        cpus=_read(options.get("num_cpus"), _REPLICA_CPUS),
        gpus=_read(options.get("num_gpus"), 0.0),
        memory_bytes=_read(options.get("memory"), 0.0),
        least=least,
        most=most,
    )


def _read(value: Any, default: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else default
