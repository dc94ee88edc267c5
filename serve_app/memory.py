"""Measures memory: what is available within the container's limit, and what processes take."""

from contextlib import suppress
from pathlib import Path


def read_available_bytes() -> int:
    """Return the bytes that a new allocation may take: the machine's available memory, or less under a cgroup's limit."""
    amounts = [
        int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")
    ]
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            root = Path("/sys/fs/cgroup")
            amounts.append(int((root / limit_name).read_text()) - int((root / used_name).read_text()))
    return max(0, min(amounts))


def measure_tree_bytes(pid: int) -> int | None:
    """Return the proportional set size (PSS) of a process and its descendants in bytes; None where the process cannot be read.

    Memory that several processes share counts once in all, so the sizes of replicas on a machine add up. Reading it walks every
    mapping of the processes, which takes milliseconds for each.
    """
    sizes = [size for each in _list_tree(pid) if (size := _read_pss_bytes(each)) is not None]
    return sum(sizes) if sizes else None


def _list_tree(pid: int) -> list[int]:
    found, unvisited = [], [pid]
    while unvisited:
        found.append(parent := unvisited.pop())
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                unvisited += map(int, task.read_text().split())
    return found


def _read_pss_bytes(pid: int) -> int | None:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None
