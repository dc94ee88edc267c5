"""The endpoints of operators over the whole application: who may use them, what they show, what they do."""

import asyncio
import io
import json
import time
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serve_app.access.operator import Operators
from serve_app.operations.base import Bounds
from serve_app.operations.service import Operations
from serve_app.reports import ReplicaAction
from serve_app.types import Phase
from tests.live import ROOT
from tests.unit.app import App, LocalCluster, running

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
SLOW: dict[str, Any] = {"tokens_per_second": 20, "text": "word " * 200, "slots": 2}


@pytest.fixture
def operators(tmp_path: Path) -> Operators:
    return Operators(tmp_path / "operator")


def extra(tmp_path: Path) -> dict[str, Any]:
    return {"access": {"keys_file": str(tmp_path / "keys.json"), "journal_dir": None}}


def sign(operators: Operators) -> dict[str, str]:
    return {"x-operator-token": operators.read_secret()}


async def read_events(response: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def ask(app: App, path: str, operators: Operators, body: Any = None) -> Any:
    headers = sign(operators)
    path = f"/v1/operations{path}"
    response = await (app.client.get(path, headers=headers) if body is None else app.client.post(path, json=body, headers=headers))
    assert response.status_code == 200, response.text
    return response.json()


async def test_without_keys_it_takes_the_secret_or_a_ticket_that_works_once(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), a={}) as app:
        refused = await app.client.get("/v1/operations/state")
        assert refused.status_code == 401
        assert "phi-serve ops" in refused.json()["error"]["message"]
        session = "/v1/operations/session"
        assert (await app.client.get(session)).json() == {
            "object": "operations.session",
            "needs": "ticket",
            "may_operate": False,
        }
        ticket = operators.issue_ticket()
        granted = await app.client.post(session, json={"ticket": ticket})
        assert granted.status_code == 200
        token = {"x-operator-token": granted.json()["token"]}
        assert (await app.client.get("/v1/operations/state", headers=token)).status_code == 200
        assert (await app.client.get(session, headers=token)).json()["may_operate"]
        assert (await app.client.post(session, json={"ticket": ticket})).status_code == 401
        for wrong in ("", "../token", "x" * 24):
            assert (await app.client.post(session, json={"ticket": wrong})).status_code == 401
        assert (await app.client.get("/v1/operations/state", headers=sign(operators))).status_code == 200


async def test_other_origins_and_machines_may_not_operate(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), a={}) as app:
        drain = "/v1/operations/groups/a/drain"
        for wrong in ({"origin": "http://localhost:3000"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
            refused = await app.client.post(drain, json={}, headers=sign(operators) | wrong)
            assert refused.status_code == 403, wrong
        assert not app.cluster.actions
        away = httpx.ASGITransport(app.asgi.app, client=("10.0.0.7", 1))
        async with httpx.AsyncClient(transport=away, base_url="http://test") as client:
            refused = await client.get("/v1/operations/state", headers=sign(operators))
            assert refused.status_code == 403
            assert "keys create" in refused.json()["error"]["message"]
        own = sign(operators) | {"origin": "http://test", "sec-fetch-site": "same-origin"}
        assert (await app.client.post(drain, json={}, headers=own)).status_code == 200


async def test_a_session_ends(tmp_path: Path) -> None:
    now = 1_000_000_000.0
    operators = Operators(tmp_path, clock=lambda: now)
    session = operators.redeem(operators.issue_ticket())
    assert operators.allows(session.token)
    expires, _, signature = session.token.partition(".")
    assert not operators.allows(f"{int(expires) + 1}.{signature}")
    now = session.expires_at
    assert not operators.allows(session.token)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert not operators.allows("")
    assert not operators.allows("Ω")


async def test_the_state_names_groups_replicas_and_live_requests(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), a=SLOW, b={"absent": True}) as app:
        app.cluster.bounds = {"a": Bounds(min=1, max=3)}
        headers = {"x-request-id": "mine"}
        asked = asyncio.create_task(app.client.post("/v1/chat/completions", json=HI, headers=headers))
        await _await(lambda: any(each.completion_tokens for each in app.gateway.book.live()))
        state = await ask(app, "/state", operators)
        (live,) = state["live"]
        assert live | {"id": "mine", "phase": "answering", "group": "a", "key": "anonymous", "ingress": "here"} == live
        assert live["attempts"] == 1
        assert live["completion_tokens"] > 0
        assert live["prompt_tokens"] > 0
        app.gateway.book.cancel("mine")
        await asked
        groups = {group["name"]: group for group in state["groups"]}
        assert groups["a"]["phase"] == "ready"
        assert groups["a"]["bounds"] == {"min": 1, "max": 3}
        assert groups["a"]["kv_total_tokens"] == 2 * groups["a"]["context_length"]
        assert groups["b"]["phase"] == "starting"
        assert state["status"] == "degraded"
        assert [ingress["id"] for ingress in state["ingresses"]] == ["here"]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_operator_cancels_a_request(tmp_path: Path, operators: Operators, *, stream: bool) -> None:
    async with running(extra(tmp_path), a=SLOW, b=SLOW) as app:
        asked = asyncio.create_task(
            app.client.post("/v1/chat/completions", json=HI | {"stream": stream}, headers={"x-request-id": "mine"})
        )
        await _await(lambda: any(each.completion_tokens for each in app.gateway.book.live()))
        assert (await ask(app, "/requests/mine/cancel", operators, {}))["cancelled"]
        answer = await asyncio.wait_for(asked, 5)
        if stream:
            assert "cancelled this request" in answer.text.splitlines()[-2] + answer.text
        else:
            assert answer.status_code == 503
            assert answer.headers["x-should-retry"] == "false"
            assert "operator cancelled" in answer.json()["error"]["message"]
        found = await ask(app, "/requests/mine", operators)
        assert found["outcome"] == "cancelled_by_operator"
        assert [attempt["outcome"] for attempt in found["timeline"]] == ["cancelled_by_operator"]  # no other group took over
        assert found["completion_tokens"] > 0
        gone = await app.client.post("/v1/operations/requests/mine/cancel", json={}, headers=sign(operators))
        assert gone.status_code == 404
        assert app.gateway.active == 0


async def test_a_request_is_found_with_its_candidates_and_attempts(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), routing={"prefer": {"general": ["a", "b"]}}, a={"fault": "fail_first"}, b={}) as app:
        answered = await app.client.post("/v1/chat/completions", json=HI | {"task": None}, headers={"x-task": "general"})
        request_id = answered.headers["x-request-id"]
        found = await ask(app, f"/requests/{request_id}", operators)
        assert [(each["group"], each["outcome"]) for each in found["timeline"]] == [("a", "generation_failed"), ("b", "ok")]
        assert {each["group"] for each in found["candidates"]} == {"a", "b"}
        assert found | {"outcome": "ok", "group": "b", "reason": "failover", "attempts": 2, "task": "general"} == found
        assert found["completion_tokens"] == answered.json()["usage"]["completion_tokens"]
        listed = await ask(app, "/requests", operators)
        assert [each["id"] for each in listed["data"]] == [request_id]
        missing = await app.client.get("/v1/operations/requests/none", headers=sign(operators))
        assert missing.status_code == 404


async def test_requests_of_every_ingress_are_merged(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), a={}) as app, running(extra(tmp_path), a={}) as other:
        await other.client.post("/v1/chat/completions", json=HI, headers={"x-request-id": "there"})
        await app.client.post("/v1/chat/completions", json=HI, headers={"x-request-id": "here"})
        assert other.cluster.operations is not None
        app.cluster.others.append(other.cluster.operations)
        listed = await ask(app, "/requests", operators)
        assert [each["id"] for each in listed["data"]] == ["here", "there"]
        assert (await ask(app, "/requests/there", operators))["outcome"] == "ok"
        assert len((await ask(app, "/state", operators))["ingresses"]) == 2


async def test_a_drained_group_gets_nothing_until_it_resumes(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), routing={"prefer": {"general": ["a", "b"]}}, a={}, b={}) as app:
        drained = await ask(app, "/groups/a/drain", operators, {})
        assert drained == {"object": "operations.group", "group": "a", "replicas": ["0"], "running": 0}
        headers = {"x-task": "general"}
        assert (await app.client.post("/v1/chat/completions", json=HI, headers=headers)).headers["x-engine"] == "b"
        health = (await app.client.get("/health")).json()
        assert health["groups"]["a"]["phase"] == "draining"
        await ask(app, "/groups/a/resume", operators, {"replica": "0"})
        assert (await app.client.post("/v1/chat/completions", json=HI, headers=headers)).headers["x-engine"] == "a"
        for path, body in (("/groups/c/drain", {}), ("/groups/a/drain", {"replica": "9"})):
            refused = await app.client.post(f"/v1/operations{path}", json=body, headers=sign(operators))
            assert refused.status_code == 404
            assert refused.json()["error"]["message"]


async def test_a_draining_replica_is_avoided_beside_a_ready_one(tmp_path: Path) -> None:
    async with running(extra(tmp_path), a={}) as app:
        (report,) = app.view.snapshot(time.monotonic()).groups[0].reports
        app.view.record(replace(report, replica_id="1", phase=Phase.DRAINING), time.monotonic())
        await app.client.post("/v1/chat/completions", json=HI)
        assert app.engines["a"].requests[-1].placement.avoid == {"1"}


async def test_replicas_restart_one_after_the_other(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), a={}) as app:
        (report,) = app.view.snapshot(time.monotonic()).groups[0].reports
        app.view.record(replace(report, replica_id="1"), time.monotonic())
        begun = await ask(app, "/groups/a/restart", operators, {})
        assert begun["restarting"] == ["0", "1"]
        twice = await app.client.post("/v1/operations/groups/a/restart", json={}, headers=sign(operators))
        assert twice.status_code == 400
        await _await(lambda: app.cluster.actions == [("a", ReplicaAction.RESTART, "0")])
        await asyncio.sleep(1.2)
        assert len(app.cluster.actions) == 1  # "1" waits until the successor of "0" is ready
        del app.view._reports["a"]["0"]
        await asyncio.sleep(0.8)
        assert len(app.cluster.actions) == 1
        app.view.record(replace(report, replica_id="2"), time.monotonic())
        await _await(lambda: app.cluster.actions[1:] == [("a", ReplicaAction.RESTART, "1")])
        del app.view._reports["a"]["1"]


async def _await(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.02)


async def test_the_number_of_replicas_has_bounds(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), a={}) as app:
        app.cluster.bounds = {"a": Bounds(min=1, max=2)}
        scaled = await ask(app, "/groups/a/scale", operators, {"min": 3})
        assert scaled["bounds"] == {"min": 3, "max": 3}
        assert scaled["before"] == {"min": 1, "max": 2}
        assert app.cluster.bounds == {"a": Bounds(min=3, max=3)}
        for wrong in ({"min": 0}, {"min": 2, "max": 1}, {"min": -1}, {"min": "1"}, {}):
            refused = await app.client.post("/v1/operations/groups/a/scale", json=wrong, headers=sign(operators))
            assert refused.status_code == 400, wrong
        refused = await app.client.post("/v1/operations/groups/a/wake", json={}, headers=sign(operators))
        assert refused.status_code == 400
        assert "sleeping" in refused.json()["error"]["message"]


async def test_the_configuration_is_compared_with_a_file(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), a={}) as app:
        shown = await ask(app, "/configuration", operators)
        assert shown["args"]["routing"]["max_attempts"]
        args = json.loads(json.dumps(shown["args"]))
        args["routing"]["max_attempts"] += 1
        file = yaml.safe_dump({"applications": [{"args": args}]})
        path, headers = "/v1/operations/configuration/diff", sign(operators)
        compared = await app.client.post(path, content=file, headers=headers)
        now = shown["args"]["routing"]["max_attempts"]
        assert compared.json()["changes"] == [{"path": "routing.max_attempts", "running": now, "file": now + 1}]
        for wrong in ("a: [", "{}", "applications: [{args: {engines: {x: {kind: nothing}}}}]", b"\xff"):
            refused = await app.client.post(path, content=wrong, headers=headers)
            assert refused.status_code == 400, wrong
        shipped = await app.client.post(path, content=(ROOT / "serve_config.yaml").read_text(), headers=headers)
        assert any(change["path"].startswith("engines.onnx") for change in shipped.json()["changes"])


async def test_the_stream_says_hello_and_then_what_happens(
    tmp_path: Path, operators: Operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.operations.feed.EVERY_S", 0.05)
    monkeypatch.setattr("serve_app.operations.feed.LONGEST_S", 1.0)
    async with running(extra(tmp_path), a={}) as app:
        await app.client.post("/v1/chat/completions", json=HI, headers={"x-request-id": "before"})
        sampling = app.cluster.operations
        assert sampling is not None

        async def ask_meanwhile() -> None:
            await asyncio.sleep(0.4)
            await app.client.post("/v1/chat/completions", json=HI, headers={"x-request-id": "after"})
            sampling._history.sample(app.gateway.fleet(), app.gateway.book.outcomes, 10)
            await app.client.post("/v1/chat/completions", json=HI)
            sampling._history.sample(app.gateway.fleet(), app.gateway.book.outcomes, 20)

        asking = asyncio.create_task(ask_meanwhile())
        async with app.client.stream("GET", "/v1/operations", headers=sign(operators)) as response:
            events = [event async for event in read_events(response)]
        await asking
    names = [name for name, _ in events]
    assert names[0] == "hello"
    assert [request["id"] for request in events[0][1]["requests"]] == ["before"]
    assert events[0][1]["state"]["groups"][0]["name"] == "a"
    finished = [request["id"] for name, content in events if name == "requests" for request in content["finished"]]
    assert finished.count("after") == 1
    assert "before" not in finished
    (point,) = [content for name, content in events if name == "point"]
    assert point["ok"] == 1
    assert point["flow"] == {"general": {"a": 1}}


async def test_a_stream_costs_nothing_without_viewers(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), a={}) as app:
        asked: list[str] = []
        original = app.cluster.ask_ingresses

        async def count(question: str, argument: Any = None) -> list[Any]:
            asked.append(question)
            return await original(question, argument)

        app.cluster.ask_ingresses = count  # type: ignore[method-assign]
        await app.client.get("/health")
        await asyncio.sleep(0.2)
        assert not asked


async def test_the_bundle_holds_no_text_and_no_secret(tmp_path: Path, operators: Operators) -> None:
    async with running(extra(tmp_path), a={}) as app:
        body = {"messages": [{"role": "user", "content": "a very private prompt"}]}
        answer = await app.client.post("/v1/chat/completions", json=body, headers={"x-request-id": "the-request"})
        assert answer.status_code == 200
        response = await app.client.get("/v1/operations/bundle", headers=sign(operators))
        with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
            texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert {"configuration.json", "state.json", "requests.json", "history.json", "versions.json", "metrics.txt"} <= texts.keys()
    everything = "\n".join(texts.values())
    assert "the-request" in everything
    assert "private" not in everything
    assert operators.read_secret() not in everything


async def test_an_ingress_without_a_gateway_shows_why() -> None:
    async with running(a={}) as app:
        cluster = LocalCluster(app.view)
        operations = Operations(app.gateway.settings, app.gateway.fleet, lambda: None, cluster)
        cluster.operations = operations
        state = await operations.show_state()
        assert state["status"] == "failed"
        assert await operations.list_requests(5) == []
        assert b"phi_serve_replica_phase" in operations.render_metrics()


async def test_a_stream_that_fails_ends_and_the_next_one_works(
    tmp_path: Path, operators: Operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.operations.feed.LONGEST_S", 3.0)
    async with running(extra(tmp_path), a={}) as app:
        original, asked = app.cluster.ask_ingresses, 0

        async def fail_once(question: str, argument: Any = None) -> list[Any]:
            nonlocal asked
            asked += question == "pulse" and bool(argument)
            if asked == 1:
                asked += 1
                raise RuntimeError("a broadcast broke")
            return await original(question, argument)

        app.cluster.ask_ingresses = fail_once  # type: ignore[method-assign]
        monkeypatch.setattr("serve_app.operations.feed.EVERY_S", 0.05)
        names = []
        for _ in range(2):
            async with app.client.stream("GET", "/v1/operations", headers=sign(operators)) as response:
                names.append([name async for name, _ in read_events(response)])
    assert "state" not in names[0]
    assert names[1].count("state") > 1


async def test_signing_in_leaves_a_line_in_the_audit_log(
    tmp_path: Path, operators: Operators, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="serve_app.audit")
    async with running(extra(tmp_path), a={}) as app:
        ticket = operators.issue_ticket()
        await app.client.post("/v1/operations/session", json={"ticket": ticket})
    assert any("/v1/operations/session" in line and ticket not in line for line in caplog.messages)
