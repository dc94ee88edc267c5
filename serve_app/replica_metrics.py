"""Counts a replica's requests under vLLM's metric names, whatever the engine.

Knows token events and numbers; neither Prometheus nor Ray.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Protocol

from serve_app.encoding import EncodeRequest
from serve_app.reports import Histogram, RequestCounts
from serve_app.types import Finished, TokenDelta, TokenRequest

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TOKENS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 131072.0)
HISTOGRAMS = {
    "time_to_first_token_seconds": ("From a request's arrival at the replica to its first token", _SECONDS),
    "request_time_per_output_token_seconds": ("Mean time between a request's tokens", _SECONDS),
    "e2e_request_latency_seconds": ("From a request's arrival at the replica to its end", _SECONDS),
    "request_queue_time_seconds": ("Waiting for a slot", _SECONDS),
    "request_prefill_time_seconds": ("Reading the prompt", _SECONDS),
    "request_decode_time_seconds": ("Generating", _SECONDS),
    "request_prompt_tokens": ("Prompt tokens of a request", _TOKENS),
    "request_generation_tokens": ("Generated tokens of a request", _TOKENS),
}
"""Values observed once per request: name to meaning and upper bounds of the buckets."""
COUNTERS = {
    "prompt_tokens": "Prompt tokens of finished requests",
    "generation_tokens": "Tokens generated, those of requests that failed or were given up included",
    "prefix_cache_queries": "Prompt tokens looked up in the prefix cache",
    "prefix_cache_hits": "Prompt tokens found there",
}
"""Counters: name to meaning."""
ABORTED = "abort"
"""The reason of a request that ended without `Finished`."""


class MetricSink(Protocol):
    """Receives all counts and values, for another system of metrics."""

    def count(self, name: str, amount: float) -> None:
        """Add to the counter `name` of `COUNTERS`."""
        ...

    def observe(self, name: str, value: float) -> None:
        """Add a value to the histogram `name` of `HISTOGRAMS`."""
        ...

    def count_end(self, reason: str) -> None:
        """Count a request that ended for `reason`."""
        ...


class ReplicaMetrics:
    """The counts of one replica; `start_meter` returns the meter of one request."""

    def __init__(self, model: str, sink: MetricSink | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Start at zero; `sink` receives everything too."""
        self._model = model
        self._sink = sink
        self._clock = clock
        self._counters: dict[str, float] = dict.fromkeys(COUNTERS, 0.0)
        self._ends: dict[str, int] = defaultdict(int)
        self._buckets = {name: [0] * (len(bounds) + 1) for name, (_, bounds) in HISTOGRAMS.items()}
        self._sums = dict.fromkeys(HISTOGRAMS, 0.0)

    def start_meter(self, request: TokenRequest | EncodeRequest) -> "RequestMeter":
        """Return the meter of a request that has just arrived."""
        tokens = len(request.prompt) if isinstance(request, TokenRequest) else request.tokens
        return RequestMeter(self, tokens, self._clock)

    def counts(self) -> RequestCounts:
        """Return the counts so far."""
        histograms = {
            name: Histogram(bounds=bounds, counts=tuple(self._buckets[name]), total=self._sums[name])
            for name, (_, bounds) in HISTOGRAMS.items()
        }
        return RequestCounts(model=self._model, counters=dict(self._counters), ends=dict(self._ends), histograms=histograms)

    def count(self, name: str, amount: float) -> None:
        """See `MetricSink.count`."""
        self._counters[name] += amount
        if self._sink is not None:
            self._sink.count(name, amount)

    def observe(self, name: str, value: float) -> None:
        """See `MetricSink.observe`."""
        bounds = HISTOGRAMS[name][1]
        self._buckets[name][next((place for place, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
        self._sums[name] += value
        if self._sink is not None:
            self._sink.observe(name, value)

    def count_end(self, reason: str) -> None:
        """See `MetricSink.count_end`."""
        self._ends[reason] += 1
        if self._sink is not None:
            self._sink.count_end(reason)


class RequestMeter:
    """Measures one request: `push` its events, then `end`, however it ended."""

    def __init__(self, metrics: ReplicaMetrics, prompt_tokens: int, clock: Callable[[], float]) -> None:
        """Start measuring now."""
        self._metrics = metrics
        self._prompt_tokens = prompt_tokens
        self._clock = clock
        self._began = clock()
        self._first: float | None = None
        self._last = self._began
        self._tokens = 0
        self._finished: Finished | None = None

    def push(self, batch: Iterable[object]) -> None:
        """Take events; other objects are ignored."""
        tokens = 0
        for event in batch:
            if isinstance(event, TokenDelta):
                tokens += len(event.ids)
            elif isinstance(event, Finished):
                self._finished = event
        if tokens:
            self._last = self._clock()
            if self._first is None:
                self._first = self._last
                self._metrics.observe("time_to_first_token_seconds", self._first - self._began)
            self._tokens += tokens
            self._metrics.count("generation_tokens", tokens)

    def end(self) -> None:
        """Count the request as a whole; must be called once."""
        metrics, finished = self._metrics, self._finished
        if finished is None:
            metrics.count_end(ABORTED)
            return
        metrics.count_end(finished.reason)
        metrics.count("prompt_tokens", self._prompt_tokens)
        metrics.count("prefix_cache_queries", self._prompt_tokens)
        metrics.count("prefix_cache_hits", finished.usage.cached_tokens)
        metrics.observe("e2e_request_latency_seconds", self._clock() - self._began)
        metrics.observe("request_prompt_tokens", self._prompt_tokens)
        metrics.observe("request_generation_tokens", self._tokens)
        if self._first is not None and self._tokens > 1:
            metrics.observe("request_time_per_output_token_seconds", (self._last - self._first) / (self._tokens - 1))
        timings = finished.timings
        metrics.observe("request_queue_time_seconds", timings.queue_s)
        metrics.observe("request_prefill_time_seconds", timings.prefill_s)
        metrics.observe("request_decode_time_seconds", timings.decode_s)
