"""The protocol of a cluster, as far as operators change it. Knows no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from serve_app.reports import ReplicaAction

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many replicas a group may have."""

    min: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An ingress."""

    id: str
    node: str
    """Name of its machine."""
    pid: int


class Cluster(Protocol):
    """What runs beside this ingress, and what starts and ends it."""

    identity: Identity
    """This ingress."""

    async def ask_ingresses(self, question: str, argument: Any = None) -> list[Any]:
        """Return the answers of all ingresses to a question of `Operations.answer`, this one's first; never fails.

        An ingress that does not answer in time is left out.
        """
        ...

    async def act(self, group: str, action: ReplicaAction, replica: str | None = None) -> list[str]:
        """Let one replica of a group, or all, do something; return the ids of those that did. Raises `ServeError`."""
        ...

    async def wake(self, group: str) -> None:
        """Let a group that sleeps start a replica; returns before it has started."""
        ...

    async def read_bounds(self) -> Mapping[str, Bounds]:
        """Return the bounds of every group that scales by itself, and the number of replicas of the others as both bounds."""
        ...

    async def set_bounds(self, group: str, bounds: Bounds) -> None:
        """Let a group have other bounds from now on; raises `ServeError`."""
        ...

    async def read_logs(self, group: str | None, replica: str | None, lines: int) -> list[JsonObject]:
        """Return the last lines of the logs of this ingress and of the replicas, or of one group or replica.

        Each is an object with `group`, `id`, `node` and `lines`. What does not answer in time is left out.
        """
        ...
