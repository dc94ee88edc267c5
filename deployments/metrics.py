"""Exports the replicas' counts as Ray metrics, under the names that Ray's Serve LLM dashboard queries.

Ray adds labels for node and worker, Serve those for deployment and replica.
"""

from ray.serve.metrics import Counter, Gauge, Histogram

from serve_app.replica_metrics import COUNTERS, HISTOGRAMS
from serve_app.types import EngineLoad

_PREFIX = "vllm_"
_MODEL = "model_name"
_REASON = "finished_reason"


class RayMetrics:
    """A `MetricSink` with gauges of the load. Lives in a replica."""

    def __init__(self, model: str) -> None:
        """Register every series for the served model."""
        self._model = {_MODEL: model}
        keys = (_MODEL,)
        self._counters = {name: Counter(f"{_PREFIX}{name}", about, keys) for name, about in COUNTERS.items()}
        self._histograms = {
            name: Histogram(f"{_PREFIX}{name}", about, list(bounds), keys) for name, (about, bounds) in HISTOGRAMS.items()
        }
        self._ends = Counter(f"{_PREFIX}request_success", "Requests by how they ended", (_MODEL, _REASON))  # type: ignore[arg-type]  # the annotation allows one key only
        self._running = Gauge(f"{_PREFIX}num_requests_running", "Requests being computed", keys)
        self._waiting = Gauge(f"{_PREFIX}num_requests_waiting", "Requests waiting inside the engine", keys)
        self._usage = Gauge(f"{_PREFIX}kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", keys)

    def count(self, name: str, amount: float) -> None:
        """See `MetricSink.count`."""
        if amount > 0:  # Ray refuses zero
            self._counters[name].inc(amount, self._model)

    def observe(self, name: str, value: float) -> None:
        """See `MetricSink.observe`."""
        self._histograms[name].observe(value, self._model)

    def count_end(self, reason: str) -> None:
        """See `MetricSink.count_end`."""
        self._ends.inc(1, self._model | {_REASON: reason})

    def show(self, load: EngineLoad) -> None:
        """Set the gauges to the engine's load."""
        self._running.set(load.running, self._model)
        self._waiting.set(load.waiting, self._model)
        self._usage.set(load.kv_usage, self._model)
