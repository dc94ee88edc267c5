"""The application from outside: every endpoint, good and bad bodies, failing engines. Fake engines, no Ray."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from serve_app.errors import Overloaded
from serve_app.types import TokenEvent
from tests.unit.app import running

CHAT = "/v1/chat/completions"
TEXT = "Hello there, friend."
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def _events(body: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_chat_answers_whole() -> None:
    async with running(a={"text": TEXT}) as app:
        response = await app.client.post(CHAT, json=HI | {"model": "phi4-mini"}, headers={"x-request-id": "my-id"})
    body = response.json()
    assert response.status_code == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": TEXT, "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["model"] == "phi4-mini"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    told = {name: response.headers[name] for name in ("x-request-id", "x-task", "x-engine", "x-route-reason", "x-attempts")}
    assert told == {
        "x-request-id": "my-id", "x-task": "general", "x-engine": "a", "x-route-reason": "preferred", "x-attempts": "1",
    }  # fmt: skip


async def test_chat_streams_the_same_text_and_usage() -> None:
    async with running(a={"text": TEXT}) as app:
        whole = (await app.client.post(CHAT, json=HI)).json()
        response = await app.client.post(CHAT, json=HI | {"stream": True, "stream_options": {"include_usage": True}})
    events = _events(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-engine"] == "a"
    assert [event["choices"][0]["delta"].get("role") for event in events[:-1]] == ["assistant", *[None] * (len(events) - 2)]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1]) == TEXT
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == whole["usage"]
    assert len({(event["id"], event["created"]) for event in events}) == 1


async def test_several_choices_and_prompts_keep_their_numbers() -> None:
    body = {"prompt": ["one", "two"], "n": 2, "max_tokens": 64, "echo": True}
    async with running(a={"text": "!"}) as app:
        whole = (await app.client.post("/v1/completions", json=body)).json()
        streamed = _events((await app.client.post("/v1/completions", json=body | {"stream": True})).text)
    assert [choice["text"] for choice in whole["choices"]] == ["one!", "one!", "two!", "two!"]
    texts = ["", "", "", ""]
    for event in streamed:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == ["one!", "one!", "two!", "two!"]


async def test_seeds_differ_between_choices_and_token_ids_pass_unchanged() -> None:
    async with running(a={}) as app:
        await app.client.post("/v1/completions", json={"prompt": [5, 6, 7], "n": 2, "seed": 9})
        first, second = app.engines["a"].requests
    assert first.prompt == second.prompt == (5, 6, 7)
    assert (first.sampling.seed, second.sampling.seed) == (9, 10)
    assert first.sampling.max_tokens == 16


async def test_sampling_reaches_the_engine() -> None:
    wish = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "presence_penalty": 1, "frequency_penalty": 0.5,
            "repetition_penalty": 1.1, "logit_bias": {"7": 2}, "max_completion_tokens": 4, "min_tokens": 2, "stop_token_ids": [9],
            "ignore_eos": True, "logprobs": True, "top_logprobs": 2}  # fmt: skip
    async with running(a={}) as app:
        assert (await app.client.post(CHAT, json=HI | wish)).status_code == 200
        sampling = app.engines["a"].requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.seed) == (0.5, 0.9, 5, 0.1, 3)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1, 0.5, 1.1)
    assert (dict(sampling.logit_bias), sampling.max_tokens, sampling.min_tokens) == ({7: 2.0}, 4, 2)
    assert (sampling.stop_token_ids, sampling.ignore_eos, sampling.logprobs) == ((9,), True, 2)


@pytest.mark.parametrize("stream", [False, True])
async def test_stop_strings_end_the_answer_and_never_show(stream: bool) -> None:
    async with running(a={"text": TEXT, "tokens_per_second": 200}) as app:
        response = await app.client.post(CHAT, json=HI | {"stop": ["there"], "stream": stream})
        if stream:
            choices = [event["choices"][0] for event in _events(response.text)]
            text, reason = "".join(choice["delta"].get("content", "") for choice in choices), choices[-1]["finish_reason"]
        else:
            choice = response.json()["choices"][0]
            text, reason = choice["message"]["content"], choice["finish_reason"]
        assert app.engines["a"].load().running == 0
    assert (text, reason) == ("Hello ", "stop")


async def test_a_streamed_echo_commits_nothing_before_an_engine_answers() -> None:
    body = {"prompt": "one", "echo": True, "stream": True}
    async with running(a={"fault": "fail_first"}) as app:
        failed = await app.client.post("/v1/completions", json=body)
    async with running(a={"fault": "fail_first"}, b={"text": "!"}) as app:
        good = await app.client.post("/v1/completions", json=body)
    assert failed.status_code == 500
    assert (good.headers["x-engine"], good.headers["x-attempts"]) == ("b", "2")
    assert "".join(event["choices"][0]["text"] for event in _events(good.text)) == "one!"


async def test_null_means_the_default() -> None:
    nulls = {"stream": None, "temperature": None, "stop": None, "n": None, "max_tokens": None, "logprobs": None, "seed": None}
    async with running(a={}) as app:
        assert (await app.client.post(CHAT, json=HI | nulls)).status_code == 200
        assert (await app.client.post("/v1/completions", json={"prompt": "x", "echo": None} | nulls)).status_code == 200


async def test_echo_with_logprobs_is_refused() -> None:
    async with running(a={}) as app:
        response = await app.client.post("/v1/completions", json={"prompt": "x", "echo": True, "logprobs": 1})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported")


async def test_generations_count_at_admission_not_calls() -> None:
    async with running(a={"tokens_per_second": 20, "text": "one two three"}) as app:
        app.gateway.active_by_model["phi-4-mini-instruct"] = 250
        many = await app.client.post("/v1/completions", json={"prompt": ["a", "b"], "n": 4})
        few = await app.client.post("/v1/completions", json={"prompt": ["a", "b"], "n": 3, "max_tokens": 1})
        assert app.gateway.active == 250
    assert (many.status_code, few.status_code) == (503, 200)


async def test_a_full_group_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    async def full(request: object) -> AsyncGenerator[TokenEvent, None]:
        nonlocal calls
        calls += 1
        raise Overloaded("full", retry_after_s=1.0)
        yield

    async with running(a={}) as app:
        monkeypatch.setattr(app.engines["a"], "generate", full)
        response = await app.client.post(CHAT, json=HI)
    assert (response.status_code, response.headers["retry-after"], calls) == (503, "1", 1)


async def test_a_client_that_leaves_frees_the_slot_of_a_whole_answer() -> None:
    sent: list[object] = []
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": json.dumps(HI).encode(), "more_body": False}]

    async def receive() -> dict[str, object]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "query_string": b"", "http_version": "1.1"}
    async with running(a={"tokens_per_second": 2, "text": TEXT}) as app:
        transport = app.client._transport
        assert isinstance(transport, httpx.ASGITransport)
        call = asyncio.ensure_future(transport.app(scope, receive, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        assert app.engines["a"].load().running == 1
        gone.set()
        await asyncio.wait_for(call, 5)
        assert app.engines["a"].load().running == 0
        assert app.gateway.active == 0


async def test_length_is_told() -> None:
    async with running(a={"text": TEXT}) as app:
        body = (await app.client.post(CHAT, json=HI | {"max_tokens": 2})).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 2


BAD_FIELDS: list[tuple[str, str, int]] = [
    ('"temperature": NaN', "temperature", 400),
    ('"temperature": Infinity', "temperature", 400),
    ('"temperature": -1', "temperature", 400),
    ('"temperature": "1"', "temperature", 400),
    ('"max_tokens": 0', "max_tokens", 400),
    ('"max_tokens": 1e12', "max_tokens", 400),
    ('"max_tokens": 1000000000000', "max_tokens", 400),
    ('"max_tokens": true', "max_tokens", 400),
    ('"seed": 1180591620717411303424', "seed", 400),
    ('"model": "nope"', "model", 404),
    ('"n": 9', "n", 400),
    ('"n": 0', "n", 400),
    ('"stop": ""', "stop", 400),
    ('"stop": [1]', "stop", 400),
    ('"logit_bias": {"x": 1}', "logit_bias", 400),
    ('"stream_options": {}', "stream_options", 400),
    ('"stream": "yes"', "stream", 400),
]


@pytest.mark.parametrize(("field", "param", "status"), BAD_FIELDS)
@pytest.mark.parametrize("endpoint", [CHAT, "/v1/completions"])
async def test_a_bad_field_is_named_in_openais_shape(endpoint: str, field: str, param: str, status: int) -> None:
    base = '"messages": [{"role": "user", "content": "hi"}]' if endpoint == CHAT else '"prompt": "hi"'
    async with running(a={}) as app:
        response = await app.client.post(endpoint, content=f"{{{base}, {field}}}")
        good = await app.client.post(endpoint, content=f"{{{base}}}")
    error = response.json()["error"]
    assert response.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert param in error["message"]
    assert good.status_code == 200


@pytest.mark.parametrize(
    "content", [b"not json", b"", b"[]", b"null", b"\xff\xfe", b'{"messages": []}',
                b'{"messages": [{"role": "alien", "content": "x"}]}',
                b"{}", b'{"messages": [{"role": "user", "content": 3}]}', b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
                b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}']
)  # fmt: skip
async def test_a_bad_body_is_400_and_changes_nothing(content: bytes) -> None:
    async with running(a={}) as app:
        response = await app.client.post(CHAT, content=content)
        assert (await app.client.post(CHAT, json=HI)).status_code == 200
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("prompt", ["[1.5]", "[true]", "[-1]", "[]", "[[]]", '""', '[["a"]]', '{"a": 1}', "3"])
async def test_a_bad_prompt_is_400(prompt: str) -> None:
    async with running(a={}) as app:
        response = await app.client.post("/v1/completions", content=f'{{"prompt": {prompt}}}')
    assert (response.status_code, response.json()["error"]["param"].split(".")[0]) == (400, "prompt")


async def test_large_bodies_and_long_prompts_are_refused() -> None:
    async with running(a={"max_model_len": 64}) as app:
        large = await app.client.post(CHAT, json={"messages": [{"role": "user", "content": "x" * 200_000}]})
        long = await app.client.post(CHAT, json={"messages": [{"role": "user", "content": "word " * 100}]})
        longer = await app.client.post(CHAT, json={"messages": [{"role": "user", "content": "word " * 10_000}]})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
    for response in (long, longer):
        assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "64 tokens" in response.json()["error"]["message"]


async def test_what_no_group_can_do_is_refused_not_ignored() -> None:
    async with running(a={}) as app:
        response = await app.client.post(CHAT, json=HI | {"response_format": {"type": "json_object"}})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported")
        assert not app.engines["a"].requests


async def test_unknown_fields_are_tolerated() -> None:
    async with running(a={}) as app:
        assert (await app.client.post(CHAT, json=HI | {"store": True, "metadata": {}, "user": "me"})).status_code == 200


async def test_models() -> None:
    async with running(a={}) as app:
        listed = (await app.client.get("/v1/models")).json()
        shown = (await app.client.get("/v1/models/microsoft/Phi-4-mini-instruct")).json()
        missing = await app.client.get("/v1/models/nope")
    assert next(model["id"] for model in listed["data"]) == "phi-4-mini-instruct"
    assert shown["id"] == "microsoft/Phi-4-mini-instruct"
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_unknown_paths_and_methods_answer_in_their_dialect() -> None:
    async with running(a={}) as app:
        lost = await app.client.post("/v1/nope")
        wrong = await app.client.get(CHAT)
        other = await app.client.get("/nope")
        several = await app.client.get("/api/blobs/sha256:abc")
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (several.status_code, several.headers["allow"]) == (405, "HEAD, POST")
    assert (other.status_code, other.json()["code"]) == (404, "not_found")


async def test_headers_choose_task_and_group_over_body_and_classification() -> None:
    body = {"prompt": "hi", "task_type": "coding"}
    async with running(a={}, b={}) as app:
        response = await app.client.post("/reasoning", json=body, headers={"x-task": "math", "x-engine": "b"})
        bad_task = await app.client.post("/reasoning", json=body, headers={"x-task": "poetry"})
        bad_group = await app.client.post("/reasoning", json=body, headers={"x-engine": "c"})
    assert (response.headers["x-task"], response.headers["x-engine"], response.headers["x-route-reason"]) == (
        "math",
        "b",
        "requested",
    )
    assert bad_task.status_code == bad_group.status_code == 400
    assert bad_task.headers["x-attempts"] == "0"


async def test_a_failing_group_is_left_for_the_next() -> None:
    async with running(a={"fault": "fail_first"}, b={"text": TEXT}) as app:
        response = await app.client.post(CHAT, json=HI)
    assert response.json()["choices"][0]["message"]["content"] == TEXT
    assert (response.headers["x-engine"], response.headers["x-attempts"], response.headers["x-route-reason"]) == (
        "b",
        "2",
        "failover",
    )


async def test_when_every_attempt_fails_the_error_says_so() -> None:
    async with running(a={"fault": "fail_first"}) as app:
        response = await app.client.post(CHAT, json=HI)
        assert len(app.engines["a"].requests) == 3
    assert (response.status_code, response.json()["error"]["code"]) == (500, "generation_failed")


@pytest.mark.parametrize(("fault", "code"), [("die_midway", "engine_dead"), ("truncate", "incomplete_generation")])
async def test_a_stream_that_breaks_and_breaks_again_ends_in_a_well_formed_error(fault: str, code: str) -> None:
    async with running(a={"fault": fault, "text": " ".join([TEXT] * 5)}) as app:
        streamed = await app.client.post(CHAT, json=HI | {"stream": True})
        whole = await app.client.post(CHAT, json=HI)
    assert _events(streamed.text)[-1]["error"]["code"] == code
    assert whole.json()["error"]["code"] == code
    assert whole.status_code >= 500


async def test_a_hung_engine_meets_the_deadline() -> None:
    async with running(a={"fault": "hang", "text": TEXT}) as app:
        app.gateway.settings = app.gateway.settings.model_copy(
            update={"limits": app.gateway.settings.limits.model_copy(update={"request_timeout_s": 0.3})}
        )
        response = await app.client.post(CHAT, json=HI)
        assert app.engines["a"].load().running == 0
        assert app.gateway.active == 0
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_full_ingress_answers_503_with_retry_after() -> None:
    async with running(a={}) as app:
        app.gateway.active_by_model["phi-4-mini-instruct"] = 256  # the default of limits.max_concurrent_generations
        response = await app.client.post(CHAT, json=HI)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


async def test_the_unforeseen_leaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(a={}) as app:
        monkeypatch.setattr("serve_app.gateway.decide", lambda *_: 1 / 0)
        response = await app.client.post(CHAT, json=HI)
    assert response.status_code == 500
    message = response.json()["error"]["message"]
    assert message == f"Internal error. Quote request {response.headers['x-request-id']} when you report it."


async def test_health_is_503_until_every_group_has_answered() -> None:
    async with running(a={}, b={"absent": True}) as app:
        health = await app.client.get("/health")
        alive = await app.client.get("/livez")
        answered = await app.client.post(CHAT, json=HI)
        refused = await app.client.post(CHAT, json=HI, headers={"x-engine": "b"})
    assert health.status_code == 503
    assert {name: group["phase"] for name, group in health.json()["groups"].items()} == {"a": "ready", "b": "starting"}
    assert alive.status_code == answered.status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_engine_ready")
    async with running(a={}, b={}) as app:
        ready = await app.client.get("/health")
    assert (ready.status_code, ready.json()["status"]) == (200, "healthy")


async def test_every_documented_body_has_a_schema() -> None:
    async with running(a={}) as app:
        schema = (await app.client.get("/openapi.json")).json()
    posts = {path: verbs["post"] for path, verbs in schema["paths"].items() if "post" in verbs}
    bare = {path for path, post in posts.items() if "requestBody" not in post}
    groups = "/v1/operations/groups/{group}"
    actions = {"/v1/operations/requests/{id}/cancel", f"{groups}/restart", f"{groups}/wake"}
    assert bare == {"/v1/responses/{response_id}/cancel"} | actions
    assert posts.pop("/v1/operations/configuration/diff")["requestBody"]["content"].keys() == {"application/yaml"}
    posts = {path: post for path, post in posts.items() if path not in bare}
    uploads = {path for path, post in posts.items() if "application/octet-stream" in post["requestBody"]["content"]}
    assert uploads == {"/api/blobs/{digest}"}
    posts = {path: post for path, post in posts.items() if path not in uploads}
    expected = {CHAT, f"{CHAT}/render", "/v1/completions", "/tokenize", "/detokenize", "/reasoning", "/api/chat", "/api/generate"}
    assert expected <= set(posts)
    bodies = {path: post["requestBody"]["content"]["application/json"]["schema"]["$ref"] for path, post in posts.items()}
    named = schema["components"]["schemas"]
    assert all(named[reference.removeprefix("#/components/schemas/")]["properties"] for reference in bodies.values())
