"""Reports of replicas to the ingress: their phase, their load, and counts of their requests.

Plain frozen dataclasses, so they cross Ray unchanged. Knows engines' info and load, no single request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
