"""What is known of the engine groups: an immutable snapshot, and the view that replicas' reports keep current.

A replica reports once a second; one that falls silent counts as gone. Times are the caller's monotonic seconds, so clocks of other
nodes do not matter.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from serve_app.types import EngineInfo, EngineLoad, Phase, ReplicaReport

_PROGRESS = (Phase.STARTING, Phase.LOADING, Phase.WARMING, Phase.READY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One engine group now. Ready means that a replica of it has generated a token and is heard of."""

    name: str
    phase: Phase = Phase.STARTING
    reason: str = ""
    """Why the last replica failed; kept while its successor starts."""
    replicas: int = 0
    """Ready replicas."""
    info: EngineInfo | None = None
    load: EngineLoad = field(default_factory=EngineLoad)
    """Sums over the ready replicas; `kv_usage` is their mean."""
    reports: tuple[ReplicaReport, ...] = ()
    """What each replica last told, ready or not."""

    @property
    def ready(self) -> bool:
        """Whether requests can be sent to it."""
        return self.phase is Phase.READY


@dataclass(frozen=True, slots=True)
class Fleet:
    """All configured groups, in configured order."""

    groups: tuple[Group, ...]

    @property
    def ready(self) -> bool:
        """Whether every configured group is ready."""
        return all(group.ready for group in self.groups)

    def group(self, name: str) -> Group | None:
        """Return the group called `name`, if configured."""
        return next((group for group in self.groups if group.name == name), None)


class FleetView:
    """Collects replica reports into snapshots."""

    def __init__(self, names: Iterable[str], stale_after_s: float) -> None:
        """Know the configured groups; forget replicas silent for `stale_after_s`."""
        self._names = tuple(names)
        self._stale_after_s = stale_after_s
        self._reports: dict[str, dict[str, tuple[float, ReplicaReport]]] = {name: {} for name in self._names}
        self._failures: dict[str, str] = {}

    def record(self, report: ReplicaReport, now: float) -> None:
        """Take a report; those of groups that are not configured are ignored."""
        replicas = self._reports.get(report.group)
        if replicas is None:
            return
        replicas[report.replica_id] = (now, report)
        if report.phase is Phase.FAILED:
            self._failures[report.group] = report.reason
        elif report.phase is Phase.READY:
            self._failures.pop(report.group, None)

    def snapshot(self, now: float) -> Fleet:
        """Return the groups as of `now`."""
        return Fleet(tuple(self._group(name, now) for name in self._names))

    def _group(self, name: str, now: float) -> Group:
        replicas = self._reports[name]
        for replica_id in [key for key, (seen, _) in replicas.items() if now - seen > self._stale_after_s]:
            del replicas[replica_id]
        reports = [report for _, report in replicas.values()]
        told = tuple(reports)
        failure = self._failures.get(name, "")
        ready = [report for report in reports if report.phase is Phase.READY]
        if ready:
            loads = [report.load for report in ready]
            return Group(name=name, phase=Phase.READY, replicas=len(ready), info=ready[0].info, load=_total(loads), reports=told)
        alive = [report.phase for report in reports if report.phase is not Phase.FAILED]
        if alive:
            return Group(
                name=name,
                phase=max(alive, key=_PROGRESS.index),
                reason=failure and f"the last attempt failed: {failure}",
                reports=told,
            )
        if failure:
            return Group(name=name, phase=Phase.FAILED, reason=failure, reports=told)
        return Group(name=name)


def _total(loads: list[EngineLoad]) -> EngineLoad:
    return EngineLoad(
        running=sum(load.running for load in loads),
        waiting=sum(load.waiting for load in loads),
        waiting_tokens=sum(load.waiting_tokens for load in loads),
        kv_usage=sum(load.kv_usage for load in loads) / len(loads),
        tokens_per_second=sum(load.tokens_per_second for load in loads),
    )
