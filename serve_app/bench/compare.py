"""Compares two records: every figure side by side, its difference, and whether the difference is beyond the noise. Pure.

Noise: where both have two rounds or more, the 95 % interval of the difference of the rounds' means (Welch's t), since rounds differ
for all reasons that a machine has. With one round, latencies have the bootstrap interval over requests, which misses what differs
between runs, and throughput has none. A difference is beyond the noise when its interval does not contain 0.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

from serve_app.bench.intervals import bootstrap, welch
from serve_app.bench.measure import Deadlines, Figures, Spread, compute_figures, e2e_s, tpot_s, ttft_s
from serve_app.bench.plan import Load, Plan
from serve_app.bench.record import Record, Run, Sample
from serve_app.bench.table import Table, list_rounds, select_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measure:
    """A figure that is compared."""

    name: str
    more_is_better: bool
    figure: Callable[[Figures], float | None]
    sample: Callable[[Sample], float | None] | None = None
    """The value of one request, whose mean the figure is."""
    factor: float = 1.0
    """From the figure's unit to the one shown."""


_SAME = tuple(each.name for each in fields(Plan) if each.name not in ("groups", "loads", "seed"))
"""What two plans should have in common."""


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean_s


_MEASURES = (
    _Measure(name="output tok/s", more_is_better=True, figure=lambda each: each.output_tokens_per_s),
    _Measure(name="requests/s", more_is_better=True, figure=lambda each: each.requests_per_s),
    _Measure(name="TTFT mean ms", more_is_better=False, figure=lambda each: _mean(each.ttft), sample=ttft_s, factor=1e3),
    _Measure(name="TPOT mean ms", more_is_better=False, figure=lambda each: _mean(each.tpot), sample=tpot_s, factor=1e3),
    _Measure(name="E2E mean ms", more_is_better=False, figure=lambda each: _mean(each.e2e), sample=e2e_s, factor=1e3),
    _Measure(
        name="E2E p95 ms", more_is_better=False, figure=lambda each: each.e2e.percentiles_s[1] if each.e2e else None, factor=1e3
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure in both records."""

    group: str
    load: Load
    name: str
    a: float
    b: float
    interval: tuple[float, float] | None
    """95 %, of b - a; None: it cannot be known."""
    more_is_better: bool

    @property
    def verdict(self) -> str:
        """Return whether B differs from A."""
        if self.interval is None:
            return "unknown: one round"
        low, high = self.interval
        if low <= 0 <= high:
            return "within noise"
        return "better" if (low > 0) == self.more_is_better else "worse"


def compare(a: Record, b: Record) -> list[Comparison]:
    """Return the figures of all groups and loads that both have."""
    found = []
    for group in a.plan.groups:
        for load in a.plan.loads:
            if not (
                group in b.plan.groups and load in b.plan.loads and select_runs(a, group, load) and select_runs(b, group, load)
            ):
                continue
            for measure in _MEASURES:
                if (made := _compare_one(a, b, (group, load), measure)) is not None:
                    found.append(made)
    return found


def _compare_one(a: Record, b: Record, place: tuple[str, Load], measure: _Measure) -> Comparison | None:
    lengths = [(each.plan.prompt_tokens, each.plan.answer_tokens) for each in (a, b)]
    runs = [select_runs(each, *place) for each in (a, b)]
    totals = [measure.figure(compute_figures(own, Deadlines(), length)) for own, length in zip(runs, lengths, strict=True)]
    if totals[0] is None or totals[1] is None:
        return None
    first, second = (list_rounds(each, *place, measure.figure) for each in (a, b))
    interval = welch(first, second)
    if interval is None and measure.sample is not None:
        interval = bootstrap(_list_values(runs[0], measure.sample), _list_values(runs[1], measure.sample))
    scaled = None if interval is None else (interval[0] * measure.factor, interval[1] * measure.factor)
    return Comparison(
        group=place[0],
        load=place[1],
        name=measure.name,
        a=totals[0] * measure.factor,
        b=totals[1] * measure.factor,
        interval=scaled,
        more_is_better=measure.more_is_better,
    )


def _list_values(runs: Sequence[Run], value: Callable[[Sample], float | None]) -> list[float]:
    samples = [sample for run in runs for sample in run.samples if not sample.failure]
    return [found for sample in samples if (found := value(sample)) is not None]


def show_comparisons(found: Sequence[Comparison]) -> Table:
    """Return the table of comparisons."""
    rows: list[tuple[str, ...]] = []
    for each in found:
        share = f"{(each.b - each.a) / each.a:+.1%}" if each.a else "-"
        interval = "-" if each.interval is None else f"{each.interval[0]:+.4g} .. {each.interval[1]:+.4g}"
        rows.append((each.group, each.load.label, each.name, f"{each.a:.4g}", f"{each.b:.4g}", share, interval, each.verdict))
    return ("GROUP", "LOAD", "FIGURE", "A", "B", "DIFFERENCE", "95 % OF B - A", "B IS"), rows


def describe_comparison(a: Record, b: Record, found: Sequence[Comparison]) -> Iterator[str]:
    """Yield how the noise was judged, and what the two records do not have in common."""
    yield (
        "Noise: 95 % interval of the difference; of the rounds' means by Welch's t where both have two complete rounds or more, "
        "else of requests by bootstrap, which misses what differs between runs (throughput of one round: unknown). "
        "Of 20 figures without a difference, one falls outside. Whatever else changed on the machine between A and B counts too."
    )
    names = [name for name in _SAME if getattr(a.plan, name) != getattr(b.plan, name)]
    if names:
        both = ", ".join(f"{name} {getattr(a.plan, name)} and {getattr(b.plan, name)}" for name in names)
        yield f"Note: A and B were not measured alike: {both}."
    places = [(each.processor, each.cpus, each.memory_bytes) for each in (a.surroundings, b.surroundings)]
    if places[0] != places[1]:
        yield f"Note: the machines differ: {places[0][0]}, {places[0][1]:g} cores and {places[1][0]}, {places[1][1]:g} cores."
    for group in a.groups.keys() & b.groups.keys():
        first, second = ((facts.model, facts.precision, facts.replicas) for facts in (a.groups[group], b.groups[group]))
        if first != second:
            yield f"Note: {group} is not the same: {first} and {second} (model, precision, replicas)."
    alone = set(a.plan.groups) ^ set(b.plan.groups)
    if alone:
        yield f"Note: only one of them has: {', '.join(sorted(alone))}."
    if not found:
        yield "Note: they have no group and load in common."
