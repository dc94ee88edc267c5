"""What replicas tell the ingress about themselves: their phase, their load, and what became of their requests.

Plain frozen dataclasses, so they cross Ray unchanged. Knows what an engine is and does, nothing of requests.
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
    """What a replica has done with its requests since its start; see `serve_app.replica_metrics` for the names."""

    model: str
    """The served model's name."""
    counters: Mapping[str, float] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
    """Requests by the reason of their end."""
    histograms: Mapping[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """What a replica tells every ingress once a second."""

    group: str
    replica_id: str
    phase: Phase
    reason: str = ""
    """Why it failed; empty otherwise."""
    info: EngineInfo | None = None
    load: EngineLoad = field(default_factory=EngineLoad)
    requests: RequestCounts | None = None
    """Its requests so far, for metrics."""
