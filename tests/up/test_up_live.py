"""`phi-serve up` as it is used: starts, failures and ends of a real application with scripted engines."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.live import ROOT, free_port
from tests.up.screen import ROWS, screen

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LIMIT_S = 240
PHI_SERVE = str(Path(sys.executable).parent / "phi-serve")


class Place:
    """A user's folder, and an application with scripted engines in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {"HOME": str(folder), "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)}

    def write(self, import_path: str = "serve_app.app:build_app", **engines: Any) -> Path:
        """Write a configuration of these groups."""
        args = {"models": {"m": {"path": "embedded"}}, "models_dir": None, "engines": engines}
        deployments = [{"name": name, "ray_actor_options": {"num_cpus": 0.1}} for name in ("ingress", *engines)]
        application = {"name": "phi-serve", "route_prefix": "/", "import_path": import_path}
        document = {
            "http_options": {"host": "127.0.0.1", "port": self.port},
            "applications": [application | {"args": args, "deployments": deployments}],
        }
        file = self.folder / "c.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        return file

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of phi-serve to its end."""
        environment = os.environ | self.environment
        return subprocess.run([PHI_SERVE, *words], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    def find_run(self) -> dict[str, Any]:
        """Return what the run file says."""
        found: dict[str, Any] = json.loads((self.folder / f".local/share/phi-serve/run/{self.port}.json").read_text())
        return found

    def list_left(self, leader: int) -> list[str]:
        """Return the commands of the living processes of a session."""
        listed = subprocess.run(["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True).stdout
        split = [line.split(None, 2) for line in listed.splitlines()]
        return [words[2] for words in split if words[0] == str(leader) and not words[1].startswith("Z")]


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="phi-", dir="/tmp"))  # short: Ray's socket paths are limited to 107 bytes
    found = Place(folder)
    yield found
    if list((folder / ".local/share/phi-serve/run").glob("*.json")):
        found.run("down", "--timeout", "0")
    shutil.rmtree(folder, ignore_errors=True)


def test_from_the_command_to_the_box_and_ctrl_c(place: Place) -> None:
    file = place.write(quick={"kind": "fake"}, slow={"kind": "fake", "load_s": 12})
    with screen(place.folder, place.environment) as terminal:
        terminal.type(f"clear; {PHI_SERVE} up {file}")
        terminal.wait("slow", 60)
        rows = terminal.wait("Ctrl-C ends it", LIMIT_S)
        print("\n".join(rows))
        box = [row for row in rows if row.startswith(("│", "╭", "╰"))]
        assert len(rows) < ROWS
        for expected in ("phi-serve is ready", "/ui", "/ops", "/v1", "/metrics", "Ollama", "log", "curl"):
            assert any(expected in row for row in box), expected
        assert [row.split()[:3] for row in rows if row.startswith("✓")] == [
            ["✓", name, "ready"] for name in ("Ray", "ingress", "quick", "slow")
        ]
        assert "about" not in "".join(rows)  # nothing is known of earlier starts
        run = place.find_run()
        example = next(row for row in box if "curl" in row).strip("│ ").removeprefix("try").strip()
        answer = subprocess.run(["bash", "-c", f"{example} -sS"], capture_output=True, text=True, timeout=60, check=True)
        assert "generated_text" in answer.stdout
        status = json.loads(place.run("status", "--json").stdout)
        assert {group["name"]: group["phase"] for group in status["groups"]} == {"quick": "ready", "slow": "ready"}
        logged = place.run("logs", "--group", "quick").stdout.splitlines()
        assert logged
        assert all("(ServeReplica:phi-serve:quick " in line for line in logged)
        again = place.run("up", str(file))
        assert (again.returncode, "runs already" in again.stderr) == (2, True)
        _kill_replica("slow", run["child"]["pid"])  # it loads for longer than a silent replica counts as there
        terminal.wait("slow has no replica left", 60)
        terminal.wait("slow is ready", 120)
        terminal.press("C-c")
        terminal.wait("Stopped.", 60)
        assert place.list_left(run["child"]["pid"]) == []
        terminal.type("echo status $?")
        terminal.wait("status 0", 10)
        terminal.type(f"clear; {PHI_SERVE} up {file}")
        terminal.wait("of about", 60)
        terminal.press("C-c")
        terminal.wait("Stopped.", 60)
        terminal.type("echo status $?")
        terminal.wait("status 130", 10)
    assert not list((place.folder / ".local/share/phi-serve/run").glob("*.json"))


def _kill_replica(group: str, session: int) -> None:
    listed = subprocess.run(["ps", "-eo", "pid=,sid=,args="], capture_output=True, text=True, check=True).stdout
    for pid, sid, name in (line.split(None, 2) for line in listed.splitlines()):
        if sid == str(session) and name.startswith(f"ray::ServeReplica:phi-serve:{group}"):
            os.kill(int(pid), signal.SIGKILL)


def test_a_failed_group_beside_one_that_serves_in_the_background(place: Place) -> None:
    file = place.write(good={"kind": "fake"}, bad={"kind": "fake", "fault": "fail_start"})
    shown = place.run("up", "--detach", str(file))
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "\x1b" not in shown.stdout
    assert "bad: failed (the fake engine is configured to fail at start" in shown.stdout
    assert "phi-serve serves without bad" in shown.stdout
    assert shown.stderr == ""
    run = place.find_run()
    health = httpx.get(f"{place.url}/health", timeout=10).json()
    assert health["groups"]["good"]["phase"] == "ready"
    before = len(place.run("logs", "-n", "100000").stdout.splitlines())
    assert before > 10
    ended = place.run("down", "--json")
    assert json.loads(ended.stdout)["in_order"] is True, ended.stderr
    assert place.list_left(run["child"]["pid"]) == []
    assert place.list_left(run["supervisor"]["pid"]) == []
    assert place.run("down").returncode == 1
    assert len(place.run("logs", "-n", "100000").stdout.splitlines()) > before  # it was kept to the end


def test_nothing_can_be_served(place: Place) -> None:
    shown = place.run("up", str(place.write(bad={"kind": "fake", "fault": "fail_start"})))
    assert shown.returncode == 1
    assert "bad: the fake engine is configured to fail at start" in shown.stdout
    assert str(Path("~/.local/share/phi-serve/logs") / f"{place.port}.log") in shown.stderr
    assert not list((place.folder / ".local/share/phi-serve/run").glob("*.json"))
    gave_up = place.run("up", "--detach", "--json", str(place.write("serve_app.app:no_such_function", a={"kind": "fake"})))
    assert gave_up.returncode == 1
    outcome = json.loads(gave_up.stdout)
    assert outcome["verdict"] == "hopeless"
    assert "no_such_function" in outcome["cause"]
    assert not list((place.folder / ".local/share/phi-serve/run").glob("*.json"))


def test_a_killed_command_leaves_what_down_can_end(place: Place) -> None:
    assert place.run("up", "--detach", str(place.write(a={"kind": "fake"}))).returncode == 0
    run = place.find_run()
    os.kill(run["supervisor"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while place.list_left(run["supervisor"]["pid"]) and time.monotonic() < deadline:
        time.sleep(0.1)  # it is init's child, or the shell's
    ended = place.run("down")
    assert ended.returncode == 0, ended.stderr
    assert place.list_left(run["child"]["pid"]) == []


def _read_answers(place: Place) -> dict[str, Any]:
    answer = httpx.post(f"{place.url}/reasoning", json={"prompt": "x"}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_deployments_good_and_bad_and_undone(place: Place) -> None:
    def deploy(*words: str) -> subprocess.CompletedProcess[str]:
        return place.run("deploy", *words, "--yes", "--timeout", "200")

    file = str(place.write(a={"kind": "fake", "text": "first"}))
    started = place.run("up", "--detach", file)
    assert started.returncode == 0, started.stdout + started.stderr
    assert _read_answers(place)["generated_text"] == "first"
    assert "nothing would change" in deploy(file).stdout
    place.write(a={"kind": "fake", "text": "second"})
    shown = deploy(file)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert 'applications.phi-serve.args.engines.a.text: "first" -> "second"' in shown.stdout
    assert _read_answers(place)["generated_text"] == "second"
    place.write(a={"kind": "fake", "texd": "third"})
    refused = deploy(file)
    assert (refused.returncode, "texd" in refused.stdout) == (2, True)
    place.write("serve_app.app:no_such_function", a={"kind": "fake", "text": "fourth"})
    failed = deploy(file)
    assert (failed.returncode, "no_such_function" in failed.stderr) == (1, True), failed.stdout + failed.stderr
    undone = deploy("--undo")
    assert undone.returncode == 0, undone.stdout + undone.stderr
    assert _read_answers(place)["generated_text"] == "second"
    further = deploy("--undo")
    assert further.returncode == 0, further.stdout + further.stderr
    assert _read_answers(place)["generated_text"] == "first"
    outcomes = [each["outcome"] for each in json.loads(place.run("revisions", "--json").stdout)]
    assert outcomes == ["before", "running", "failed", "running", "running"]
