"""`phi-serve bench`: measures the running application, and compares two measurements."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from serve_app.bench.compare import compare, describe_comparison, show_comparisons
from serve_app.bench.machine import count_cpus, list_versions, measure_group_bytes, read_memory_bytes, read_processor
from serve_app.bench.measure import Deadlines
from serve_app.bench.plan import BenchError, Load, Plan, Step
from serve_app.bench.record import GroupFacts, Record, Surroundings, read_record, write_record
from serve_app.bench.session import Watch, calibrate, choose_groups, run_plan
from serve_app.bench.table import Table, describe_method, describe_progress, show_groups, show_latencies, show_load
from serve_app.bench.target import Target
from serve_app.client.commands import Url, print_table, report_errors
from serve_app.client.server import DEFAULT_URL, ClientError, authorize, parse_address

bench = typer.Typer(help="Measure the running application over HTTP, or compare two measurements.")
_console = Console(stderr=True, highlight=False, soft_wrap=True)
_INTERRUPTED = 130
_LOCAL_HOSTS = {"127.0.0.1", "localhost", "::1"}


class EndpointOption(StrEnum):
    """The endpoints that can be measured."""

    CHAT = "chat"
    COMPLETIONS = "completions"


_Deadline = Annotated[float | None, typer.Option("--deadline-s", min=0, help="Goodput: the whole answer within so many seconds.")]
_TtftDeadline = Annotated[
    float | None, typer.Option("--ttft-deadline-s", min=0, help="Goodput: the first token within so many seconds.")
]
_TpotDeadline = Annotated[
    float | None, typer.Option("--tpot-deadline-ms", min=0, help="Goodput: so many milliseconds a token at most.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the options say, before the application was asked for its groups."""

    url: str
    groups: tuple[str, ...]
    plan: Plan


@bench.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    groups: Annotated[str, typer.Option(help="Groups, with commas; left out: all that are ready.")] = "",
    streams: Annotated[str, typer.Option(help="Loads: so many requests under way at once.")] = "1,8,32",
    rate: Annotated[str, typer.Option(help="Loads instead of streams: requests arriving per second, at random (Poisson).")] = "",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, the chat template included.")] = 128,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 128,
    shared_prefix: Annotated[int, typer.Option(min=0, help="Tokens that begin all prompts; 0: all differ, so no cache helps.")] = 0,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Requests of a run; left out: two a stream, 8 at least; 60 at a rate.")
    ] = None,
    duration: Annotated[float | None, typer.Option(min=0.1, help="Seconds of a run, instead of --requests.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each group and load; their spread is the noise.")] = 3,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before each run that are not counted.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Of the answers.")] = 0.0,
    endpoint: Annotated[EndpointOption, typer.Option(help="The endpoint of OpenAI's API.")] = EndpointOption.CHAT,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a request counts as failed.")] = 600.0,
    seed: Annotated[int | None, typer.Option(help="Of prompts and arrivals; left out: a new one, shown in the method.")] = None,
    deadline_s: _Deadline = None,
    ttft_deadline_s: _TtftDeadline = None,
    tpot_deadline_ms: _TpotDeadline = None,
    to_json: Annotated[Path | None, typer.Option("--json", help="Write every sample to this file.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Measure the running application's groups over HTTP. The key is taken from PHI_SERVE_API_KEY."""
    if context.invoked_subcommand is not None:
        return
    if requests is not None and duration is not None:
        raise typer.BadParameter("give --requests or --duration, not both", param_hint="--duration")
    loads = [Load(rate=each) for each in _read_numbers(rate, "--rate")] or [
        Load(streams=int(each)) for each in _read_numbers(streams, "--streams", whole=True)
    ]
    plan = Plan(
        groups=(),
        loads=tuple(dict.fromkeys(loads)),
        rounds=rounds,
        requests=requests,
        duration_s=duration,
        warmup=warmup,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        shared_prefix_tokens=shared_prefix,
        temperature=temperature,
        endpoint=endpoint.value,
        timeout_s=timeout,
        seed=secrets.randbelow(1 << 31) if seed is None else seed,
    )
    deadlines = Deadlines(
        ttft_s=ttft_deadline_s, tpot_s=None if tpot_deadline_ms is None else tpot_deadline_ms / 1e3, e2e_s=deadline_s
    )
    wanted = tuple(dict.fromkeys(name.strip() for name in groups.split(",") if name.strip()))
    with _report_errors():
        if to_json is not None and not to_json.absolute().parent.is_dir():
            raise ClientError(f"there is no folder {to_json.absolute().parent} for --json")
        _measure(_Wish(url=parse_address(url), groups=wanted, plan=plan), deadlines, to_json)


@bench.command("compare")
def compare_files(
    a: Annotated[Path, typer.Argument(help="A file that --json wrote.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Show two measurements side by side, and which differences are beyond the noise."""
    with _report_errors():
        first, second = read_record(a), read_record(b)
    found = compare(first, second)
    if as_json:
        shown = [
            {"group": each.group, "load": each.load.label, "figure": each.name, "a": each.a, "b": each.b}
            | {"interval": each.interval, "b_is": each.verdict}
            for each in found
        ]
        typer.echo(json.dumps(shown, indent=1, allow_nan=False))
        return
    print_table(*show_comparisons(found))
    for line in describe_comparison(first, second, found):
        typer.echo(f"\n{line}")


def _read_numbers(text: str, option: str, *, whole: bool = False) -> list[float]:
    """Return positive numbers that stand between commas; raises `BadParameter`."""
    try:
        numbers = [float(int(each) if whole else float(each)) for each in text.split(",") if each.strip()]
    except ValueError:
        numbers = [0.0]
    if not all(0 < each < float("inf") for each in numbers):
        raise typer.BadParameter(
            f"'{text}' is not {'whole ' if whole else ''}numbers above 0 with commas between", param_hint=option
        )
    return numbers


def _measure(wish: _Wish, deadlines: Deadlines, to_json: Path | None) -> None:
    """Run the plan and print its tables; after Ctrl-C those of what there is."""
    record = Record(plan=wish.plan, surroundings=_describe_surroundings(wish.url), groups={}, runs=[])
    interrupted = False
    try:
        with _progress(record) as watch:
            asyncio.run(_fill(record, wish, watch))
    except KeyboardInterrupt:
        interrupted = True
    if not any(run.samples for run in record.runs):
        if interrupted:
            raise typer.Exit(_INTERRUPTED)
        raise ClientError("nothing was measured: no request was sent within the duration")
    if to_json is not None:
        write_record(record, to_json)
    _print(record, deadlines)
    if interrupted:
        raise typer.Exit(_INTERRUPTED)
    if all(sample.failure for run in record.runs for sample in run.samples):
        raise ClientError("every request failed; the table shows with which codes")


async def _fill(record: Record, wish: _Wish, watch: Watch) -> None:
    async with Target(wish.url, authorize(), wish.plan.endpoint, wish.plan.timeout_s) as target:
        groups = await choose_groups(target, wish.groups)
        record.plan = replace(wish.plan, groups=tuple(groups))
        record.groups.update(groups)
        makers = await calibrate(target, record.plan, groups)
        await run_plan(target, record, makers, watch)
    if urlsplit(wish.url).hostname in _LOCAL_HOSTS:
        for name, facts in record.groups.items():
            record.groups[name] = _measure_memory(name, facts)


def _measure_memory(name: str, facts: GroupFacts) -> GroupFacts:
    return replace(facts, memory_bytes=measure_group_bytes(name))


def _describe_surroundings(url: str) -> Surroundings:
    return Surroundings(
        url=url,
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        cpus=count_cpus(),
        memory_bytes=read_memory_bytes(),
        processor=read_processor(),
        versions=list_versions(),
    )


@contextmanager
def _progress(record: Record) -> Iterator[Watch]:
    """Show progress on a terminal; elsewhere a line per finished run."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_console, disable=not _console.is_terminal, refresh_per_second=2) as progress:
        bar = progress.add_task("asking for the groups and counting words", total=None)
        reported = 0

        def watch(step: Step, done: int, total: int | None) -> None:
            nonlocal reported
            if done == 0:
                reported = _report_runs(record, reported)
            title = f"round {step.round + 1} of {record.plan.rounds}, {step.group}, {step.load.label}"
            progress.update(bar, description=title, completed=done, total=total)

        yield watch
        _report_runs(record, reported)


def _report_runs(record: Record, reported: int) -> int:
    """Print the runs that ended since the last call; return how many were printed in all."""
    for run in record.runs[reported:]:
        _console.print(describe_progress(run, record), markup=False)
    return len(record.runs)


def _print(record: Record, deadlines: Deadlines) -> None:
    tables: list[Table] = [show_load(record, deadlines), show_latencies(record), show_groups(record)]
    for table in tables:
        print_table(*table)
        typer.echo("")
    for line in describe_method(record, deadlines):
        typer.echo(line)


@contextmanager
def _report_errors() -> Iterator[None]:
    """Print a failure and exit with status 1."""
    with report_errors():
        try:
            yield
        except BenchError as error:
            raise ClientError(str(error)) from error
