"""Shows a record as tables of text: the load, the latencies, the groups beside each other, and the method. Pure."""

from collections.abc import Callable, Iterator

from serve_app.bench.intervals import half_width
from serve_app.bench.measure import PERCENTILES, Deadlines, Figures, Spread, compute_figures
from serve_app.bench.plan import PATHS, Load
from serve_app.bench.record import Record, Run

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Titles and rows."""
_MS = 1e3
_LATE_S = 0.05


def select_runs(record: Record, group: str, load: Load) -> list[Run]:
    """Return a group's runs under a load that have samples."""
    return [run for run in record.runs if (run.group, run.load) == (group, load) and run.samples]


def compute_all(record: Record, deadlines: Deadlines) -> dict[tuple[str, Load], Figures]:
    """Return the figures of each group and load that was measured."""
    lengths = (record.plan.prompt_tokens, record.plan.answer_tokens)
    return {
        (group, load): compute_figures(runs, deadlines, lengths)
        for group in record.plan.groups
        for load in record.plan.loads
        if (runs := select_runs(record, group, load))
    }


def show_load(record: Record, deadlines: Deadlines) -> Table:
    """Return the table of requests, failures and throughput."""
    good = ("GOOD/S", "GOOD") if deadlines.any else ()
    titles = (
        "GROUP",
        "LOAD",
        "REQUESTS",
        "FAILED",
        "OUTPUT TOK/S",
        "TOTAL TOK/S",
        "REQUESTS/S",
        *good,
        "ANSWERED BY",
        "RETRIED",
        "CACHED",
    )
    rows = []
    for (group, load), each in compute_all(record, deadlines).items():
        failed = ", ".join(f"{count} x {code}" for code, count in sorted(each.failures.items())) or "0"
        answered = ", ".join(name if len(each.answered_by) == 1 else f"{name} {count}" for name, count in each.answered_by.items())
        within = (f"{each.good_per_s:.2f}", f"{each.good / each.requests:.0%}") if good else ()
        speeds = (f"{each.output_tokens_per_s:.1f}", f"{each.total_tokens_per_s:.1f}", f"{each.requests_per_s:.2f}")
        last = (answered or "-", str(each.retried), f"{each.cached_share:.0%}")
        rows.append((group, load.label, str(each.requests), failed, *speeds, *within, *last))
    return titles, rows


def show_latencies(record: Record) -> Table:
    """Return the table of latencies in milliseconds."""
    heads = ("mean", *(f"p{each}" for each in PERCENTILES))
    titles = ["GROUP", "LOAD"]
    for name in ("TTFT ms", "TPOT ms", "ITL ms", "E2E ms"):
        titles += [f"{name} {heads[0]}", *heads[1:]]
    rows = []
    for (group, load), each in compute_all(record, Deadlines()).items():
        rows.append(
            (group, load.label, *(cell for part in (each.ttft, each.tpot, each.itl, each.e2e) for cell in _show_spread(part)))
        )
    return tuple(titles), rows


def _show_spread(spread: Spread | None) -> tuple[str, ...]:
    if spread is None:
        return ("-",) * (1 + len(PERCENTILES))
    return tuple(_show_ms(each) for each in (spread.mean_s, *spread.percentiles_s))


def _show_ms(seconds: float) -> str:
    return f"{seconds * _MS:.0f}" if seconds * _MS >= 100 else f"{seconds * _MS:.1f}"


def show_groups(record: Record) -> Table:
    """Return the groups of the application beside each other: speed under the first load, the best speed, memory."""
    first = record.plan.loads[0]
    titles = (
        "GROUP",
        "MODEL",
        "ENGINE",
        "PRECISION",
        f"TOK/S, {first.label}",
        "TTFT ms",
        "TPOT ms",
        "MOST TOK/S",
        "UNDER",
        "MEMORY",
    )
    measured = compute_all(record, Deadlines())
    rows: list[tuple[str, ...]] = []
    for group, facts in record.groups.items():
        own = {load: figures for (name, load), figures in measured.items() if name == group}
        if first not in own:
            continue
        best = max(own, key=lambda load: own[load].output_tokens_per_s)
        latencies = (_show_mean(own[first].ttft), _show_mean(own[first].tpot))
        speeds = [_show_speed(record, group, load, own[load].output_tokens_per_s) for load in (first, best)]
        memory = "-" if facts.memory_bytes is None else f"{facts.memory_bytes / 2**30:.2f} GiB"
        replicas = f" x {facts.replicas}" if facts.replicas > 1 else ""
        rows.append(
            (group, facts.model, facts.engine + replicas, facts.precision, speeds[0], *latencies, speeds[1], best.label, memory)
        )
    return titles, rows


def _show_mean(spread: Spread | None) -> str:
    return "-" if spread is None else _show_ms(spread.mean_s)


def _show_speed(record: Record, group: str, load: Load, speed: float) -> str:
    """Return tokens per second, with the interval of the rounds where there are several."""
    width = half_width(list_rounds(record, group, load, lambda figures: figures.output_tokens_per_s))
    return f"{speed:.1f}" + ("" if width is None else f" ± {width:.1f}")


def list_rounds(record: Record, group: str, load: Load, figure: Callable[[Figures], float | None]) -> list[float]:
    """Return a figure of each complete run of a group under a load."""
    lengths = (record.plan.prompt_tokens, record.plan.answer_tokens)
    found = [figure(compute_figures([run], Deadlines(), lengths)) for run in select_runs(record, group, load) if run.complete]
    return [each for each in found if each is not None]


def describe_method(record: Record, deadlines: Deadlines) -> Iterator[str]:
    """Yield the lines beneath the tables: what was measured, where, and what must be known to read the figures."""
    plan, where = record.plan, record.surroundings
    per_run = f"{plan.duration_s:g} s" if plan.duration_s else "the requests of the table"
    prefix = f", the first {plan.shared_prefix_tokens} shared" if plan.shared_prefix_tokens else ", all different"
    versions = ", ".join(f"{name} {number}" for name, number in where.versions.items())
    yield (
        f"Method: POST {PATHS[plan.endpoint]}, streamed, to each group by x-engine; prompts of {plan.prompt_tokens} tokens"
        f"{prefix}; answers of {plan.answer_tokens} tokens (ignore_eos), temperature {plan.temperature:g}; {per_run} in "
        f"{plan.rounds} round{_s(plan.rounds)}, the groups in turn; {plan.warmup} request{_s(plan.warmup)} before each run not "
        f"counted; seed {plan.seed}."
    )
    yield (
        f"Machine of the client: {where.processor}, {where.cpus:g} cores, {where.memory_bytes / 2**30:.1f} GiB; {versions}; "
        f"application at {where.url}; {where.began}."
    )
    yield (
        "TTFT: sent to first chunk. E2E: to the last chunk. TPOT: (E2E - TTFT) / (tokens - 1). ITL: between chunks, which may "
        "carry several tokens. As `vllm bench serve`. Tok/s: tokens of successful requests / time from the first request to the "
        "last answer's end."
    )
    if deadlines.any:
        limits = ((deadlines.ttft_s, "TTFT"), (deadlines.tpot_s, "TPOT"), (deadlines.e2e_s, "E2E"))
        yield "Good: " + ", ".join(f"{name} at most {limit * _MS:g} ms" for limit, name in limits if limit is not None) + "."
    if plan.rounds > 1:
        yield "±: half of the 95 % interval of the mean over the rounds (Student's t)."
    if any(facts.memory_bytes is not None for facts in record.groups.values()):
        yield "Memory: proportional set size of the group's processes on this machine, after the load."
    yield from _warn(record)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _warn(record: Record) -> Iterator[str]:
    measured = compute_all(record, Deadlines())
    if odd := sum(figures.odd_lengths for figures in measured.values()):
        yield f"Note: {odd} answers had prompts or answers of other lengths than planned."
    late = max((figures.late_s for figures in measured.values()), default=0.0)
    if late > _LATE_S:
        yield f"Note: the client sent requests up to {late * _MS:.0f} ms late; the machine is too busy for these arrivals."
    for (group, load), figures in measured.items():
        if others := sum(count for name, count in figures.answered_by.items() if name != group):
            yield f"Note: {others} requests to {group} under {load.label} were answered by another group."
    if not all(run.complete for run in record.runs):
        yield "Note: interrupted; the last run is short, and requests that were under way are not counted."


def describe_progress(run: Run, record: Record) -> str:
    """Return a finished run in one line."""
    figures = compute_figures([run], Deadlines(), (record.plan.prompt_tokens, record.plan.answer_tokens))
    failed = sum(figures.failures.values())
    means = [_show_mean(part) for part in (figures.ttft, figures.tpot)]
    return (
        f"round {run.round + 1}, {run.group}, {run.load.label}: "
        f"{figures.requests} requests{f', {failed} failed' if failed else ''}, "
        f"{figures.output_tokens_per_s:.1f} tok/s, TTFT {means[0]} ms, TPOT {means[1]} ms"
    )
