"""`phi-serve bench` over a real socket against scripted groups: what it measures is what the script does."""

import asyncio
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner

from serve_app.bench.machine import count_cpus, measure_group_bytes, read_memory_bytes
from serve_app.bench.measure import Deadlines, Figures, compute_figures
from serve_app.bench.plan import Load
from serve_app.bench.record import Run, Sample, read_record
from serve_app.bench.table import select_runs
from serve_app.bench.target import Target
from serve_app.cli import app as command
from tests.unit.app import App, running

_SLOW, _FAST = 50.0, 200.0
"""Tokens a second of scripted groups."""
_SHORT = ("--prompt-tokens", "20", "--answer-tokens", "10", "--warmup", "1", "--rounds", "1")


@asynccontextmanager
async def _listening(
    extra: Mapping[str, object] = MappingProxyType({}), /, **engines: dict[str, object]
) -> AsyncIterator[tuple[App, str]]:
    async with running(extra, **engines) as app:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app.asgi.app, log_level="error", lifespan="off"))
            serving = asyncio.create_task(server.serve([listener]))
            try:
                yield app, f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await serving


async def _bench(url: str, *words: str) -> tuple[int, str, str]:
    """Run the command off the loop; return its exit code, output and error output."""
    result = await asyncio.to_thread(CliRunner().invoke, command, ["bench", *words], env={"PHI_SERVE_HOST": url, "COLUMNS": "400"})
    return result.exit_code, result.stdout, result.stderr


def _figures(runs: list[Run]) -> Figures:
    return compute_figures(runs, Deadlines(), (20, 10))


@pytest.mark.slow
async def test_what_it_measures_is_what_the_script_does(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    groups = {name: {"tokens_per_second": speed, "slots": 4} for name, speed in (("slow", _SLOW), ("fast", _FAST))}
    async with _listening(slow=groups["slow"], fast=groups["fast"]) as (app, url):
        code, shown, said = await _bench(url, *_SHORT, "--streams", "1,4", "--requests", "8", "--json", str(file), "--seed", "5")
        assert code == 0, said
        requests = app.engines["slow"].requests
    record = read_record(file)
    assert record.plan.groups == ("slow", "fast")
    assert {(run.group, run.load.streams) for run in record.runs} == {(group, streams) for group in groups for streams in (1, 4)}
    assert len(requests) == 2 * (8 + 1)
    assert {len(request.prompt) for request in requests} == {20}
    assert len({request.prompt for request in requests}) == len(requests)
    assert {request.sampling.max_tokens for request in requests} == {10}
    one, four = Load(streams=1), Load(streams=4)
    for group, speed in (("slow", _SLOW), ("fast", _FAST)):
        figures = _figures(select_runs(record, group, one))
        assert (figures.requests, dict(figures.failures), figures.odd_lengths) == (8, {}, 0)
        assert dict(figures.answered_by) == {group: 8}
        assert figures.ttft
        assert figures.tpot
        assert figures.e2e
        # Never faster than the script; how much slower, the machine decides.
        assert figures.tpot.mean_s > 0.95 / speed
        assert figures.ttft.mean_s > 0.95 / speed
        assert figures.output_tokens_per_s < speed * 1.05
        assert figures.e2e.mean_s == pytest.approx(figures.ttft.mean_s + 9 * figures.tpot.mean_s)
    slow, fast = (_figures(select_runs(record, group, one)) for group in groups)
    assert slow.tpot
    assert fast.tpot
    assert 1.5 < slow.tpot.mean_s / fast.tpot.mean_s < 6  # the script: 4
    assert 1.5 < _figures(select_runs(record, "slow", four)).output_tokens_per_s / slow.output_tokens_per_s < 5  # 4 at best
    for table in ("OUTPUT TOK/S", "TTFT ms mean", "MOST TOK/S", "Method: ", "seed 5"):
        assert table in shown
    assert "round 1, slow, 1 stream: 8 requests" in said  # no terminal: a line per run


@pytest.mark.slow
async def test_a_queue_is_seen_in_the_time_to_the_first_token(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    async with _listening(a={"tokens_per_second": 100.0, "slots": 1}) as (_, url):
        assert (await _bench(url, *_SHORT, "--streams", "1,3", "--requests", "6", "--json", str(file)))[0] == 0
    one, three = (_figures(select_runs(read_record(file), "a", Load(streams=count))) for count in (1, 3))
    assert one.ttft
    assert three.ttft
    assert three.ttft.mean_s > 0.1  # by the script an answer takes 0.1 s, and all but the first two wait for two others
    assert one.tpot
    assert three.tpot
    assert one.tpot.mean_s > 0.0095
    assert three.tpot.mean_s > 0.0095


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
async def test_arrivals_at_a_rate_and_deadlines(tmp_path: Path, endpoint: str) -> None:
    file = tmp_path / "a.json"
    words = ("--rate", "40", "--requests", "20", "--endpoint", endpoint, "--deadline-s", "0.001", "--json", str(file))
    async with _listening(a={"slots": 64}) as (_, url):
        code, shown, said = await _bench(url, *_SHORT, *words)
        assert code == 0, said
    run = read_record(file).runs[0]
    sent = sorted(sample.sent_s for sample in run.samples)
    assert len(sent) == 20
    assert 0.1 < sent[-1] < 5.0  # 0.5 s on average; a pause of the machine delays all
    assert "GOOD/S" in shown
    assert re.search(r"0\.00\s+0%", shown)
    assert "E2E at most 1 ms" in shown


async def test_a_duration_ends_a_run(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    async with _listening(a={}) as (_, url):
        code, shown, said = await _bench(url, *_SHORT, "--streams", "2", "--duration", "0.4", "--json", str(file))
    assert code == 0, said
    samples = read_record(file).runs[0].samples
    assert samples
    assert max(sample.sent_s for sample in samples) < 0.4 * 1.5
    assert "0.4 s in 1 round" in shown


@pytest.mark.parametrize(
    ("engine", "failure"),
    [
        ({"fault": "fail_first"}, "500 generation_failed"),
        ({"fault": "die_midway"}, "stream engine_dead"),
        ({"fault": "truncate"}, "stream incomplete_generation"),
    ],
)
async def test_failures_are_counted_by_code(tmp_path: Path, engine: dict[str, object], failure: str) -> None:
    file = tmp_path / "a.json"
    async with _listening(a=engine, b={}) as (_, url):
        code, shown, said = await _bench(url, *_SHORT, "--groups", "a", "--streams", "1", "--requests", "1", "--json", str(file))
    assert (code, "every request failed" in said) == (1, True)
    run = read_record(file).runs[0]
    # The breaker may open during the warm-up request already; then the group cannot be had.
    assert {sample.failure for sample in run.samples} <= {failure, "503 no_engine"}
    assert f"1 x {run.samples[0].failure}" in shown


async def test_a_request_without_an_end_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    words = ("--streams", "1", "--requests", "1", "--warmup", "0", "--timeout", "1", "--json", str(file))
    async with _listening(a={"fault": "hang"}) as (_, url):
        code, shown, _ = await _bench(url, *_SHORT, *words)
    assert (code, "no end within 1 s" in shown) == (1, True)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\ndata: {", "connection: ClientPayloadError"),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\ndata: {"choices":[{\n\n', "stream without its end"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\noops", "502"),
        (b"no HTTP", "connection: ClientResponseError"),
    ],
)
async def test_broken_answers_are_failures(answer: bytes, failure: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(answer)
        writer.close()

    sample = Sample(number=0, sent_s=0.0)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Target(url, {}, "chat", 30.0) as target:
        await target.ask(b"{}", "a", sample)
    assert sample.failure == failure


async def test_failures_beside_successes_do_not_fail_the_command(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    extra = {"limits": {"max_concurrent_generations": 2, "max_body_bytes": 100_000, "request_timeout_s": 5}}
    async with _listening(extra, a={"tokens_per_second": 100.0}) as (_, url):
        code, shown, said = await _bench(url, *_SHORT, "--streams", "6", "--requests", "12", "--json", str(file))
    assert code == 0, said
    failures = _figures(read_record(file).runs).failures
    assert set(failures) == {"503 overloaded"}
    assert f"{failures['503 overloaded']} x 503 overloaded" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--groups", "nope"), "the group 'nope' is not ready; ready are: a"),
        (("--answer-tokens", "5000"), "are more than the 4096 of the group 'a'"),
        (("--prompt-tokens", "2"), "2 prompt tokens are too few"),
        (("--json", "/nowhere/a.json"), "there is no folder /nowhere"),
    ],
)
async def test_mistakes_are_one_line(words: tuple[str, ...], said: str) -> None:
    async with _listening(a={}) as (_, url):
        code, shown, fault = await _bench(url, *words)
    assert (code, shown) == (1, "")
    assert said in fault


@pytest.mark.parametrize(
    "words", [("--streams", "0"), ("--streams", "1.5"), ("--rate", "x"), ("--requests", "1", "--duration", "1")]
)
async def test_wrong_options(words: tuple[str, ...]) -> None:
    assert (await _bench("127.0.0.1:9", *words))[0] == 2


async def test_where_nothing_listens_or_no_group_is_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    code, _, fault = await _bench(f"127.0.0.1:{port}")
    assert (code, "nothing answers at" in fault) == (1, True)
    async with _listening(a={"absent": True}) as (_, url):
        code, _, fault = await _bench(url)
    assert (code, "no group is ready to generate" in fault) == (1, True)


@pytest.mark.slow
async def test_ctrl_c_prints_what_there_is(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    async with _listening(a={"tokens_per_second": 100.0}) as (_, url):
        words = (*_SHORT, "--streams", "1", "--requests", "5", "--rounds", "200", "--json", str(file), "--url", url)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", "from serve_app.cli import app; app()", "bench", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout
        assert process.stderr
        assert b"round 1" in await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        shown, said = (await process.communicate()) if process.returncode is None else (b"", b"")
    assert process.returncode == 130, said.decode()
    assert b"Traceback" not in said
    assert b"OUTPUT TOK/S" in shown
    record = read_record(file)
    assert record.runs[0].complete
    assert sum(len(run.samples) for run in record.runs) >= 5


@pytest.mark.slow
async def test_two_measurements_beside_each_other(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, speed in zip(files, (50.0, 200.0), strict=True):
        async with _listening(a={"tokens_per_second": speed}) as (_, url):
            words = ("--prompt-tokens", "20", "--answer-tokens", "10", "--rounds", "3", "--requests", "4", "--streams", "1")
            assert (await _bench(url, *words, "--json", str(file)))[0] == 0
    code, shown, _ = await _bench("", "compare", *map(str, files))
    assert code == 0
    assert re.search(r"output tok/s .* better", shown)
    compared: list[dict[str, Any]] = json.loads((await _bench("", "compare", *map(str, files), "--json"))[1])
    tpot = next(each for each in compared if each["figure"] == "TPOT mean ms")
    assert tpot["b_is"] == "better"
    assert tpot["interval"][1] < 0
    code, _, fault = await _bench("", "compare", str(files[0]), str(tmp_path / "none"))
    assert (code, "cannot be read" in fault) == (1, True)


def test_the_machine_is_described() -> None:
    assert 0 < count_cpus() < 10_000
    assert read_memory_bytes() > 2**28
    assert measure_group_bytes("no-such-group") is None
