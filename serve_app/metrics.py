"""Renders Prometheus text: the reports of all replicas, and the requests that this ingress served.

Every ingress gets the reports of every replica, so all show the same replicas; each counts its own requests, under its own label.
Knows reports and labels; neither fleet nor engine.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serve_app.record import RequestRecord
from serve_app.replica_metrics import COUNTERS, HISTOGRAMS
from serve_app.reports import Histogram, ReplicaReport
from serve_app.types import Phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABELS = ("group", "model", "engine", "replica")
_PREFIX = "phi_serve_engine"
_GAUGES = {
    "running": "Generations being computed",
    "waiting": "Generations waiting inside the engine",
    "waiting_tokens": "Prompt tokens of those that wait",
    "kv_usage": "Share of the KV cache in use, 0 to 1",
    "tokens_per_second": "Tokens generated per second over the last seconds",
}
_COUNTERS = {
    "steps": ("steps", "Steps of the scheduler"),
    "decode_s": ("decode_seconds", "Time spent computing decoding steps"),
    "decode_tokens": ("decode_tokens", "Tokens computed by decoding; divided by the steps, the batch size"),
    "prefill_s": ("prefill_seconds", "Time spent reading prompts"),
    "prefill_tokens": ("prefill_tokens", "Prompt tokens read"),
    "reused_tokens": ("prefix_reused_tokens", "Prompt tokens found in the KV cache instead of read"),
    "prefix_hits": ("prefix_hits", "Requests that started from a cached prefix"),
    "forced_tokens": ("forced_tokens", "Generated tokens that a constraint left no choice about"),
    "admitted": ("admitted", "Requests that got a slot"),
    "queue_s": ("queue_seconds", "Time that they waited for it"),
    "drafted_tokens": ("drafted_tokens", "Tokens drafted by prompt lookup"),
    "accepted_tokens": ("accepted_tokens", "Drafted tokens that were right"),
}


_VLLM_GAUGES = {
    "num_requests_running": ("Requests being computed", "running"),
    "num_requests_waiting": ("Requests waiting inside the engine", "waiting"),
    "kv_cache_usage_perc": ("Share of the KV cache in use, 0 to 1", "kv_usage"),
}


class _ReplicaCollector(Collector):
    """Collects the reports as metric families."""

    def __init__(self, reports: Iterable[ReplicaReport]) -> None:
        """Show these reports; only ready replicas have values."""
        self._reports = tuple(reports)

    def collect(self) -> Iterable[Metric]:
        """Yield a family per metric, with a sample per replica."""
        ready = [report for report in self._reports if report.phase in (Phase.READY, Phase.DRAINING) and report.info]
        phases = GaugeMetricFamily("phi_serve_replica_phase", "1 for the phase that a replica is in", labels=(*_LABELS, "phase"))
        for report in self._reports:
            phases.add_metric((*_list_labels(report), report.phase), 1)
        yield phases
        yield from _collect_memory(self._reports)
        for name, about in _GAUGES.items():
            gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", about, labels=_LABELS)
            for report in ready:
                gauge.add_metric(_list_labels(report), getattr(report.load, name))
            yield gauge
        for key, (name, about) in _COUNTERS.items():
            counter = CounterMetricFamily(f"{_PREFIX}_{name}", about, labels=_LABELS)
            for report in ready:
                if key in report.load.counters:
                    counter.add_metric(_list_labels(report), report.load.counters[key])
            if counter.samples:
                yield counter
        yield from _collect_vllm_series(ready)


def _collect_memory(reports: Iterable[ReplicaReport]) -> Iterable[Metric]:
    """Yield what replicas hold in memory, and the room of their KV caches."""
    memory = GaugeMetricFamily(
        "phi_serve_replica_memory_bytes", "Proportional set size of a replica's processes", labels=(*_LABELS, "node")
    )
    tokens = GaugeMetricFamily(f"{_PREFIX}_kv_tokens", "Tokens that the KV cache holds when it is full", labels=_LABELS)
    size = GaugeMetricFamily(f"{_PREFIX}_kv_bytes", "Memory of the KV cache when it is full", labels=_LABELS)
    for report in reports:
        labels = _list_labels(report)
        if report.process is not None and report.process.memory_bytes is not None:
            memory.add_metric((*labels, report.process.node), report.process.memory_bytes)
        if report.info is not None and report.info.kv_tokens is not None:
            tokens.add_metric(labels, report.info.kv_tokens)
        if report.info is not None and report.info.kv_bytes is not None:
            size.add_metric(labels, report.info.kv_bytes)
    yield from (memory, tokens, size)


def _collect_vllm_series(ready: list[ReplicaReport]) -> Iterable[Metric]:
    """Yield vLLM's own series for the replicas of every group, so that dashboards made for vLLM show all of them."""
    labels = ("model_name", "group", "engine", "replica")
    reported = [(_list_vllm_labels(report, counts.model), report, counts) for report in ready if (counts := report.requests)]
    for name, (about, figure) in _VLLM_GAUGES.items():
        gauge = GaugeMetricFamily(f"vllm:{name}", about, labels=labels)
        for values, report, _ in reported:
            gauge.add_metric(values, getattr(report.load, figure))
        yield gauge
    for name, about in COUNTERS.items():
        counter = CounterMetricFamily(f"vllm:{name}", about, labels=labels)
        for values, _, counts in reported:
            counter.add_metric(values, counts.counters.get(name, 0.0))
        yield counter
    ends = CounterMetricFamily("vllm:request_success", "Requests by how they ended", labels=(*labels, "finished_reason"))
    for values, _, counts in reported:
        for reason, count in counts.ends.items():
            ends.add_metric((*values, reason), count)
    yield ends
    for name, (about, _) in HISTOGRAMS.items():
        family = HistogramMetricFamily(f"vllm:{name}", about, labels=labels)
        for values, _, counts in reported:
            if name in counts.histograms:
                family.add_metric(values, _accumulate_buckets(counts.histograms[name]), counts.histograms[name].total)
        yield family


def _accumulate_buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return cumulative buckets, as Prometheus requires."""
    bounds = [*map(repr, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


_Counts = defaultdict[tuple[str, ...], float]


class IngressMetrics(Collector):
    """Counts requests and attempts by their labels; the label `ingress` distinguishes several ingress replicas."""

    def __init__(self, ingress: str = "") -> None:
        """Start at zero."""
        self._ingress = ingress
        self._requests: _Counts = defaultdict(float)
        self._seconds: _Counts = defaultdict(float)
        self._attempts: _Counts = defaultdict(float)
        self._tokens: _Counts = defaultdict(float)
        self._key_requests: _Counts = defaultdict(float)
        self._key_tokens: _Counts = defaultdict(float)
        self.breakers: Mapping[tuple[str, str], str] = {}
        """State of each breaker by (group, replica); set before the text is rendered."""

    def count_request(self, record: RequestRecord) -> None:
        """Count a request that has ended, and the tokens of its whole answers."""
        model, task, group = record.served_model or "none", record.task or "none", record.group or "none"
        self._requests[(model, task, group, record.reason or "none", record.outcome)] += 1
        self._seconds[(model, task, group)] += record.seconds
        usage = record.usage
        self._tokens[(model, task, group, "prompt")] += usage.prompt_tokens
        self._tokens[(model, task, group, "completion")] += usage.completion_tokens
        key, consumed = record.caller.name, record.consumed
        self._key_requests[(key, model, record.outcome)] += 1
        self._key_tokens[(key, model, "prompt")] += consumed.prompt_tokens
        self._key_tokens[(key, model, "completion")] += consumed.completion_tokens

    def count_attempt(self, engine: str, outcome: str) -> None:
        """Count one engine's attempt at a request."""
        self._attempts[(engine, outcome)] += 1

    def collect(self) -> Iterable[Metric]:
        """Yield the counts as metric families."""
        families = (
            (
                "requests",
                "Requests by how they were routed and ended",
                ("model", "task", "engine", "reason", "outcome"),
                self._requests,
            ),
            ("request_seconds", "Time from their arrival at the gateway to their end", ("model", "task", "engine"), self._seconds),
            ("attempts", "Tries of engines, each a request or the rest of one", ("engine", "outcome"), self._attempts),
            ("tokens", "Tokens of whole answers", ("model", "task", "engine", "kind"), self._tokens),
            ("key_requests", "Requests by their key", ("key", "model", "outcome"), self._key_requests),
            ("key_tokens", "Tokens that keys used, those of broken answers too", ("key", "model", "kind"), self._key_tokens),
        )
        for name, about, labels, counts in families:
            counter = CounterMetricFamily(f"phi_serve_{name}", about, labels=("ingress", *labels))
            for values, count in counts.items():
                counter.add_metric((self._ingress, *values), count)
            yield counter
        states = GaugeMetricFamily(
            "phi_serve_breaker", "1 for the state that a circuit breaker is in", labels=("ingress", "group", "replica", "state")
        )
        for (group, replica), state in self.breakers.items():
            states.add_metric((self._ingress, group, replica, state), 1)
        yield states


def render_exposition(reports: Iterable[ReplicaReport], metrics: IngressMetrics | None = None) -> bytes:
    """Return reports and request counts in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_ReplicaCollector(reports))
    if metrics is not None:
        registry.register(metrics)
    return generate_latest(registry)


def _list_labels(report: ReplicaReport) -> tuple[str, ...]:
    """Return the values of `_LABELS`."""
    model = report.requests.model if report.requests else ""
    return report.group, model, report.info.kind if report.info else "", report.replica_id


def _list_vllm_labels(report: ReplicaReport, model: str) -> tuple[str, ...]:
    """Return the values of vLLM's label `model_name` and of the labels that identify a replica."""
    return model, report.group, report.info.kind if report.info else "", report.replica_id
