"""Figures, intervals, tables and comparisons of benchmarks, from known samples."""

import random
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.bench.compare import compare, describe_comparison, show_comparisons
from serve_app.bench.intervals import bootstrap, half_width, quantile_t, welch
from serve_app.bench.measure import Deadlines, Spread, compute_figures
from serve_app.bench.plan import BenchError
from serve_app.bench.record import read_record, write_record
from serve_app.bench.table import describe_method, show_groups, show_latencies, show_load
from tests.unit.bench_records import EIGHT, ONE, make_plan, make_record, make_run, make_sample

LENGTHS = (10, 5)


def test_figures_of_known_samples() -> None:
    samples = [make_sample(0.1, 0.2, 0.5), make_sample(0.3, 0.4, 0.7, number=1), make_sample(failure="503 overloaded")]
    figures = compute_figures([make_run(samples, duration_s=2.0)], Deadlines(), LENGTHS)
    assert (figures.requests, dict(figures.failures)) == (3, {"503 overloaded": 1})
    assert figures.ttft
    assert figures.tpot
    assert figures.itl
    assert figures.e2e
    assert figures.ttft.mean_s == pytest.approx(0.2)
    assert figures.ttft.percentiles_s == pytest.approx(tuple(np.percentile([0.1, 0.3], (50, 95, 99))))
    assert figures.tpot.mean_s == pytest.approx(0.4 / 4)  # of five tokens, not of three chunks
    assert figures.itl.mean_s == pytest.approx(statistics.fmean([0.1, 0.3, 0.1, 0.3]))
    assert figures.e2e.mean_s == pytest.approx(0.6)
    assert figures.output_tokens_per_s == pytest.approx(10 / 2.0)
    assert figures.total_tokens_per_s == pytest.approx(30 / 2.0)
    assert figures.requests_per_s == pytest.approx(2 / 2.0)


def test_rounds_are_pooled_over_their_durations() -> None:
    runs = [make_run([make_sample(0.1, 0.5)], duration_s=1.0), make_run([make_sample(0.1, 0.5)], duration_s=4.0, round=1)]
    assert compute_figures(runs, Deadlines(), LENGTHS).output_tokens_per_s == pytest.approx(10 / 5)


@pytest.mark.parametrize(
    ("deadlines", "good"),
    [
        (Deadlines(), 2),
        (Deadlines(ttft_s=0.2), 1),
        (Deadlines(e2e_s=0.5), 1),
        (Deadlines(tpot_s=0.099), 0),
        (Deadlines(ttft_s=0.3, tpot_s=0.11, e2e_s=0.8), 2),
    ],
)
def test_goodput_needs_success_and_every_deadline(deadlines: Deadlines, good: int) -> None:
    samples = [make_sample(0.1, 0.5), make_sample(0.3, 0.7), make_sample(failure="503 overloaded")]
    figures = compute_figures([make_run(samples, duration_s=2.0)], deadlines, LENGTHS)
    assert (figures.good, figures.good_per_s) == (good, good / 2.0)


def test_one_token_has_no_time_per_output_token() -> None:
    figures = compute_figures([make_run([make_sample(0.1, tokens=1)])], Deadlines(tpot_s=0.001), (10, 1))
    assert figures.tpot is None
    assert figures.good == 1


def test_nothing_but_failures() -> None:
    record = make_record([make_run([make_sample(failure="connection: ClientOSError")])])
    rows = [
        dict(zip(*pair, strict=True))
        for pair in ((show_load(record, Deadlines())[0], row) for row in show_load(record, Deadlines())[1])
    ]
    assert rows[0]["FAILED"] == "1 x connection: ClientOSError"
    assert rows[0]["OUTPUT TOK/S"] == "0.0"
    assert show_latencies(record)[1][0][2:] == ("-",) * 16


def test_intervals_are_those_of_the_books() -> None:
    assert half_width([1.0]) is None
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert (quantile_t(1.9), quantile_t(30), quantile_t(1e6)) == (12.706, 2.042, 1.96)
    # scipy.stats.ttest_ind([1, 2, 3, 4], [5, 6, 7, 9], equal_var=False): df 5.59, rounded down to 5
    low, high = welch([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 9.0]) or (0.0, 0.0)
    width = 2.571 * (statistics.variance([1, 2, 3, 4]) / 4 + statistics.variance([5, 6, 7, 9]) / 4) ** 0.5
    assert (low, high) == pytest.approx((4.25 - width, 4.25 + width))
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([1.0, 1.0], [3.0, 3.0]) == (2.0, 2.0)
    assert Spread.of([]) is None


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    draw = random.Random(3)
    hits = 0
    for _ in range(400):
        a, b = ([draw.gauss(mean, 2.0) for _ in range(4)] for mean in (10.0, 11.0))
        low, high = welch(a, b) or (0.0, 0.0)
        hits += low <= 1.0 <= high
    assert 0.92 < hits / 400 <= 1.0
    first, second = ([draw.expovariate(1 / mean) for _ in range(300)] for mean in (1.0, 2.0))
    low, high = bootstrap(first, second) or (0.0, 0.0)
    assert 0.0 < low < statistics.fmean(second) - statistics.fmean(first) < high


def _rounds(*speeds: float) -> list[object]:
    """Return complete runs with so many output tokens a second."""
    return [
        make_run([make_sample(0.1, 5 / speed, number=n) for n in range(20)], duration_s=100 / speed, round=at)
        for at, speed in enumerate(speeds)
    ]


def test_compare_says_what_is_beyond_the_noise() -> None:
    plan = make_plan(rounds=3)
    slow, fast, noisy = (make_record(_rounds(*speeds), plan) for speeds in ((10, 10.1, 9.9), (12, 12.1, 11.9), (8, 13, 10)))  # type: ignore[arg-type]
    verdicts = {each.name: each.verdict for each in compare(slow, fast)}
    assert verdicts["output tok/s"] == "better"
    assert verdicts["E2E mean ms"] == "better"
    assert verdicts["TTFT mean ms"] == "within noise"
    assert {each.name: each.verdict for each in compare(fast, slow)}["output tok/s"] == "worse"
    assert {each.name: each.verdict for each in compare(slow, noisy)}["output tok/s"] == "within noise"
    row = next(row for row in show_comparisons(compare(slow, fast))[1] if row[2] == "output tok/s")
    assert (float(row[3]), float(row[4]), row[5]) == (pytest.approx(10, rel=0.01), pytest.approx(12, rel=0.01), "+20.0%")


def test_one_round_is_judged_by_its_requests_alone() -> None:
    a, b = (make_record([make_run([make_sample(0.1 * k, 1.0 * k) for _ in range(9)])]) for k in (1, 2))
    verdicts = {each.name: each.verdict for each in compare(a, b)}
    assert verdicts["TTFT mean ms"] == "worse"
    assert verdicts["output tok/s"] == "unknown: one round"
    assert verdicts["E2E p95 ms"] == "unknown: one round"


def test_compare_notes_what_is_not_alike() -> None:
    a = make_record(_rounds(10, 11), make_plan(rounds=2))  # type: ignore[arg-type]
    b = make_record(_rounds(10, 11), make_plan(rounds=2, answer_tokens=6, seed=9))  # type: ignore[arg-type]
    b.groups["a"] = replace(b.groups["a"], precision="int4")
    b.surroundings = replace(b.surroundings, cpus=4.0)
    told = " ".join(describe_comparison(a, b, compare(a, b)))
    assert "answer_tokens 5 and 6" in told
    assert "seed" not in told
    assert "the machines differ" in told
    assert "a is not the same" in told
    other = make_record([], make_plan(groups=("b",)))
    assert "no group and load in common" in " ".join(describe_comparison(a, other, compare(a, other)))


def test_groups_stand_beside_each_other_with_the_method() -> None:
    plan = make_plan(groups=("a", "b"), loads=(ONE, EIGHT), rounds=2, shared_prefix_tokens=7)
    runs = [
        make_run([make_sample(0.1, 0.5, group=group)], duration_s=0.5 / speed, round=at, group=group, load=load)
        for at in range(2)
        for load, speed in ((ONE, 1), (EIGHT, 4))
        for group in ("a", "b")
    ]
    record = make_record(runs, plan)
    record.groups["b"] = replace(record.groups["b"], engine="onnx", precision="int4", replicas=2, memory_bytes=3 * 2**29)
    titles, rows = show_groups(record)
    b = dict(zip(titles, rows[1], strict=True))
    assert b["ENGINE"] == "onnx x 2"
    assert b["TOK/S, 1 stream"] == "10.0 ± 0.0"
    assert (b["MOST TOK/S"], b["UNDER"], b["MEMORY"]) == ("40.0 ± 0.0", "8 streams", "1.50 GiB")
    method = " ".join(describe_method(record, Deadlines(ttft_s=0.25)))
    for said in (
        "prompts of 10 tokens, the first 7 shared",
        "answers of 5 tokens",
        "2 rounds",
        "seed 1",
        "2 cores, 8.0 GiB",
        "250 ms",
    ):
        assert said in method
    assert "Note" not in method


def test_notes_of_what_went_otherwise() -> None:
    run = make_run([make_sample(0.1, 0.5, group="b"), make_sample(0.1, 0.5, tokens=4)])
    run.complete = False
    run.samples[0].late_s = 0.2
    method = " ".join(describe_method(make_record([run]), Deadlines()))
    for said in (
        "1 answers had prompts",
        "200 ms late",
        "1 requests to a under 1 stream were answered by another group",
        "interrupted",
    ):
        assert said in method


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    record = make_record(_rounds(10, 11), make_plan(rounds=2))  # type: ignore[arg-type]
    write_record(record, file)
    assert read_record(file) == record
    file.write_text("{}")
    with pytest.raises(BenchError, match="no record of `phi-serve bench --json`"):
        read_record(file)
    with pytest.raises(BenchError, match="cannot be read"):
        read_record(tmp_path / "none")
    record.version = 99
    write_record(record, file)
    with pytest.raises(BenchError, match="version 99"):
        read_record(file)
