"""Measures the available memory, within the container's limit."""

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
