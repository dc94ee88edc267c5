"""Reports of replicas to the ingress: their phase, their load, their processes, and counts of their requests.

Plain frozen dataclasses, so they cross Ray unchanged. Knows engines' info and load, no single request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from serve_app.types import EngineInfo, EngineLoad, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Observed values in buckets."""

    bounds: tuple[float, ...]
    """Upper bound of each bucket but the last, which has none."""
    counts: tuple[int, ...]
    """Values per bucket, not cumulated; one more than `bounds`."""
    total: float
    """Sum of the values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCounts:
    """Counts of a replica's requests since its start; see `serve_app.replica_metrics` for the names."""

    model: str
    """The served model's name."""
    counters: Mapping[str, float] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
    """Number of requests by finish reason."""
    histograms: Mapping[str, Histogram] = field(default_factory=dict)


class ReplicaAction(StrEnum):
    """What an operator may ask of a replica."""

    DRAIN = "drain"
    """Complete what you have; you get nothing new."""
    RESUME = "resume"
    """Take requests again."""
    RESTART = "restart"
    """Drain, then fail the health check, so that Serve starts a successor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseChange:
    """When a replica entered a phase."""

    phase: Phase
    at: float
    """In seconds since 1970, by the clock of the replica's node; only shown."""
    reason: str = ""
    """What it did last in this phase, or why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishap:
    """A failure of a replica's engine."""

    at: float
    """In seconds since 1970, by the clock of the replica's node; only shown."""
    message: str
    """What failed, with the fix where one is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaProcess:
    """The processes of a replica."""

    node: str
    """Name of the machine."""
    pid: int
    memory_bytes: int | None = None
    """Proportional set size (PSS) of the process and its children; None until it is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """A replica's report to every ingress, sent once a second."""

    group: str
    replica_id: str
    phase: Phase
    reason: str = ""
    """Why it failed; empty otherwise."""
    info: EngineInfo | None = None
    load: EngineLoad = field(default_factory=EngineLoad)
    requests: RequestCounts | None = None
    """Counts of its requests so far, for metrics."""
    process: ReplicaProcess | None = None
    timeline: tuple[PhaseChange, ...] = ()
    """Its last phases, the present one last."""
    mishap: Mishap | None = None
    """The last failure of its engine."""
