"""Keeps the state of the engine groups: a view that replicas' reports update, and immutable snapshots of it.

A replica reports once a second; one that falls silent counts as gone. Times are the caller's monotonic seconds, so the clocks of
other nodes do not matter.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from serve_app.reports import ReplicaReport
from serve_app.types import ContextLimits, EngineInfo, EngineLoad, Phase, Task

_PROGRESS = (Phase.DRAINING, Phase.STARTING, Phase.LOADING, Phase.WARMING, Phase.READY)
_RATE_WEIGHT = 0.3
"""Weight of the newest report in a replica's smoothed rates."""
_LENGTH_WEIGHT = 0.05
"""Weight of the newest answer in the smoothed length of a task's answers."""
_REMEMBERED_S = 600.0
"""How long a silent replica is remembered, so that nothing is sent to it if it merely hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The state of one engine group. It is ready when a replica of it has generated a token and still reports."""

    name: str
    phase: Phase = Phase.STARTING
    reason: str = ""
    """What its replicas do while they load, and why the last one failed; the failure is kept while a successor starts."""
    replicas: int = 0
    """Ready replicas."""
    info: EngineInfo | None = None
    load: EngineLoad = field(default_factory=EngineLoad)
    """Sums over the ready replicas; `kv_usage` is their mean."""
    reports: tuple[ReplicaReport, ...] = ()
    """The last report of each replica, ready or not."""
    drain_rate: float | None = None
    """Tokens per second that its ready replicas generate, as observed; None until one has worked."""
    stream_rate: float | None = None
    """Tokens per second of a stream that shares a replica with few others; None while unknown."""
    sent: int = 0
    """Requests sent to it that the reports do not count yet."""
    sent_tokens: float = 0.0
    """Work of these requests, in generated tokens."""
    reported_s: float = 0.0
    """When the oldest of the ready replicas' last reports arrived, in the caller's seconds."""
    silent: frozenset[str] = frozenset()
    """Replicas that stopped reporting: gone, or hung and still accepting."""
    blocked: bool = False
    """Whether circuit breakers block it."""
    sleeps: bool = False
    """Whether it may have no replica and starts one when a request arrives."""

    @property
    def ready(self) -> bool:
        """Whether requests can be sent to it."""
        return self.phase is Phase.READY

    @property
    def wakes(self) -> bool:
        """Whether a request sent to it waits until a replica has started."""
        return self.sleeps and self.phase not in (Phase.READY, Phase.FAILED)

    @property
    def replica_ids(self) -> tuple[str, ...]:
        """Ids of the ready replicas."""
        return tuple(report.replica_id for report in self.reports if report.phase is Phase.READY)

    @property
    def memory_bytes(self) -> int | None:
        """Proportional set size of all its replicas' processes; None until it is measured."""
        sizes = [each.process.memory_bytes for each in self.reports if each.process and each.process.memory_bytes is not None]
        return sum(sizes) if sizes else None

    @property
    def draining(self) -> frozenset[str]:
        """Ids of the replicas that should get nothing new."""
        return frozenset(report.replica_id for report in self.reports if report.phase is Phase.DRAINING)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All configured groups, in configured order."""

    groups: tuple[Group, ...]
    answer_tokens: Mapping[Task | None, float] = field(default_factory=dict)
    """Observed mean length of one model's answers per task; under None, of all its answers."""

    @property
    def ready(self) -> bool:
        """Whether every configured group is ready, or becomes ready on the first request."""
        return all(group.ready or group.wakes for group in self.groups)

    def summarize(self, *, has_faults: bool = False) -> str:
        """Return `healthy`, `degraded` or `not_ready`; `has_faults`: a model cannot be served."""
        if self.ready:
            return "degraded" if has_faults else "healthy"
        return "degraded" if any(group.ready for group in self.groups) else "not_ready"

    def select(self, names: Collection[str]) -> "Fleet":
        """Return the fleet of these groups alone."""
        return replace(self, groups=tuple(group for group in self.groups if group.name in names))

    def limits(self, group: str | None = None) -> ContextLimits:
        """Return the groups' context lengths; a sleeping group counts with its last known one, since a request wakes it.

        `group` is the group that the client named, None for any.
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
        """Know the configured groups; the `sleeping` ones may have no replica. Drop replicas silent for `stale_after_s`."""
        self._names = tuple(names)
        self._sleeping = frozenset(sleeping)
        self._infos: dict[str, EngineInfo] = {}
        self._stale_after_s = stale_after_s
        self._reports: dict[str, dict[str, tuple[float, ReplicaReport]]] = {name: {} for name in self._names}
        self._failures: dict[str, str] = {}
        self._rates: dict[str, tuple[float, float]] = {}
        self._silent: dict[str, dict[str, float]] = {name: {} for name in self._names}

    def record(self, report: ReplicaReport, now: float) -> None:
        """Record a report; reports of unconfigured groups are ignored."""
        replicas = self._reports.get(report.group)
        if replicas is None:
            return
        replicas[report.replica_id] = (now, report)
        self._silent[report.group].pop(report.replica_id, None)
        self._smooth_rates(report)
        if report.phase is Phase.FAILED:
            self._failures[report.group] = report.reason
        elif report.phase is Phase.READY:
            self._failures.pop(report.group, None)
            if report.info is not None:
                self._infos[report.group] = report.info

    def _smooth_rates(self, report: ReplicaReport) -> None:
        """Smooth the rates.

        A lower drain rate counts only for a replica that is fully loaded, a lower stream rate only for one with hardly any work.
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
        return Fleet(tuple(self._mark_sleeping(self._build_group(name, now)) for name in self._names))

    def _mark_sleeping(self, group: Group) -> Group:
        """Mark a group that may sleep; without a replica it has the phase `asleep` and the last known engine info."""
        if group.name not in self._sleeping:
            return group
        phase = group.phase if group.reports else Phase.ASLEEP
        return replace(group, sleeps=True, phase=phase, info=group.info or self._infos.get(group.name))

    def _build_group(self, name: str, now: float) -> Group:
        replicas = self._reports[name]
        for replica_id in [key for key, (seen, _) in replicas.items() if now - seen > self._stale_after_s]:
            self._silent[name][replica_id] = replicas.pop(replica_id)[0]
            self._rates.pop(replica_id, None)
        for replica_id in [key for key, seen in self._silent[name].items() if now - seen > _REMEMBERED_S]:
            del self._silent[name][replica_id]
        reports = [report for _, report in replicas.values()]
        all_reports = tuple(reports)
        failure = self._failures.get(name, "")
        ready = [report for report in reports if report.phase is Phase.READY]
        if ready:
            rates = [self._rates[report.replica_id] for report in ready if report.replica_id in self._rates]
            return Group(
                name=name,
                phase=Phase.READY,
                replicas=len(ready),
                info=ready[0].info,
                load=_add_up_loads([report.load for report in ready]),
                reports=all_reports,
                drain_rate=sum(drain for drain, _ in rates) / len(rates) * len(ready) if rates else None,
                stream_rate=sum(stream for _, stream in rates) / len(rates) if rates else None,
                reported_s=min(seen for seen, report in replicas.values() if report.phase is Phase.READY),
                silent=frozenset(self._silent[name]),
            )
        phases = [report.phase for report in reports if report.phase is not Phase.FAILED]
        if phases:
            phase = max(phases, key=_PROGRESS.index)
            reasons = sorted({report.reason for report in reports if report.phase is phase and report.reason})
            if failure:
                reasons.append(f"the last attempt failed: {failure}")
            return Group(name=name, phase=phase, reason="; ".join(reasons), reports=all_reports)
        if failure:
            return Group(name=name, phase=Phase.FAILED, reason=failure, reports=all_reports)
        return Group(name=name)


def _add_up_loads(loads: list[EngineLoad]) -> EngineLoad:
    return EngineLoad(
        running=sum(load.running for load in loads),
        waiting=sum(load.waiting for load in loads),
        waiting_tokens=sum(load.waiting_tokens for load in loads),
        kv_usage=sum(load.kv_usage for load in loads) / len(loads),
        tokens_per_second=sum(load.tokens_per_second for load in loads),
        drain_rate=sum(load.drain_rate for load in loads),
    )


@dataclass(slots=True)
class _SentWork:
    """Work sent to a group; `tokens` becomes 0 when it is done."""

    at_s: float
    tokens: float


class Workload:
    """What replicas do not report: the work sent since their last report, and the observed length of answers."""

    _KEEP_S = 5.0

    def __init__(self) -> None:
        """Know nothing."""
        self._sent: dict[str, deque[_SentWork]] = {}
        self._lengths: dict[str, dict[Task | None, float]] = {}

    def send(self, group: str, tokens: float, now: float) -> _SentWork:
        """Note work sent to `group`, in generated tokens; give the result to `end` when it is done."""
        sent = _SentWork(now, tokens)
        queue = self._sent.setdefault(group, deque())
        queue.append(sent)
        while queue[0].at_s < now - self._KEEP_S:
            queue.popleft()
        return sent

    def end(self, sent: _SentWork) -> None:
        """Note that the work is done or was given up."""
        sent.tokens = 0.0

    def record_answer(self, task: Task, tokens: int, model: str = "") -> None:
        """Record the length of a whole answer of a model."""
        lengths = self._lengths.setdefault(model, {})
        for key in (task, None):
            mean = lengths.get(key)
            lengths[key] = tokens if mean is None else mean + _LENGTH_WEIGHT * (tokens - mean)

    def expect_answer(self, task: Task, model: str) -> float | None:
        """Return the mean length of a model's answers to a task in tokens; None before any was observed."""
        lengths = self._lengths.get(model, {})
        return lengths.get(task, lengths.get(None))

    def annotate(self, fleet: Fleet, now: float, model: str = "") -> Fleet:
        """Return the fleet with the sent work and the lengths of a model's answers."""
        return Fleet(tuple(self._with_sent(group, now) for group in fleet.groups), dict(self._lengths.get(model, {})))

    def _with_sent(self, group: Group, now: float) -> Group:
        since = max(group.reported_s, now - self._KEEP_S)
        unreported = [sent.tokens for sent in self._sent.get(group.name, ()) if sent.at_s >= since and sent.tokens]
        return replace(group, sent=len(unreported), sent_tokens=sum(unreported))
