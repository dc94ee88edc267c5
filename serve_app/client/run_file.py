"""The file that says what `phi-serve up` runs on a port: which processes, which configuration, which log."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from serve_app.client.state_folder import find_folder, write_privately


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    started: str
    """When it started: the machine's boot and clock ticks since then."""

    @property
    def lives(self) -> bool:
        """Whether it still runs."""
        return find_process(self.pid) == self


def find_process(pid: int) -> Process | None:
    """Return the process that has the number now; None where there is none, or only its exit status is left."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return None if fields[0] in "ZX" else Process(pid, f"{boot}/{fields[19]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """One running application."""

    port: int
    supervisor: Process
    """The process that ends the application when it gets SIGTERM."""
    child: Process
    """`serve run`, the leader of a session in which all of Ray's processes are."""
    config: str
    """Path of the configuration."""
    url: str
    """Where the application answers on this machine."""
    log: str
    """Path of the log."""
    version: str
    """Version of this package."""
    dashboard: str = ""
    """URL of Ray's dashboard, once it is known."""

    @property
    def lives(self) -> bool:
        """Whether any of its processes runs."""
        return self.supervisor.lives or self.child.lives

    @property
    def path(self) -> Path:
        """Where it is written."""
        return find_folder("run") / f"{self.port}.json"

    def write(self) -> None:
        """Write it; raises `OSError`."""
        write_privately(self.path, json.dumps(asdict(self), indent=1, allow_nan=False))

    def remove(self) -> None:
        """Remove it, unless another application has the port by now."""
        with suppress(OSError):
            if _read(self.path) == self:
                self.path.unlink()


def list_running() -> list[RunFile]:
    """Return the applications that run now; removes the files of those that do not."""
    found = []
    for file in sorted(find_folder("run").glob("*.json")):
        run = _read(file)
        if run is not None and run.lives:
            found.append(run)
        else:
            with suppress(OSError):
                file.unlink()
    return found


def _read(file: Path) -> RunFile | None:
    """Return what a file says; None where it is not one of ours."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        fields |= {name: Process(**fields[name]) for name in ("supervisor", "child")}
        return RunFile(**fields)
    except (OSError, ValueError, TypeError, KeyError):
        return None
