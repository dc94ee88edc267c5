"""What is known of the engine groups: an immutable snapshot, and the view that replicas' reports keep current.

A replica reports once a second; one that falls silent counts as gone. Times are the caller's monotonic seconds, so clocks of other
nodes do not matter.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from serve_app.reports import ReplicaReport
from serve_app.types import ContextLimits, EngineInfo, EngineLoad, Phase, Task

_PROGRESS = (Phase.STARTING, Phase.LOADING, Phase.WARMING, Phase.READY)
_RATE_WEIGHT = 0.3
"""Of the newest report in a replica's smoothed drain rate."""
_LENGTH_WEIGHT = 0.05
"""Of the newest answer in a task's smoothed length."""
_REMEMBERED_S = 600.0
"""How long a replica that fell silent is remembered, so that nothing is sent to it should it only hang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One engine group now. Ready means that a replica of it has generated a token and is heard of."""

    name: str
    phase: Phase = Phase.STARTING
    reason: str = ""
    """What its replicas are doing while they load, and why the last one failed; kept while its successor starts."""
    replicas: int = 0
    """Ready replicas."""
    info: EngineInfo | None = None
    load: EngineLoad = field(default_factory=EngineLoad)
    """Sums over the ready replicas; `kv_usage` is their mean."""
    reports: tuple[ReplicaReport, ...] = ()
    """What each replica last told, ready or not."""
    drain_rate: float | None = None
    """Tokens per second that its ready replicas are known to do; None until one has worked."""
    stream_rate: float | None = None
    """Tokens per second of a stream that shares a replica with few others, as far as is known."""
    sent: int = 0
    """Requests sent to it that the reports do not show yet."""
    sent_tokens: float = 0.0
    """Their work."""
    reported_s: float = 0.0
    """When the least recent of the ready replicas' reports came, in the caller's seconds."""
    silent: frozenset[str] = frozenset()
    """Replicas that stopped reporting: gone, or hung and still accepting."""
    blocked: bool = False
    """Whether circuit breakers let nothing through to it."""
    sleeps: bool = False
    """Whether it may have no replica and starts one on request."""

    @property
    def ready(self) -> bool:
        """Whether requests can be sent to it."""
        return self.phase is Phase.READY

    @property
    def wakes(self) -> bool:
        """Whether a request sent to it is held until a replica has started."""
        return self.sleeps and self.phase not in (Phase.READY, Phase.FAILED)

    @property
    def replica_ids(self) -> tuple[str, ...]:
        """The ready replicas."""
        return tuple(report.replica_id for report in self.reports if report.phase is Phase.READY)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All configured groups, in configured order."""

    groups: tuple[Group, ...]
    answer_tokens: Mapping[Task | None, float] = field(default_factory=dict)
    """Observed length of answers per task; under None, of all."""

    @property
    def ready(self) -> bool:
        """Whether every configured group is ready, or needs but a request to be."""
        return all(group.ready or group.wakes for group in self.groups)

    def limits(self, group: str | None = None) -> ContextLimits:
        """Return the groups' context lengths; a sleeping group counts with its last one, since a request wakes it.

        `group` is the one that the client names, None for any.
        """
        lengths = {each.name: each.info.context_length for each in self.groups if each.info is not None}
        longest = max(lengths.values(), default=None)
        return ContextLimits(
            longest=longest,
            complete=bool(lengths) and len(lengths) == len(self.groups),
            window=longest if group is None else lengths.get(group),
        )

    def group(self, name: str) -> Group | None:
        """Return the group called `name`, if configured."""
        return next((group for group in self.groups if group.name == name), None)


class FleetView:
    """Collects replica reports into snapshots."""

    def __init__(self, names: Iterable[str], stale_after_s: float, sleeping: Collection[str] = ()) -> None:
        """Know the configured groups, and which of them may have no replica; forget replicas silent for `stale_after_s`."""
        self._names = tuple(names)
        self._sleeping = frozenset(sleeping)
        self._infos: dict[str, EngineInfo] = {}
        self._stale_after_s = stale_after_s
        self._reports: dict[str, dict[str, tuple[float, ReplicaReport]]] = {name: {} for name in self._names}
        self._failures: dict[str, str] = {}
        self._rates: dict[str, tuple[float, float]] = {}
        self._silent: dict[str, dict[str, float]] = {name: {} for name in self._names}

    def record(self, report: ReplicaReport, now: float) -> None:
        """Take a report; those of groups that are not configured are ignored."""
        replicas = self._reports.get(report.group)
        if replicas is None:
            return
        replicas[report.replica_id] = (now, report)
        self._silent[report.group].pop(report.replica_id, None)
        self._measure(report)
        if report.phase is Phase.FAILED:
            self._failures[report.group] = report.reason
        elif report.phase is Phase.READY:
            self._failures.pop(report.group, None)
            if report.info is not None:
                self._infos[report.group] = report.info

    def _measure(self, report: ReplicaReport) -> None:
        """Smooth the rates.

        A lower drain rate tells something only of a replica that has all the work it can take; a lower rate of streams only of one
        that has hardly any.
        """
        load, info = report.load, report.info
        if load.drain_rate <= 0 or info is None:
            return
        drain, stream = self._rates.get(report.replica_id, (load.drain_rate, load.stream_rate))
        if load.drain_rate > drain or load.waiting > 0 or load.running >= info.max_concurrency:
            drain += _RATE_WEIGHT * (load.drain_rate - drain)
        if load.stream_rate > stream or load.running <= 1:
            stream += _RATE_WEIGHT * (load.stream_rate - stream)
        self._rates[report.replica_id] = drain, stream

    def snapshot(self, now: float) -> Fleet:
        """Return the groups as of `now`."""
        return Fleet(tuple(self._asleep(self._group(name, now)) for name in self._names))

    def _asleep(self, group: Group) -> Group:
        """Tell a group that sleeps from one that has yet to start; what its engine can do is remembered from the last time."""
        if group.name not in self._sleeping:
            return group
        phase = group.phase if group.reports else Phase.ASLEEP
        return replace(group, sleeps=True, phase=phase, info=group.info or self._infos.get(group.name))

    def _group(self, name: str, now: float) -> Group:
        replicas = self._reports[name]
        for replica_id in [key for key, (seen, _) in replicas.items() if now - seen > self._stale_after_s]:
            self._silent[name][replica_id] = replicas.pop(replica_id)[0]
            self._rates.pop(replica_id, None)
        for replica_id in [key for key, seen in self._silent[name].items() if now - seen > _REMEMBERED_S]:
            del self._silent[name][replica_id]
        reports = [report for _, report in replicas.values()]
        told = tuple(reports)
        failure = self._failures.get(name, "")
        ready = [report for report in reports if report.phase is Phase.READY]
        if ready:
            rates = [self._rates[report.replica_id] for report in ready if report.replica_id in self._rates]
            return Group(
                name=name,
                phase=Phase.READY,
                replicas=len(ready),
                info=ready[0].info,
                load=_total([report.load for report in ready]),
                reports=told,
                drain_rate=sum(drain for drain, _ in rates) / len(rates) * len(ready) if rates else None,
                stream_rate=sum(stream for _, stream in rates) / len(rates) if rates else None,
                reported_s=min(seen for seen, report in replicas.values() if report.phase is Phase.READY),
                silent=frozenset(self._silent[name]),
            )
        alive = [report.phase for report in reports if report.phase is not Phase.FAILED]
        if alive:
            phase = max(alive, key=_PROGRESS.index)
            reasons = sorted({report.reason for report in reports if report.phase is phase and report.reason})
            if failure:
                reasons.append(f"the last attempt failed: {failure}")
            return Group(name=name, phase=phase, reason="; ".join(reasons), reports=told)
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
        drain_rate=sum(load.drain_rate for load in loads),
    )


@dataclass(slots=True)
class _Sent:
    """Work sent to a group."""

    at_s: float
    tokens: float


class Workload:
    """What the replicas' reports do not tell yet: the work sent since the last one, and how long answers turn out to be."""

    _KEEP_S = 5.0

    def __init__(self) -> None:
        """Know nothing."""
        self._sent: dict[str, deque[_Sent]] = {}
        self._lengths: dict[Task | None, float] = {}

    def send(self, group: str, tokens: float, now: float) -> _Sent:
        """Note work sent to `group`; give the result to `end` when it is done."""
        sent = _Sent(now, tokens)
        queue = self._sent.setdefault(group, deque())
        queue.append(sent)
        while queue[0].at_s < now - self._KEEP_S:
            queue.popleft()
        return sent

    def end(self, sent: _Sent) -> None:
        """Note that the work is done, or was given up."""
        sent.tokens = 0.0

    def record_answer(self, task: Task, tokens: int) -> None:
        """Note the length of a whole answer."""
        for key in (task, None):
            known = self._lengths.get(key)
            self._lengths[key] = tokens if known is None else known + _LENGTH_WEIGHT * (tokens - known)

    def annotate(self, fleet: Fleet, now: float) -> Fleet:
        """Return the fleet with what is known here."""
        return Fleet(tuple(self._with_sent(group, now) for group in fleet.groups), dict(self._lengths))

    def _with_sent(self, group: Group, now: float) -> Group:
        since = max(group.reported_s, now - self._KEEP_S)
        unseen = [sent.tokens for sent in self._sent.get(group.name, ()) if sent.at_s >= since and sent.tokens]
        return replace(group, sent=len(unseen), sent_tokens=sum(unseen))
