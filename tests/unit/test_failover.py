"""Engines that die, hang or fail under the running application: what the client sees, and how often engines were asked."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from serve_app.engine_config import FakeSettings
from serve_app.routing.breaker import BreakerState
from serve_app.routing.fleet import Fleet
from tests.unit.app import App, running

CHAT = "/v1/chat/completions"
TEXT = " ".join(f"word{number}" for number in range(40))
ASK = {"messages": [{"role": "user", "content": "go"}], "temperature": 0}
STREAM = ASK | {"stream": True, "stream_options": {"include_usage": True}}


def _events(text: str) -> list[dict]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def _told(text: str) -> tuple[str, str, dict]:
    """Return a stream's text, finish reason and usage."""
    events = _events(text)
    assert text.endswith("data: [DONE]\n\n")
    choices = [event["choices"][0] for event in events if event["choices"]]
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    return said, choices[-1]["finish_reason"], events[-1]["usage"]


async def _undisturbed(**wish: object) -> tuple[str, str, dict]:
    async with running(a={"text": TEXT}) as app:
        return _told((await app.client.post(CHAT, json=STREAM | wish)).text)


def _length() -> int:
    from serve_app.chat.tokenizer import Tokenizer
    from serve_app.models.locate import EMBEDDED

    return len(Tokenizer.load(EMBEDDED).encode(TEXT, special=True))


LENGTH = _length()


@pytest.mark.parametrize("fault", ["die_midway", "truncate"])
@pytest.mark.parametrize("at", [0, 1, 5, LENGTH // 2, LENGTH - 1, LENGTH])
async def test_32_greedy_streams_go_on_elsewhere_with_the_same_text_and_usage(fault: str, at: int) -> None:
    whole = await _undisturbed()
    async with running(a={"text": TEXT, "fault": fault, "fault_at": at, "slots": 32}, b={"text": TEXT, "slots": 32}) as app:
        answers = await asyncio.gather(*(app.client.post(CHAT, json=STREAM) for _ in range(32)))
        first, second = app.engines["a"].requests, app.engines["b"].requests
    assert [_told(answer.text) for answer in answers] == [whole] * 32
    assert len(first) == len(second) == 32
    assert {len(after.prompt) - len(first[0].prompt) for after in second} == {at}


@pytest.mark.parametrize("at", [1, LENGTH // 2, 30])
async def test_limits_are_counted_once(at: int) -> None:
    wish = {"max_tokens": 30, "min_tokens": 20, "logprobs": True}
    whole = await _undisturbed(**wish)
    assert whole[1] == "length"
    async with running(a={"text": TEXT, "fault": "die_midway", "fault_at": at}, b={"text": TEXT}) as app:
        answer = (await app.client.post(CHAT, json=STREAM | wish)).text
        asked = [request.sampling for request in app.engines["b"].requests]
    assert _told(answer) == whole
    if at == 30:
        assert not asked, "only the end was missing"
    elif at < 30:
        assert [(sampling.max_tokens, sampling.min_tokens) for sampling in asked] == [(30 - at, max(0, 20 - at))]
    entries = [
        event["choices"][0]["logprobs"]["content"]
        for event in _events(answer)
        if event["choices"] and event["choices"][0].get("logprobs")
    ]
    assert sum(map(len, entries)) == 30


async def test_a_stop_string_across_the_break_is_met_and_never_shown() -> None:
    async with running(a={"text": TEXT, "fault": "die_midway", "fault_at": 5}, b={"text": TEXT}) as app:
        said, reason, _ = _told((await app.client.post(CHAT, json=STREAM | {"stop": ["word2 word3"]})).text)
    assert (said, reason) == ("word0 word1 ", "stop")


async def test_a_whole_answer_goes_on_too_and_says_who_ended_it() -> None:
    async with running(a={"text": TEXT, "fault": "die_midway", "fault_at": 9}, b={"text": TEXT}) as app:
        answer = await app.client.post(CHAT, json=ASK)
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert (answer.headers["x-engine"], answer.headers["x-attempts"], answer.headers["x-route-reason"]) == ("b", "2", "failover")


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "wish",
    [{"presence_penalty": 1}, {"frequency_penalty": 0.5}, {"temperature": 1, "seed": 3}, {"tools": [TOOL], "tool_choice": "auto"}],
    ids=["presence", "frequency", "seed", "tools"],
)
async def test_what_cannot_go_on_ends_in_a_well_formed_error(wish: dict[str, object]) -> None:
    async with running(a={"text": TEXT, "fault": "die_midway", "fault_at": 5}, b={"text": TEXT}) as app:
        answer = await app.client.post(CHAT, json=STREAM | wish)
        assert not app.engines["b"].requests
    error = _events(answer.text)[-1]["error"]
    assert error["code"] == "engine_dead"
    assert "could not continue elsewhere, since" in error["message"]
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "wish",
    [
        {"repetition_penalty": 1.2},
        {"temperature": 1},
        {"temperature": 0, "seed": 3},
        {"top_p": 0, "seed": 3},
        {"logit_bias": {"7": 1}},
    ],
)
async def test_what_depends_on_the_tokens_alone_goes_on(wish: dict[str, object]) -> None:
    async with running(a={"text": TEXT, "fault": "die_midway", "fault_at": 5}, b={"text": TEXT}) as app:
        assert _told((await app.client.post(CHAT, json=STREAM | wish)).text)[0] == TEXT


async def test_a_hung_stream_moves_within_the_watchdog_time() -> None:
    hung = {"text": TEXT, "fault": "hang", "fault_at": 7}
    async with running(a=hung, b={"text": TEXT}, routing={"stall_timeout_s": 0.2}) as app:
        began = time.monotonic()
        said, _, usage = _told((await app.client.post(CHAT, json=STREAM)).text)
        took = time.monotonic() - began
        assert app.engines["a"].load().running == 0, "the abandoned stream was closed"
    assert said == TEXT
    assert usage["completion_tokens"] == LENGTH + 1
    assert took >= 0.2


async def test_a_replica_that_falls_silent_is_left_before_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process hangs as a whole: no reports any more, and no tokens."""
    monkeypatch.setattr("serve_app.stall_watch._CHECK_EVERY_S", 0.05)
    async with running(a={"text": TEXT, "fault": "hang", "fault_at": 3}, b={"text": TEXT}, routing={"stale_after_s": 0.1}) as app:
        hung, other = app.gateway.fleet().groups
        silent = Fleet((replace(hung, silent=frozenset({""})), other))  # engines without Ray have no replica's name
        call = asyncio.ensure_future(app.client.post(CHAT, json=STREAM))
        await asyncio.sleep(0.2)
        assert not call.done()
        monkeypatch.setattr(app.gateway._attempts, "_fleet", lambda: silent)
        assert _told((await asyncio.wait_for(call, 3)).text)[0] == TEXT


async def test_a_group_without_room_for_the_rest_is_passed_over() -> None:
    async with running(a={"text": TEXT, "fault": "die_midway", "fault_at": 60}, b={"text": TEXT, "max_model_len": 64}) as app:
        said, reason, _ = _told((await app.client.post(CHAT, json=STREAM)).text)
        assert [len(engine.requests) for engine in app.engines.values()] == [LENGTH // 60 + 1, 0]
    assert (said, reason) == (TEXT, "stop")


async def test_an_answer_that_filled_the_context_lacks_nothing_but_its_end() -> None:
    async with running(a={"text": TEXT, "max_model_len": 64}) as app:
        whole = _told((await app.client.post(CHAT, json=STREAM)).text)
    at = whole[2]["completion_tokens"]
    async with running(a={"text": TEXT, "max_model_len": 64, "fault": "die_midway", "fault_at": at}) as app:
        assert _told((await app.client.post(CHAT, json=STREAM)).text) == whole
    assert whole[1] == "length"


@asynccontextmanager
async def _failing(routing: dict[str, object] | None = None, **others: dict[str, object]) -> AsyncIterator[App]:
    async with running(a={"fault": "fail_first"}, **others, routing=routing or {}) as app:  # type: ignore[arg-type]
        yield app


def _asked(app: App) -> int:
    return sum(len(engine.requests) for engine in app.engines.values())


async def test_a_group_that_always_fails_costs_few_attempts_and_no_request() -> None:
    async with _failing(b={"text": "ok"}) as app:
        answers = [await app.client.post(CHAT, json=ASK) for _ in range(100)]
        print(f"\n{_asked(app)} attempts for {len(answers)} requests, {len(app.engines['a'].requests)} of them failed")
        assert _asked(app) <= 1.2 * len(answers)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-engine"] for answer in answers} == {"b"}
    assert [answer.headers["x-route-reason"] for answer in (answers[0], answers[-1])] == ["failover", "breaker-open"]


async def test_a_group_that_always_fails_alone_is_left_alone() -> None:
    async with _failing() as app:
        answers = [await app.client.post(CHAT, json=ASK) for _ in range(50)]
        assert _asked(app) <= 5
    assert answers[0].json()["error"]["code"] == "generation_failed"
    assert (answers[-1].status_code, answers[-1].json()["error"]["code"]) == (503, "no_engine_ready")
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_the_retry_budget_holds_where_no_breaker_opens() -> None:
    routing = {"retry_reserve": 0, "max_attempts": 2, "breaker": {"failures": 1000, "min_requests": 1000}}
    async with _failing(routing, b={"text": "ok"}) as app:
        answers = [await app.client.post(CHAT, json=ASK) for _ in range(100)]
        assert _asked(app) <= 1.2 * 100
    assert sum(answer.status_code == 200 for answer in answers) >= 19


async def test_recovery_closes_the_breaker() -> None:
    async with _failing({"breaker": {"open_s": 0.3}}, b={"text": "ok"}) as app:
        for _ in range(8):
            await app.client.post(CHAT, json=ASK)
        health, fleet = app.gateway._attempts.health, app.gateway.fleet()
        assert health.states(fleet, time.monotonic())[("a", "")] is BreakerState.OPEN
        app.engines["a"]._settings = FakeSettings(text="back", tokens_per_second=5000)
        await asyncio.sleep(0.3)
        answers = [await app.client.post(CHAT, json=ASK) for _ in range(3)]
        assert health.states(fleet, time.monotonic())[("a", "")] is BreakerState.CLOSED
        metrics = (await app.client.get("/metrics")).text
    assert [answer.headers["x-engine"] for answer in answers] == ["a"] * 3
    assert 'phi_serve_breaker{group="a",ingress="",replica="",state="closed"} 1.0' in metrics


async def test_a_whole_group_down_is_answered_by_the_other_and_the_header_says_so() -> None:
    async with running(a={"absent": True}, b={"text": "ok"}) as app:
        answer = await app.client.post(CHAT, json=ASK)
    assert (answer.headers["x-engine"], answer.headers["x-route-reason"], answer.headers["x-attempts"]) == ("b", "not-ready", "1")


async def test_mistakes_of_clients_are_not_retried_and_open_no_breaker() -> None:
    async with running(a={"max_model_len": 64}, b={"max_model_len": 64}) as app:
        wrong = ASK | {"messages": [{"role": "user", "content": "word " * 100}]}
        statuses = {(await app.client.post(CHAT, json=wrong)).status_code for _ in range(10)}
        assert (await app.client.post(CHAT, json=ASK)).headers["x-route-reason"] == "preferred"
    assert statuses == {400}


async def test_the_client_s_time_is_one_for_all_attempts() -> None:
    async with running(a={"fault": "hang", "fault_at": 0}, b={"fault": "hang", "fault_at": 0}) as app:
        limits = app.gateway.settings.limits.model_copy(update={"request_timeout_s": 0.3})
        app.gateway.settings = app.gateway.settings.model_copy(update={"limits": limits})
        answer = await app.client.post(CHAT, json=ASK)
        assert sum(engine.load().running for engine in app.engines.values()) == 0
    assert (answer.status_code, answer.headers["x-attempts"]) == (504, "1")
