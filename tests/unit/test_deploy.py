"""`phi-serve deploy`: differences, outcomes and revisions. tests/up/ runs it against a real Ray."""

import copy
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.client import revisions
from serve_app.client.config_diff import ABSENT, Change, compare
from serve_app.client.deploy import Outcome, await_outcome, compare_deployed, judge, read_deployed
from serve_app.client.revisions import find_previous, keep, list_revisions
from tests.unit.test_validate import MISTAKES, SHIPPED


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def _config(**args: Any) -> dict[str, Any]:
    return {"applications": [{"name": "app", "args": args, "deployments": [{"name": "a", "num_replicas": 1}, {"name": "b"}]}]}


def _details(config: dict[str, Any], status: str = "RUNNING", **deployments: str) -> dict[str, Any]:
    (application,) = config["applications"]
    states = {name: {"status": each, "message": f"{name} says why"} for name, each in deployments.items()}
    entry = {"status": status, "message": "A\n  File\nValueError: no", "deployments": states, "deployed_app_config": application}
    options = {"host": "127.0.0.1", "port": 8000, "root_path": ""}
    return {"proxy_location": "EveryNode", "http_options": options, "grpc_options": None, "applications": {"app": entry}}


def test_differences_have_the_names_of_deployments() -> None:
    before, after = _config(x=1, gone={"y": [1, 2]}), _config(x=2, new=None)
    after["applications"][0]["deployments"] = [{"name": "b"}, {"name": "a", "num_replicas": 3}]
    assert compare(before, after) == [
        Change("applications.app.args.gone.y", [1, 2], ABSENT),
        Change("applications.app.args.new", ABSENT, None),
        Change("applications.app.args.x", 1, 2),
        Change("applications.app.deployments.a.num_replicas", 1, 3),
    ]
    assert compare(before, before) == []


def test_serve_s_defaults_are_no_difference() -> None:
    running = read_deployed(_details(_config(x=1)))
    assert running["applications"] == _config(x=1)["applications"]
    assert compare_deployed(running, _config(x=1)) == []
    assert compare_deployed(running, _config(x=1) | {"http_options": {"port": 8000}}) == []
    changed = compare_deployed(running, _config(x=1) | {"http_options": {"port": 9000}})
    assert changed == [Change("http_options.port", 8000, 9000)]


def test_serve_copies_its_logging_options_to_the_application() -> None:
    config = _config(x=1)
    config["applications"][0]["logging_config"] = {"enable_access_log": False}
    running = read_deployed(_details(config))
    assert compare_deployed(running, _config(x=1) | {"logging_config": {"enable_access_log": False}}) == []


def test_outcomes() -> None:
    config = _config()
    assert judge(_details(config, a="HEALTHY", b="HEALTHY")) == (Outcome("running", ""), "")
    outcome, waits = judge(_details(config, "DEPLOYING", a="HEALTHY", b="UPDATING"))
    assert (outcome, waits) == (None, "app DEPLOYING: b UPDATING")
    outcome, _ = judge(_details(config, "DEPLOY_FAILED", a="HEALTHY", b="DEPLOY_FAILED"))
    assert outcome == Outcome("failed", "b: b says why")
    outcome, _ = judge(_details(config, "DEPLOY_FAILED"))
    assert outcome == Outcome("failed", "ValueError: no")


def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.client.deploy._UNSETTLED_S", 0)
    told: list[str] = []
    outcome = await_outcome(lambda: _details(_config(), "DEPLOYING", a="UPDATING"), 0, told.append)
    assert outcome == Outcome("unknown", "app DEPLOYING: a UPDATING")
    assert told == ["  app DEPLOYING: a UPDATING"]


def _keep(number: int, outcome: str = "running", repeats: int | None = None) -> None:
    keep(address="here", source="c.yaml", outcome=outcome, config={"n": number}, repeats=repeats)


def test_undo_goes_back_step_by_step() -> None:
    def undo(running: int) -> int | None:
        found = find_previous(list_revisions("here"), lambda revision: revision.config == {"n": running})
        return None if found is None else found.config["n"]

    assert undo(1) is None
    _keep(1, "before")
    _keep(2)
    _keep(3, "failed")
    _keep(4)
    assert (undo(4), undo(3), undo(9)) == (2, 2, 4)
    _keep(2, repeats=2)
    assert undo(2) == 1
    _keep(6)
    assert undo(6) == 4
    assert list_revisions("elsewhere") == []


def test_revisions_are_bounded_and_private(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(revisions, "MAX_REVISIONS", 3)
    for number in range(5):
        _keep(number)
    assert [each.number for each in list_revisions()] == [3, 4, 5]
    files = list((home / ".local/share/phi-serve/revisions").iterdir())
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    files[0].write_text("{")
    assert len(list_revisions()) == 2


class _Dashboard(BaseHTTPRequestHandler):
    """Keeps what it was sent, and asks for a token."""

    running = _config(x=1)
    puts: list[Any] = []  # noqa: RUF012  # the server makes an instance per request

    def do_GET(self) -> None:
        is_known = self.headers["authorization"] == "Bearer ray-token"
        running = copy.deepcopy(self.running)
        if logging := running.get("logging_config"):  # as Serve does
            running["applications"][0].setdefault("logging_config", logging)
        self._answer(200 if is_known else 401, _details(running, a="HEALTHY", b="HEALTHY"))

    def do_PUT(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.puts.append(sent)
        type(self).running = sent
        self._answer(200, {})

    def _answer(self, status: int, content: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("serve_app.client.deploy._UNSETTLED_S", 0)
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("ray-token\n")
    _Dashboard.running, _Dashboard.puts = _config(x=1), []
    with HTTPServer(("127.0.0.1", 0), _Dashboard) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _deploy(address: str, *words: str) -> Any:
    return CliRunner().invoke(app, ["deploy", *words, "--address", address])


def test_the_command(address: str, home: Path) -> None:
    file = home / "c.yaml"
    file.write_text(SHIPPED)
    shown = _deploy(address, str(file), "--dry-run")
    assert (shown.exit_code, "applications.app.args.x: 1 -> (not set)" in shown.stdout) == (0, True)
    shown = _deploy(address, str(file))
    assert (shown.exit_code, "--yes is needed" in shown.stderr, _Dashboard.puts) == (1, True, [])
    shown = _deploy(address, str(file), "--yes")
    assert (shown.exit_code, _Dashboard.puts) == (0, [yaml.safe_load(SHIPPED)]), shown.output
    assert [each.outcome for each in list_revisions()] == ["before", "running"]
    again = _deploy(address, str(file), "--yes").stdout  # the port's options stay as they are until Serve starts anew
    assert "http_options.request_timeout_s: (not set) -> 660  (only by a restart" in again
    assert "nothing would change" in again
    undone = json.loads(_deploy(address, "--undo", "--yes", "--json").stdout)
    assert (undone["outcome"]["result"], undone["revision"]) == ("running", 3)
    assert _Dashboard.puts[-1]["applications"] == _config(x=1)["applications"]
    assert "no earlier revision" in _deploy(address, "--undo", "--yes").stderr
    listed = json.loads(CliRunner().invoke(app, ["revisions", "--json"]).stdout)
    assert [(each["number"], each["repeats"]) for each in listed] == [(1, None), (2, None), (3, 1)]


@pytest.mark.parametrize("named", MISTAKES)
def test_a_mistake_is_refused_before_anything_is_sent(
    named: str, address: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    before, after, _, _ = MISTAKES[named]
    file = home / "c.yaml"
    file.write_text(SHIPPED.replace(before, after, 1))
    assert _deploy(address, str(file), "--yes").exit_code == 2
    assert _Dashboard.puts == []


def test_a_dashboard_that_does_not_answer_or_knows_no_token(address: str, home: Path) -> None:
    file = home / "c.yaml"
    file.write_text(SHIPPED)
    shown = _deploy("http://127.0.0.1:9", str(file))
    assert (shown.exit_code, "--address" in shown.stderr) == (1, True)
    (home / ".ray/auth_token").unlink()
    assert "RAY_AUTH_TOKEN" in _deploy(address, str(file)).stderr
