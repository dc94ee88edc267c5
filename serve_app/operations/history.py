"""The last fifteen minutes in points of ten seconds: latencies, throughput, queues, outcomes. Pure; the caller has the clock.

Latencies come from the replicas' own counts, which every ingress gets; outcomes are those of one ingress' requests, to be added up.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from serve_app.operations.base import JsonObject
from serve_app.reports import Histogram
from serve_app.routing.fleet import Fleet
from serve_app.types import Task

SPAN_S = 10
"""Seconds of a point. Points end at multiples of it, so that the points of several ingresses can be added."""
KEPT = 90
_FIRST = "time_to_first_token_seconds"
_PACE = "request_time_per_output_token_seconds"
Outcomes = Mapping[tuple[Task | None, str | None, str], int]
"""Ended requests by task, group and outcome."""


@dataclass(slots=True)
class _Seen:
    """What was read at the last sample."""

    buckets: dict[tuple[str, str], Histogram]
    outcomes: Counter[tuple[Task | None, str | None, str]]


class History:
    """The points of one ingress."""

    def __init__(self) -> None:
        """Begin empty."""
        self.points: deque[JsonObject] = deque(maxlen=KEPT)
        self._seen: _Seen | None = None

    def sample(self, fleet: Fleet, outcomes: Outcomes, at: int) -> JsonObject | None:
        """Add the point that ends at `at`, in seconds since 1970, and return it; the first call only begins."""
        buckets = {
            (report.replica_id, name): report.requests.histograms[name]
            for group in fleet.groups
            for report in group.reports
            if report.requests is not None
            for name in (_FIRST, _PACE)
            if name in report.requests.histograms
        }
        before, self._seen = self._seen, _Seen(buckets, Counter(outcomes))
        if before is None:
            return None
        ended = Counter(outcomes)
        ended.subtract(before.outcomes)
        point: JsonObject = {
            "at": at,
            "span_s": SPAN_S,
            "first_token_s": _summarize(_FIRST, buckets, before.buckets),
            "inter_token_s": _summarize(_PACE, buckets, before.buckets),
            "running": sum(group.load.running for group in fleet.groups),
            "waiting": sum(group.load.waiting for group in fleet.groups),
            "tokens_per_second": round(sum(group.load.tokens_per_second for group in fleet.groups), 1),
            "replicas": {group.name: group.replicas for group in fleet.groups},
        } | _count_outcomes(ended)
        self.points.append(point)
        return point


def _count_outcomes(ended: Outcomes) -> JsonObject:
    counts = Counter({"ok": 0, "errors": 0, "cancelled": 0})
    flow: dict[str, Counter[str]] = {}
    for (task, group, outcome), count in ended.items():
        if count:
            counts[outcome if outcome in ("ok", "cancelled") else "errors"] += count
            flow.setdefault(task or "none", Counter())[group or "none"] += count
    return dict(counts) | {"flow": {task: dict(groups) for task, groups in flow.items()}}


def add_outcomes(own: JsonObject, others: Iterable[JsonObject]) -> JsonObject:
    """Return a point with the outcomes of other ingresses' points of the same time added."""
    total = dict(own) | {"flow": {task: Counter(groups) for task, groups in own["flow"].items()}}
    for other in others:
        for name in ("ok", "errors", "cancelled"):
            total[name] += other[name]
        for task, groups in other["flow"].items():
            total["flow"].setdefault(task, Counter()).update(groups)
    return total | {"flow": {task: dict(groups) for task, groups in total["flow"].items()}}


def _summarize(
    name: str, buckets: Mapping[tuple[str, str], Histogram], before: Mapping[tuple[str, str], Histogram]
) -> dict[str, float | None]:
    """Return the median and the 95th percentile of what was observed since `before`."""
    bounds: Sequence[float] = ()
    counts: list[int] = []
    for key, histogram in buckets.items():
        if key[1] != name:
            continue
        earlier = before[key].counts if key in before else (0,) * len(histogram.counts)
        bounds = histogram.bounds
        counts = counts or [0] * len(histogram.counts)
        counts = [total + now - then for total, now, then in zip(counts, histogram.counts, earlier, strict=True)]
    return {"p50": find_quantile(0.5, bounds, counts), "p95": find_quantile(0.95, bounds, counts)}


def find_quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """Return the value below which a share of the observations lies, values spread evenly within a bucket; None without any.

    As Prometheus' `histogram_quantile`: the last bucket has no upper bound, and its lower one is returned.
    """
    total = sum(counts)
    if not total:
        return None
    rank, passed = share * total, 0
    for place, count in enumerate(counts):
        if count and passed + count >= rank:
            if place >= len(bounds):
                return bounds[-1]
            low = bounds[place - 1] if place else 0.0
            return round(low + (bounds[place] - low) * (rank - passed) / count, 5)
        passed += count
    return bounds[-1]
