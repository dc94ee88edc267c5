"""`phi-serve up`, `logs`, `down` and `status`: what is pure in them. tests/up/ runs them."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.client import start_times
from serve_app.client.picture import Moving, Plain, format_s, list_addresses, print_box, print_causes
from serve_app.client.progress import ASLEEP, FAILED, INGRESS, RAY, READY, Progress, Verdict, list_changes, summarize
from serve_app.client.run_file import Process, RunFile, find_process, list_running
from serve_app.client.run_log import Follower, RunLog, clean, find_group, read_last, select
from serve_app.client.status import render
from serve_app.client.target import Target, describe_target
from serve_app.manifests.files import read_serve_environment
from tests.unit.test_validate import MISTAKES, SHIPPED

STARTED = "2026 INFO worker.py:2029 -- Started a local Ray instance. View the dashboard at http://127.0.0.1:8265 "
BY_INGRESS = "(ServeReplica:phi-serve:ingress pid=7) "


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def _health(status: str = "not_ready", **phases: Any) -> dict[str, Any]:
    groups = {name: phase if isinstance(phase, dict) else {"phase": phase, "replicas": 1} for name, phase in phases.items()}
    return {"status": status, "groups": groups}


def _begin(*groups: str, **expected_s: float) -> Progress:
    return Progress.begin(groups or ("a", "b"), expected_s)


def _target(**changes: Any) -> Target:
    document = yaml.safe_load(SHIPPED)
    document["applications"][0]["args"] |= changes
    return describe_target(Path("serve_config.yaml"), yaml.safe_dump(document))


def test_a_start_goes_from_ray_to_the_groups() -> None:
    start = _begin()
    assert {name: part.phase for name, part in start.parts.items()} == {RAY: "starting", INGRESS: "", "a": "", "b": ""}
    start.push_line(STARTED, 7)
    assert start.dashboard == "http://127.0.0.1:8265"
    assert (start.parts[RAY].ready_s, start.parts[INGRESS].phase) == (7, "starting")
    start.push_health(_health(a="starting", b={"phase": "loading", "reason": "exporting int4: 35 %"}), 9)
    assert (start.parts["b"].reason, start.verdict) == ("exporting int4: 35 %", Verdict.UNDER_WAY)
    start.push_health(_health(a="ready", b="warming"), 11)
    assert start.verdict is Verdict.UNDER_WAY
    start.push_health(_health("healthy", a="ready", b="ready"), 12)
    assert (start.verdict, start.list_seconds()) == (Verdict.SERVING, {RAY: 7, INGRESS: 9, "a": 11, "b": 12})


def test_a_failed_group_is_not_waited_for() -> None:
    start = _begin()
    start.push_health(_health(a="ready", b={"phase": "failed", "reason": "no file", "fix": "download it"}), 3)
    assert start.verdict is Verdict.SERVING
    start.push_health(_health(a="ready", b="loading"), 4)  # it tries again
    assert (start.verdict, start.parts["b"].reason, start.parts["b"].fix) == (Verdict.SERVING, "no file", "download it")
    start.push_health(_health(a="ready", b="ready"), 5)
    assert start.parts["b"].phase == READY


def test_nothing_can_serve() -> None:
    start = _begin()
    start.push_health(_health(a="failed", b="loading"), 3)
    assert start.verdict is Verdict.UNDER_WAY
    start.push_health(_health(a="loading", b="failed"), 3)
    assert start.verdict is Verdict.HOPELESS
    unusable = _begin()
    models = {"m": {"status": "failed", "reason": "tokenizer.json is odd", "groups": ["a", "b"]}}
    unusable.push_health(_health("failed", a="loading", b="loading") | {"models": models}, 3)
    assert unusable.verdict is Verdict.HOPELESS
    assert "tokenizer.json is odd" in unusable.cause


def test_one_of_two_models_cannot_be_loaded() -> None:
    start = _begin()
    models = {"m": {"status": "failed", "reason": "it is odd", "groups": ["a"]}, "n": {"status": "healthy", "groups": ["b"]}}
    start.push_health(_health("degraded", a="loading", b="ready") | {"models": models}, 3)
    assert (start.verdict, start.parts["a"].phase) == (Verdict.SERVING, FAILED)
    assert "it is odd" in start.parts["a"].reason


def test_a_sleeping_group_is_not_waited_for() -> None:
    start = _begin()
    start.push_health(_health(a="ready", b="asleep"), 3)
    assert (start.verdict, start.parts["b"].phase) == (Verdict.SERVING, ASLEEP)


def test_what_serve_gave_up() -> None:
    message = "Deploying app 'x' failed with exception:\nTraceback (most recent call last):\n  File ...\nValueError: no keys\n"
    start = _begin()
    start.push_serve({"status": "DEPLOYING", "deployments": {}})
    start.push_serve({"status": "DEPLOY_FAILED", "message": message, "deployments": {}})
    assert (start.verdict, "ValueError: no keys" in start.cause) == (Verdict.HOPELESS, True)
    other = _begin()
    other.push_health(_health(a="ready", b="starting"), 3)
    state = {"status": "DEPLOY_FAILED", "message": "", "deployments": {"b": {"status": "DEPLOY_FAILED", "message": "it died"}}}
    other.push_serve(state)
    assert (other.verdict, other.parts["b"].phase) == (Verdict.SERVING, FAILED)
    assert "it died" in other.parts["b"].reason


def test_only_the_ingress_names_the_ticket() -> None:
    start = _begin()
    link = "http://localhost:8000/ops#ticket=abc"
    start.push_line(f"(ServeReplica:phi-serve:a pid=8) {link}", 1)
    assert start.ticket == ""
    start.push_line(f"{BY_INGRESS}operations: {link}", 1)
    start.push_line(f"{BY_INGRESS}Group b failed: no memory", 1)
    assert (start.ticket, start.parts["b"].reason) == ("abc", "no memory")
    assert dict(list_addresses(start, _target(), "log"))["operations"] == link


def test_summaries() -> None:
    assert summarize("A\n  File\nValueError: x\n") == "ValueError: x"
    assert summarize("") == "it gave no reason"
    assert [format_s(each) for each in (0.4, 59.4, 60, 605)] == ["0 s", "59 s", "1 min 00 s", "10 min 05 s"]


def test_changes_after_the_start() -> None:
    before = {"a": {"phase": "ready", "replicas": 2}, "b": {"phase": "ready", "replicas": 1}}
    assert list_changes(before, before) == []
    assert list_changes({}, before) == []
    after = {"a": {"phase": "ready", "replicas": 1}, "b": {"phase": "starting", "replicas": 0}}
    assert list_changes(before, after) == ["a has 1 replica ready, 2 before", "b has no replica left; it starts again"]
    assert list_changes(after, {"b": {"phase": "failed", "replicas": 0, "reason": "no"}}) == ["b is failed: no"]
    assert list_changes(after, before) == ["a has 2 replicas ready, 1 before", "b is ready with 1 replica"]


def _text(console: Console) -> str:
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


class _Out(StringIO):
    encoding = "utf-8"


def _console(*, is_terminal: bool) -> Console:
    return Console(file=_Out(), force_terminal=is_terminal, width=80, highlight=False, color_system=None)


def test_the_moving_rows() -> None:
    start = _begin("a", "b", a=33.0)
    start.push_line(STARTED, 7)
    start.push_health(_health(a={"phase": "loading", "reason": "exporting int4: 35 %"}, b={"phase": "ready", "replicas": 2}), 9)
    console = _console(is_terminal=True)
    console.print(Moving(console, start, lambda: 20.0))
    ray, ingress, first, second = _text(console).splitlines()
    assert ray.split() == ["✓", "Ray", "ready", "7", "s"]
    assert ingress.split()[1:3] == ["ingress", "ready"]
    assert first.split()[1:] == ["a", "loading", "20", "s", "of", "about", "33", "s", "exporting", "int4:", "35", "%"]
    assert second.split() == ["✓", "b", "ready", "9", "s", "2", "replicas"]


def test_plain_lines_have_no_control_codes_and_stand_once() -> None:
    start = _begin()
    console = _console(is_terminal=False)
    with Plain(console, start, lambda: 5.0) as picture:
        start.push_line(STARTED, 5)
        for percent in (10, 20):
            start.push_health(_health(a={"phase": "loading", "reason": f"exporting int4: {percent} %"}, b="starting"), 6)
            picture.update()
        start.push_health(_health(a="ready", b={"phase": "failed", "reason": "[no] file", "fix": "download it"}), 7)
    print_box(console, start, _target(), "some.log")
    text = _text(console)
    assert "\x1b" not in text
    assert text.count("a: loading") == 1
    assert "b: failed ([no] file -> download it)" in text
    assert "phi-serve serves without b" in text
    assert "log         some.log" in text


def test_the_box_fits_and_longer_lines_stay_whole() -> None:
    start = _begin()
    start.push_health(_health("healthy", a="ready", b="ready"), 7)
    console = _console(is_terminal=True)
    print_box(console, start, _target(), "x" * 100)
    lines = _text(console).splitlines()
    assert all(len(line) <= 80 for line in lines if line[0] in "╭│╰")
    assert lines[-1] == f"log: {'x' * 100}"
    assert "http://localhost:8000/ui" in _text(console)


def test_causes_are_printed_whole() -> None:
    start = _begin()
    start.push_health(_health(a={"phase": "failed", "reason": "r" * 300, "fix": "f"}, b="failed"), 1)
    console = _console(is_terminal=False)
    print_causes(console, start)
    assert f"a: {'r' * 300}\n  -> f" in _text(console)


def test_what_a_configuration_says(home: Path) -> None:
    target = _target()
    assert (target.url, target.public_url, target.ollama_url) == (
        "http://127.0.0.1:8000",
        "http://localhost:8000",
        "http://localhost:8000",
    )
    assert target.groups["onnx"] == "onnx onnx embedded fp32"
    assert target.example.startswith("curl localhost:8000/reasoning -d")
    keys = home / "keys.json"
    keys.write_text("{}")
    with_keys = _target(access={"keys_file": str(keys)}, public_url="https://llm.example.com", ollama_port={"port": 11434})
    assert "authorization: Bearer $PHI_SERVE_API_KEY" in with_keys.example
    assert with_keys.ollama_url == "http://127.0.0.1:11434"
    assert with_keys.public_url == "https://llm.example.com"
    assert not _target(access={"keys_file": str(keys), "open": True}).asks_for_keys


def test_expected_times_are_the_median_of_the_last_starts(home: Path) -> None:
    assert start_times.read_expected_s() == {}
    for took_s in (100, 10, 12, 11, 13, 12):
        start_times.remember({"a": took_s})
    assert start_times.read_expected_s() == {"a": 12}
    (file,) = (home / ".local/share/phi-serve/starts").iterdir()
    file.write_text('{"a": "x", "b": [1]}')
    assert start_times.read_expected_s() == {"b": 1}
    file.write_text("{")
    assert start_times.read_expected_s() == {}


def _run_file(supervisor: Process, child: Process, port: int = 8000) -> RunFile:
    fields = {"config": "/c.yaml", "url": f"http://127.0.0.1:{port}", "log": "/l", "version": "0"}
    return RunFile(port=port, supervisor=supervisor, child=child, **fields)


def test_a_run_file_knows_its_process_from_a_later_one() -> None:
    own = find_process(os.getpid())
    assert own is not None
    other = Process(own.pid, "another boot/1")
    run = _run_file(own, other)
    run.write()
    assert run.path.stat().st_mode & 0o777 == 0o600
    assert list_running() == [run]
    _run_file(other, other).remove()  # of an application that had the port before
    assert run.path.exists()
    run.remove()
    assert not run.path.exists()
    dead = _run_file(other, other)
    dead.write()
    assert list_running() == []
    assert not dead.path.exists()
    dead.path.write_text("{}")
    assert list_running() == []


def test_a_process_that_only_waits_to_be_reaped_does_not_live() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert find_process(child.pid) is None
    child.wait()


def test_the_log_is_private_clean_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.client.run_log._MAX_BYTES", 2000)
    log = RunLog(9)
    follower = Follower(log.path)
    read: list[str] = []
    for number in range(400):
        log.write(f"\x1b[36mline {number}\x1b[0m with 100 % of ink\r\n")
        if number % 50 == 0:
            read += follower.read()
    read += follower.read()
    follower.close()
    log.close()
    assert {file.stat().st_mode & 0o777 for file in log.path.parent.iterdir()} == {0o600}
    assert len(list(log.path.parent.iterdir())) == 5
    assert read_last(log.path, 2, None) == ["line 398 with 100 % of ink", "line 399 with 100 % of ink"]
    assert len(read_last(log.path, 1000, None)) < 400
    assert len(read) == len(set(read))
    assert read[-1] == "line 399 with 100 % of ink"
    RunLog(9).close()
    assert log.path.stat().st_size == 0


def test_lines_of_a_group() -> None:
    lines = [
        "(ServeReplica:phi-serve:a pid=1) x",
        "(ServeController pid=2) a",
        f"{BY_INGRESS}y",
        "(ServeReplica:phi-serve:ab pid=3) z",
    ]
    assert list(select(lines, "a")) == lines[:1]
    assert list(select(lines, None)) == lines
    assert find_group(lines[2]) == ("ingress", 7)
    assert clean("10 %\r20 %\n") == "20 %"


@pytest.mark.parametrize("named", MISTAKES)
def test_a_mistake_ends_the_start_before_anything_runs(named: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    before, after, problem, _ = MISTAKES[named]
    file = home / "c.yaml"
    file.write_text(SHIPPED.replace(before, after, 1))
    children = _list_children()
    shown = CliRunner().invoke(app, ["up", str(file)])
    assert shown.exit_code == 2
    assert problem in shown.output.replace("\n  ", " ")
    assert _list_children() == children
    assert not list((home / ".local/share/phi-serve").glob("logs/*"))


def _list_children() -> str:
    return " ".join(file.read_text() for file in Path("/proc/self/task").glob("*/children"))


def test_the_commands_where_nothing_was_started() -> None:
    for words in (["down"], ["logs"]):
        shown = CliRunner().invoke(app, words)
        assert (shown.exit_code, "phi-serve up" in shown.stderr) == (1, True)


def test_logs_of_the_last_start() -> None:
    log = RunLog(9)
    for line in (f"{BY_INGRESS}one", "two"):
        log.write(line)
    log.close()
    assert CliRunner().invoke(app, ["logs"]).stdout == f"{BY_INGRESS}one\ntwo\n"
    assert CliRunner().invoke(app, ["logs", "-n", "1"]).stdout == "two\n"
    shown = CliRunner().invoke(app, ["logs", "--group", "ingress", "--json"]).stdout
    assert json.loads(shown) == {"group": "ingress", "pid": 7, "line": f"{BY_INGRESS}one"}


def test_the_status_table() -> None:
    replica = {"id": "x1", "node": "n", "phase": "ready", "since_s": 10.0, "pss_bytes": 2**20, "running": 1, "waiting": 0}
    group = {"name": "a", "phase": "ready", "ready_replicas": 1, "running": 1, "waiting": 0, "tokens_per_second": 3.0}
    state = {"now": 75.0, "status": "healthy", "groups": [group | {"model": "m", "breaker": "open", "replicas": [replica]}]}
    console = _console(is_terminal=False)
    console.print(render(state))
    assert "1 min 05 s" in _text(console)
    assert "circuit breaker open" in _text(console)


def test_the_environment_of_serve() -> None:
    assert read_serve_environment()["RAY_SERVE_PROXY_USE_GRPC"] == "1"
