"""A service of the compose file as options of `podman run`: what runs here is what `docker compose` would run.

Left out: `ports`, which CNI would publish on the internal network too, where the host has no address and packets would leave it;
`logging`, `depends_on`, and `deploy`, since tests say how many there are. What they kill, podman does not start again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.containers.podman import limits

Service = dict[str, Any]

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a service runs: what compose takes from its other sections, the environment and the command line."""

    networks: Mapping[str, str]
    """Network of the compose file to podman's name of it and the address there, such as `phi-ray:ip=10.89.77.10`."""
    hosts: Mapping[str, str]
    """Names on the cluster's network and their addresses; CNI has no name server."""
    secrets: Path
    """Folder with a file per secret."""
    folder: Path
    """Where the compose file lies: paths in it that begin with `./` are below."""
    configs: Mapping[str, Path]
    """Files by the name of the configuration."""
    environment: Mapping[str, str]
    """What an environment file of docker/env says."""


def options(service: Service, place: Place) -> list[str]:
    """Return the options, without image and command."""
    service = _filled(service, place.environment)
    flags = {"--read-only": service.get("read_only"), "--init": service.get("init")}
    single = {
        "--user": service.get("user"),
        "--memory": service.get("mem_limit"),
        "--cpus": service.get("cpus"),
        "--pids-limit": service.get("pids_limit"),
        "--restart": service.get("restart"),
        "--shm-size": service.get("shm_size"),
        "--stop-timeout": str(service.get("stop_grace_period", "10s")).removesuffix("s"),
    }
    many = {
        "--cap-drop": service.get("cap_drop", []),
        "--security-opt": [option.replace(":true", "") for option in service.get("security_opt", [])],
        "--env": [f"{name}={value}" for name, value in service.get("environment", {}).items()],
        "--tmpfs": service.get("tmpfs", []),
        "--network": [place.networks[name] for name in service["networks"]],
        "--add-host": [f"{name}:{address}" for name, address in place.hosts.items()],
        "--volume": [*_volumes(service, place), *_secrets(service, place), *_configs(service, place)],
    }
    found = [flag for flag, wanted in flags.items() if wanted]
    found += [part for name, value in single.items() if value is not None for part in (name, str(value))]
    found += [part for name, values in many.items() for value in values for part in (name, str(value))]
    return [*limits(), *found, *_health(service.get("healthcheck")), *_entrypoint(service)]


def command(service: Service) -> list[str]:
    """Return what follows the image on the command line."""
    first: list[str] = [part.replace("$$", "$") for part in service.get("entrypoint", [])[1:]]
    return [*first, *service.get("command", [])]


def _filled(part: Any, environment: Mapping[str, str]) -> Any:
    """Replace compose's variables, whose defaults stand in the file."""
    if isinstance(part, dict):
        return {key: _filled(value, environment) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, environment) for value in part]
    if isinstance(part, str):
        return _VARIABLE.sub(lambda match: environment.get(match[1], match[2] or ""), part)
    return part


def _volumes(service: Service, place: Place) -> list[str]:
    volumes = service.get("volumes", [])
    return [f"{place.folder}{volume[1:]}" if volume.startswith("./") else f"phi-{volume}" for volume in volumes]


def _secrets(service: Service, place: Place) -> list[str]:
    return [f"{place.secrets / name}:/run/secrets/{name}:ro" for name in service.get("secrets", [])]


def _configs(service: Service, place: Place) -> list[str]:
    return [f"{place.configs[each['source']]}:{each['target']}:ro" for each in service.get("configs", [])]


def _health(check: Service | None) -> list[str]:
    if check is None:
        return []
    if check.get("disable"):
        return ["--no-healthcheck"]
    kind, *words = check["test"]
    # One word: podman splits and does not quote; ours need no quotes.
    told = ["--health-cmd", " ".join(words)] if kind in ("CMD", "CMD-SHELL") else []
    for name in ("interval", "timeout", "retries", "start_period"):
        told += [f"--health-{name.replace('_', '-')}", str(check[name])] if name in check else []
    return told


def _entrypoint(service: Service) -> list[str]:
    return ["--entrypoint", service["entrypoint"][0]] if "entrypoint" in service else []
