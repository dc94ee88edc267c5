"""Checks that the ports are free, and names who listens on them: Linux' tables of sockets, and the processes that hold them."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from serve_app.diagnosis.checks import Check, fail, ok, warn

_LISTENING = "0A"
RAY_PORTS: Mapping[int, str] = MappingProxyType({6379: "Ray's head node", 8265: "Ray's dashboard"})
"""The ports that Ray takes unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens."""

    port: int
    inode: int
    """Its number, by which a process that holds it is found."""


def parse_listeners(table: str) -> list[Listener]:
    """Return the listening sockets of a text of /proc/net/tcp or tcp6."""
    found: list[Listener] = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENING:
            with suppress(ValueError):
                found.append(Listener(int(fields[1].rpartition(":")[2], 16), int(fields[9])))
    return found


def read_listeners() -> list[Listener]:
    """Return this machine's listening sockets."""
    found: list[Listener] = []
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            found += parse_listeners(Path(f"/proc/net/{name}").read_text())
    return found


def find_holders(inodes: Iterable[int]) -> dict[int, str]:
    """Return who holds sockets, as `name (pid 12)`; other users' processes are found by root only."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if len(found) == len(wanted):
            break
        with suppress(OSError):  # it ended, or is another user's
            for entry in (folder / "fd").iterdir():
                with suppress(OSError):
                    inode = wanted.get(os.readlink(entry))
                    if inode is not None and inode not in found:
                        found[inode] = f"{(folder / 'comm').read_text().strip()} (pid {folder.name})"
    return found


def check_ports(wanted: Mapping[int, str], listeners: Iterable[Listener], holders: Mapping[int, str]) -> Iterator[Check]:
    """Yield whether the configured ports, by what they are for, and Ray's own are free."""
    taken = {each.port: each.inode for each in listeners}
    for port, purpose in wanted.items():
        if port in taken:
            fix = "end it, or choose another port"
            yield fail(f"port {port}", f"{purpose}: {_name(holders, taken[port])} listens there", fix)
        else:
            yield ok(f"port {port}", f"{purpose}: free")
    for port, purpose in RAY_PORTS.items():
        if port in wanted:
            continue
        if port in taken:
            finding = f"{purpose}: {_name(holders, taken[port])} listens there"
            fix = "if that is a Ray which runs already, `serve run` joins it: `ray status` shows it, `ray stop` ends it"
            yield warn(f"port {port}", finding, fix)
        else:
            yield ok(f"port {port}", f"{purpose}: free")


def _name(holders: Mapping[int, str], inode: int) -> str:
    return holders.get(inode, "a process of another user")
