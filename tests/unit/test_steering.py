"""`phi-serve drain`, `resume`, `restart`, `scale`, `wake`, `cancel` and `status` over a real socket and the operations API."""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from serve_app.access.operator import DEFAULT_FOLDER, Operators
from serve_app.cli import app as command
from serve_app.client.server import ClientError
from serve_app.client.steering import find_target, judge_drain, judge_restart
from serve_app.operations.base import Bounds
from tests.unit.app import App, running

SLOW: dict[str, Any] = {"tokens_per_second": 20, "text": "word " * 3000, "slots": 2}


@asynccontextmanager
async def _listening(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[App, str]]:
    """Serve a slow group on a port, to the user whose folder this is."""
    monkeypatch.setenv("HOME", str(folder))
    Operators(Path(DEFAULT_FOLDER).expanduser()).read_secret()
    settings = {
        "limits": {"request_timeout_s": 100},
        "access": {"keys_file": "~/.local/share/phi-serve/keys.json", "journal_dir": None},
    }
    async with running(settings, a=dict(SLOW)) as app:
        app.cluster.bounds["a"] = Bounds(min=1, max=1)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app.asgi.app, log_level="error", lifespan="off"))
            serving = asyncio.create_task(server.serve([listener]))
            try:
                yield app, f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await serving


async def _phi(url: str, *words: str) -> tuple[int, str, str]:
    """Run a command off the loop; return its exit code, output and error output."""
    result = await asyncio.to_thread(CliRunner().invoke, command, words, env={"PHI_SERVE_HOST": url})
    return result.exit_code, result.stdout, result.stderr


async def _waiting(url: str, *words: str) -> tuple[int, str, str]:
    """Run a command in a process of its own, where it may catch signals; return its exit code, output and error output."""
    piped = asyncio.subprocess.PIPE
    environment = os.environ | {"PHI_SERVE_HOST": url, "COLUMNS": "200"}
    program = Path(sys.executable).parent / "phi-serve"
    process = await asyncio.create_subprocess_exec(program, *words, stdout=piped, stderr=piped, env=environment)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def _ask(url: str, request_id: str) -> int:
    body = {"model": "phi-4-mini-instruct", "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(timeout=30) as client:
        answer = await client.post(f"{url}/v1/chat/completions", json=body, headers={"x-request-id": request_id})
    return answer.status_code


async def _await(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def _report(app: App, **changes: Any) -> None:
    (report,) = app.view.snapshot(time.monotonic()).groups[0].reports[:1]
    app.view.record(replace(report, **changes), time.monotonic())


async def test_drain_waits_for_the_running_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _listening(tmp_path, monkeypatch) as (app, url):
        load = app.view.snapshot(time.monotonic()).groups[0].reports[0].load
        _report(app, load=replace(load, running=2))
        draining = asyncio.create_task(_waiting(url, "drain", "a"))
        await _await(lambda: app.cluster.actions)
        await asyncio.sleep(1.5)  # it would have ended by then
        assert not draining.done()
        _report(app, load=replace(load, running=0))
        code, shown, _ = await draining
        assert (code, "2 requests left" in shown, shown.endswith("draining a: done\n")) == (0, True, True)
        assert (await _phi(url, "resume", "0"))[0] == 0
        assert app.cluster.actions[-1][2] == "0"
        _report(app, load=replace(load, running=1))
        code, _, left = await _waiting(url, "drain", "0", "--timeout", "0")
        assert (code, "1 request left" in left) == (3, True)
        code, shown, _ = await _phi(url, "drain", "a", "--no-wait", "--json")
        assert (code, json.loads(shown)["replicas"]) == (0, ["0"])
        code, _, wrong = await _phi(url, "drain", "b")
        assert (code, "groups: a; replicas: 0" in wrong) == (1, True)


async def test_restart_waits_for_the_new_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _listening(tmp_path, monkeypatch) as (app, url):
        (report,) = app.view.snapshot(time.monotonic()).groups[0].reports
        restarting = asyncio.create_task(_waiting(url, "restart", "a"))
        await _await(lambda: app.cluster.actions)
        await asyncio.sleep(1.5)  # it would have ended by then
        assert not restarting.done()
        del app.view._reports["a"]["0"]
        app.view.record(replace(report, replica_id="1"), time.monotonic())
        code, shown, _ = await restarting
        assert (code, "restarting a: done" in shown, "0 of 1 new ones ready" in shown) == (0, True, True)


async def test_scale_wake_and_cancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _listening(tmp_path, monkeypatch) as (app, url):
        code, shown, _ = await _phi(url, "scale", "a", "2")
        assert (code, shown) == (0, "a may have 2 to 2 replicas (1 to 1 before)\n")
        assert json.loads((await _phi(url, "scale", "a", "1", "4", "--json"))[1])["bounds"] == {"min": 1, "max": 4}
        assert (await _phi(url, "scale", "a", "0"))[0] == 1
        code, _, refused = await _phi(url, "wake", "a")
        assert code == 1 or app.cluster.actions[-1] == ("a", "wake"), refused
        asked = asyncio.create_task(_ask(url, "to-end"))
        await _await(lambda: app.engines["a"].requests)
        assert (await _phi(url, "cancel", "to-end"))[:2] == (0, "cancelled to-end\n")
        assert await asked != 200
        assert (await _phi(url, "cancel", "to-end"))[0] == 1


async def test_status_shows_replicas_to_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _listening(tmp_path, monkeypatch) as (_, url):
        state = json.loads((await _phi(url, "status", "--json"))[1])
        assert [replica["id"] for replica in state["groups"][0]["replicas"]] == ["0"]
        assert "REPLICA" in (await _phi(url, "status"))[1]
        monkeypatch.setenv("HOME", str(tmp_path / "stranger"))
        assert json.loads((await _phi(url, "status", "--json"))[1])["object"] == "health"
        code, _, refused = await _phi(url, "drain", "a")
        assert (code, bool(refused)) == (1, True)


def _state(*replicas: tuple[str, str, int]) -> dict[str, Any]:
    listed = [{"id": name, "phase": phase, "running": running, "waiting": 0} for name, phase, running in replicas]
    return {"groups": [{"name": "a", "replicas": listed}]}


def test_what_is_left_to_wait_for() -> None:
    assert judge_drain(_state(("x", "draining", 2), ("y", "ready", 5)), "a", frozenset("x")) == "2 requests left"
    assert judge_drain(_state(("y", "ready", 5)), "a", frozenset("x")) == ""
    old = frozenset("xy")
    assert judge_restart(_state(("x", "draining", 1), ("y", "ready", 1)), "a", old).startswith("2 of 2 to be replaced, 2 requests")
    assert judge_restart(_state(("z", "ready", 1), ("w", "loading", 0)), "a", old) == "1 of 2 new ones ready"
    assert judge_restart(_state(("z", "ready", 1), ("w", "ready", 0)), "a", old) == ""


def test_a_group_s_name_wins() -> None:
    state = _state(("x", "ready", 0))
    assert find_target(state, "a") == ("a", "")
    assert find_target(state, "x") == ("a", "x")
    with pytest.raises(ClientError):
        find_target(state, "z")
