"""What a replica counts of its requests, and how it looks under vLLM's names."""

from prometheus_client.parser import text_string_to_metric_families

from deployments.replica import EngineReplica, NamedModel
from serve_app.config import ModelSettings
from serve_app.engine_config import FakeSettings
from serve_app.metrics import render_exposition
from serve_app.replica_metrics import ABORTED, COUNTERS, HISTOGRAMS, ReplicaMetrics
from serve_app.reports import ReplicaReport
from serve_app.types import Finished, FinishReason, Sampling, Timings, TokenDelta, TokenRequest, Usage


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Heard:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float | str]] = []

    def count(self, name: str, amount: float) -> None:
        self.calls.append((name, amount))

    def observe(self, name: str, value: float) -> None:
        self.calls.append((name, value))

    def count_end(self, reason: str) -> None:
        self.calls.append(("finished", reason))


def _request(prompt_tokens: int) -> TokenRequest:
    return TokenRequest(request_id="r", prompt=tuple(range(prompt_tokens)), sampling=Sampling())


def test_a_request_is_counted_with_its_times() -> None:
    clock, heard = Clock(), Heard()
    tally = ReplicaMetrics("m", heard, clock)
    meter = tally.start_meter(_request(7))
    clock.now += 0.2
    meter.push((TokenDelta((1,)),))
    clock.now += 0.6
    meter.push(
        (
            TokenDelta((2, 3, 4)),
            Finished(
                reason=FinishReason.LENGTH,
                usage=Usage(prompt_tokens=7, completion_tokens=4, cached_tokens=5),
                timings=Timings(queue_s=0.1),
            ),
        )
    )
    meter.end()
    served = tally.counts()
    assert served.counters == {"prompt_tokens": 7, "generation_tokens": 4, "prefix_cache_queries": 7, "prefix_cache_hits": 5}
    assert served.ends == {"length": 1}
    assert round(served.histograms["time_to_first_token_seconds"].total, 6) == 0.2
    assert round(served.histograms["request_time_per_output_token_seconds"].total, 6) == 0.2
    assert round(served.histograms["e2e_request_latency_seconds"].total, 6) == 0.8
    assert all(sum(histogram.counts) == 1 for histogram in served.histograms.values())
    told = [name for name, _ in heard.calls]
    assert set(told) == {*COUNTERS, *HISTOGRAMS, "finished"}


def test_a_request_without_an_end_is_an_abort_and_its_tokens_count() -> None:
    tally = ReplicaMetrics("m")
    meter = tally.start_meter(_request(7))
    meter.push((TokenDelta((1, 2)),))
    meter.end()
    assert tally.counts().ends == {ABORTED: 1}
    assert tally.counts().counters["generation_tokens"] == 2
    assert tally.counts().counters["prompt_tokens"] == 0


def test_a_value_falls_into_the_bucket_whose_bound_it_meets() -> None:
    tally = ReplicaMetrics("m")
    for value in (1.0, 1.5, 1e9):
        tally.observe("request_prompt_tokens", value)
    counts = tally.counts().histograms["request_prompt_tokens"].counts
    assert (counts[0], counts[1], counts[-1]) == (1, 1, 1)


async def test_a_replica_tells_vllms_series_that_prometheus_reads() -> None:
    replica = EngineReplica.__new__(EngineReplica)

    async def send(_: ReplicaReport) -> bool:
        return True

    await replica.__init__("a", FakeSettings(text="one two three"), NamedModel("phi", ModelSettings()), lambda: ("r1", send))  # type: ignore[misc,func-returns-value]
    async for _ in replica.generate(_request(3)):
        pass
    text = render_exposition([replica.report()]).decode()
    await replica.close()
    samples = {
        (sample.name, sample.labels.get("le", "")): sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    for name in COUNTERS:
        assert samples[f"vllm:{name}_total", ""].labels["group"] == "a"
    assert samples["vllm:prompt_tokens_total", ""].value == 3
    assert samples["vllm:request_success_total", ""].labels["finished_reason"] == "stop"
    for name in HISTOGRAMS:
        assert samples[f"vllm:{name}_bucket", "+Inf"].value == samples[f"vllm:{name}_count", ""].value == 1
    assert samples["vllm:num_requests_running", ""].labels["model_name"] == "phi"
