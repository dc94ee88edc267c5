"""podman as functions: what is missing for it, one call, one container. Ends only containers that it is given."""

import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PREFIX = "phi-"
"""Begins the name of every container, network and volume of this suite."""
_PROGRAMS = {"podman": "podman", "runc": "runc", "catatonit": "catatonit", "debootstrap": "debootstrap"}
_PLUGINS = Path("/usr/lib/cni/bridge")


def missing() -> str | None:
    """Return why no containers can be had here, with the remedy; None where they can."""
    if os.geteuid():
        return "containers with networks of their own need root"
    absent = [package for program, package in _PROGRAMS.items() if shutil.which(program, path=_path()) is None]
    if not _PLUGINS.exists():
        absent.append("containernetworking-plugins")
    return f"not installed: apt-get install {' '.join(absent)}" if absent else None


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/libexec/podman:/usr/lib/podman"


def podman(*arguments: str, limit_s: float = 120, allow_failure: bool = False) -> str:
    """Return what podman prints, without the last line feed; raises `RuntimeError` with its complaint."""
    command = ["podman", "--runtime", "runc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode and not allow_failure:
        raise RuntimeError(f"podman {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout.rstrip("\n")


def limits() -> list[str]:
    """Return options that ask for no more files and processes than this machine grants; podman's own defaults may."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    found = [("nofile", files, 65536), ("nproc", processes, 30000)]
    bounded = [(name, most if hard == resource.RLIM_INFINITY else min(hard, most)) for name, hard, most in found]
    return [option for name, value in bounded for option in ("--ulimit", f"{name}={value}:{value}")]


@dataclass(frozen=True, slots=True)
class Container:
    """A container by its name, whether it runs or not."""

    name: str

    def run(self, *command: str) -> str:
        """Return what a command prints in the container."""
        return podman("exec", self.name, *command)

    def inspect(self, template: str) -> str:
        """Return a field of podman's description, as a Go template."""
        return podman("inspect", "--format", template, self.name)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        podman("kill", "--signal", "KILL", self.name)

    def start(self) -> None:
        """Start it again: same name and address, empty tmpfs."""
        podman("start", self.name)

    def logs(self, lines: int = 40) -> str:
        """Return the end of what it printed, on both channels."""
        command = ["podman", "logs", "--tail", str(lines), self.name]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout

    def remove(self) -> None:
        """End and forget it; it may be gone already."""
        podman("rm", "--force", "--time", "0", "--volumes", self.name, allow_failure=True)
