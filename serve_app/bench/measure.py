"""Computes figures from samples. Pure.

The latencies are those of `vllm bench serve`, so that both can be compared. Of one successful request, with chunks at t1 .. tk
after it was sent, n tokens long:

    TTFT = t1                       time to first token
    E2E  = tk                       the last chunk with a choice; the usage chunk and [DONE] after it do not count
    TPOT = (E2E - TTFT) / (n - 1)   time per output token; n is usage.completion_tokens; none where n < 2
    ITL  = t2 - t1, t3 - t2, ...    inter-token latency, one per chunk; a chunk may carry several tokens

TTFT, TPOT and E2E are averaged over requests, ITL over the chunks of all requests. Tokens per second are those of successful
requests, divided by the time from the first request to the end of the last. Goodput counts requests that succeed and meet every
deadline.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serve_app.bench.record import Run, Sample

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """When an answer counts as good; None: not asked for."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    @property
    def any(self) -> bool:
        """Return whether there is one."""
        return any(each is not None for each in (self.ttft_s, self.tpot_s, self.e2e_s))


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of some seconds; exact, linear between samples."""

    mean_s: float
    percentiles_s: tuple[float, ...]
    """At `PERCENTILES`."""

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread | None":
        """Return the spread; None of nothing."""
        if not seconds:
            return None
        return cls(float(np.mean(seconds)), tuple(map(float, np.percentile(seconds, PERCENTILES))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All figures of some runs of one group under one load."""

    requests: int
    failures: Mapping[str, int]
    """Failed requests by code."""
    duration_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    """Successful ones."""
    good_per_s: float
    """Goodput."""
    good: int
    ttft: Spread | None
    tpot: Spread | None
    itl: Spread | None
    e2e: Spread | None
    cached_share: float
    """Of the prompts' tokens."""
    answered_by: Mapping[str, int]
    """Successful requests by the answering group."""
    retried: int
    """Answers that took more than one attempt."""
    odd_lengths: int
    """Answers or prompts whose length is not the planned one."""
    late_s: float
    """The longest delay with which the client sent a request."""


def ttft_s(sample: Sample) -> float:
    """Return the time to the first token."""
    return sample.chunks_s[0]


def e2e_s(sample: Sample) -> float:
    """Return the time to the last token."""
    return sample.chunks_s[-1]


def tpot_s(sample: Sample) -> float | None:
    """Return the time per output token; None for a single token."""
    return (e2e_s(sample) - ttft_s(sample)) / (sample.completion_tokens - 1) if sample.completion_tokens > 1 else None


def is_good(sample: Sample, deadlines: Deadlines) -> bool:
    """Return whether a request succeeded within every deadline."""
    if sample.failure:
        return False
    measured = ((ttft_s(sample), deadlines.ttft_s), (tpot_s(sample), deadlines.tpot_s), (e2e_s(sample), deadlines.e2e_s))
    return all(limit is None or (took or 0.0) <= limit for took, limit in measured)


def compute_figures(runs: Iterable[Run], deadlines: Deadlines, lengths: tuple[int, int]) -> Figures:
    """Return the figures of runs taken together; `lengths` are the planned tokens of prompts and answers."""
    runs = list(runs)
    samples = [sample for run in runs for sample in run.samples]
    done = [sample for sample in samples if not sample.failure]
    duration_s = sum(run.duration_s for run in runs)
    prompt, completion = sum(each.prompt_tokens for each in done), sum(each.completion_tokens for each in done)
    good = sum(is_good(sample, deadlines) for sample in samples)

    def rate(amount: float) -> float:
        return amount / duration_s if duration_s > 0 else 0.0

    return Figures(
        requests=len(samples),
        failures=Counter(sample.failure for sample in samples if sample.failure),
        duration_s=duration_s,
        output_tokens_per_s=rate(completion),
        total_tokens_per_s=rate(prompt + completion),
        requests_per_s=rate(len(done)),
        good_per_s=rate(good),
        good=good,
        ttft=Spread.of([ttft_s(each) for each in done]),
        tpot=Spread.of([took for each in done if (took := tpot_s(each)) is not None]),
        itl=Spread.of([gap for each in done for gap in np.diff(each.chunks_s).tolist()]),
        e2e=Spread.of([e2e_s(each) for each in done]),
        cached_share=sum(each.cached_tokens for each in done) / prompt if prompt else 0.0,
        answered_by=Counter(each.group for each in done),
        retried=sum(each.attempts > 1 for each in done),
        odd_lengths=sum((each.prompt_tokens, each.completion_tokens) != lengths for each in done),
        late_s=max((each.late_s for each in samples), default=0.0),
    )
