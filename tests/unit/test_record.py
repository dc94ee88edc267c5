"""What answers, metrics and the log tell about the way of a request."""

import json
import logging

import pytest

from serve_app.accounting import REQUEST_LOG
from serve_app.config import RoutingSettings
from serve_app.types import Task
from tests.unit.app import running

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "a secret question"}]}


async def test_the_scored_candidates_come_only_when_asked_for() -> None:
    async with running(a={"absent": True}, b={}) as app:
        plain = await app.client.post(CHAT, json=ASK)
        debug = await app.client.post(CHAT, json=ASK | {"stream": True}, headers={"x-debug-route": "true"})
    assert "x-route-candidates" not in plain.headers
    assert json.loads(debug.headers["x-route-candidates"]) == [
        {"group": "a", "obstacle": "not-ready", "ahead": 0, "wait_s": None, "finish_s": None},
        {"group": "b", "obstacle": None, "ahead": 0, "wait_s": None, "finish_s": None},
    ]


async def test_requests_and_attempts_are_counted_by_task_engine_reason_and_outcome() -> None:
    async with running(a={"fault": "fail_first"}, b={"text": "one two"}) as app:
        await app.client.post(CHAT, json=ASK, headers={"x-task": "math"})
        await app.client.post(CHAT, json=ASK | {"stream": True}, headers={"x-engine": "a"})
        metrics = (await app.client.get("/metrics")).text
    requests = 'phi_serve_requests_total{engine="%s",ingress="",model="phi-4-mini-instruct",outcome="%s",reason="%s",task="%s"} 1.0'
    assert requests % ("b", "ok", "failover", "math") in metrics
    assert requests % ("a", "generation_failed", "requested", "general") in metrics
    assert 'phi_serve_attempts_total{engine="a",ingress="",outcome="generation_failed"} 4.0' in metrics
    assert 'phi_serve_attempts_total{engine="b",ingress="",outcome="ok"} 1.0' in metrics
    assert 'phi_serve_tokens_total{engine="b",ingress="",kind="completion",model="phi-4-mini-instruct",task="math"}' in metrics


async def test_each_request_is_one_line_of_json_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, REQUEST_LOG.name):
        async with running(a={"text": "a secret answer"}) as app:
            answer = await app.client.post(CHAT, json=ASK, headers={"x-request-id": "mine", "x-task": "math"})
    lines = [record.getMessage() for record in caplog.records if record.name == REQUEST_LOG.name]
    assert len(lines) == 1
    assert "secret" not in lines[0]
    told = json.loads(lines[0])
    usage = answer.json()["usage"]
    assert {key: told[key] for key in ("request_id", "model", "task", "engine", "reason", "attempts", "outcome")} == {
        "request_id": "mine", "model": "phi-4-mini-instruct", "task": "math", "engine": "a", "reason": "preferred", "attempts": 1,
        "outcome": "ok",
    }  # fmt: skip
    assert (told["prompt_tokens"], told["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert told["seconds"] > 0


async def test_preferences_change_without_a_restart() -> None:
    async with running(a={}, b={}) as app:
        before = await app.client.post(CHAT, json=ASK, headers={"x-task": "math"})
        app.gateway.configure(RoutingSettings(prefer={Task.MATH: ("b",)}))
        after = await app.client.post(CHAT, json=ASK, headers={"x-task": "math"})
    assert (before.headers["x-engine"], after.headers["x-engine"]) == ("a", "b")


async def test_a_conversation_keeps_its_affinity_and_others_have_another() -> None:
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    later = [*first, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "And now?"}]
    other = [*first[:1], {"role": "user", "content": "Hallo"}]
    async with running(a={}) as app:
        for messages, session in ((first, ""), (later, ""), (other, ""), (first, "s"), (other, "s")):
            await app.client.post(CHAT, json={"messages": messages}, headers={"x-session-id": session} if session else {})
        keys = [request.placement.affinity for request in app.engines["a"].requests]
    assert keys[0] == keys[1]
    assert keys[3] == keys[4]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "soon"])
async def test_the_client_s_time_is_checked(given: str) -> None:
    async with running(a={}) as app:
        answer = await app.client.post(CHAT, json=ASK, headers={"x-timeout-s": given})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-timeout-s")


async def test_the_client_s_time_ends_its_request() -> None:
    async with running(a={"fault": "hang"}) as app:
        answer = await app.client.post(CHAT, json=ASK, headers={"x-timeout-s": "0.2"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
