"""What OpenAI's clients may send and rely on beyond the common fields: seeds, top_p, contexts, and when to repeat a request."""

from typing import Any

import httpx
import openai
import pytest

from tests.unit.app import running

CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(("path", "body"), [(CHAT, HI), ("/v1/completions", {"prompt": "hi"})])
async def test_seeds_may_be_negative_as_openai_allows(path: str, body: dict[str, Any]) -> None:
    async with running(a={}) as app:
        for seed in (-1, -(2**63), 2**63 - 1):
            assert (await app.client.post(path, json=body | {"seed": seed, "n": 2})).status_code == 200
        seeds = [request.sampling.seed for request in app.engines["a"].requests]
        below = await app.client.post(path, json=body | {"seed": -(2**63) - 1})
    assert seeds == [2**63 - 1, 0, 0, 1, 2**63 - 1, 0]
    assert (below.status_code, below.json()["error"]["param"]) == (400, "seed")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, HI | {"top_p": 0}),
        ("/v1/completions", {"prompt": "hi", "top_p": 0.0}),
        ("/api/chat", HI | {"model": "phi4-mini", "options": {"top_p": 0}}),
        ("/api/generate", {"model": "phi4-mini", "prompt": "hi", "options": {"top_p": 0}}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_top_p_may_be_0_and_leaves_the_likeliest_token(path: str, body: dict[str, Any], stream: bool) -> None:
    async with running(a={}) as app:
        response = await app.client.post(path, json=body | {"stream": stream})
        (request,) = app.engines["a"].requests
    assert response.status_code == 200
    assert (request.sampling.top_p, request.sampling.greedy) == (0, True)


@pytest.mark.parametrize(
    ("groups", "longest"),
    [
        ({"a": {"max_model_len": 512}, "b": {"max_model_len": 1024}}, 1024),
        ({"a": {"max_model_len": 512}, "b": {"max_model_len": 1024, "absent": True}}, 512),
        ({"a": {"max_model_len": 512, "absent": True}, "b": {"max_model_len": 1024, "absent": True}}, 1024),
    ],
)
async def test_the_context_is_the_longest_that_a_ready_group_holds(groups: dict[str, dict[str, object]], longest: int) -> None:
    async with running({"variants": {"mine": {}}}, **groups) as app:
        listed = (await app.client.get("/v1/models")).json()["data"]
        one = (await app.client.get("/v1/models/mine")).json()
        shown = (await app.client.post("/api/show", json={"model": "mine"})).json()["model_info"]
        tokenized = (await app.client.post("/tokenize", json={"prompt": "hi"})).json()
    told = [*(model["max_model_len"] for model in listed), one["max_model_len"], shown["phi3.context_length"]]
    assert {*told, tokenized["max_model_len"]} == {longest}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/reasoning", "/api/chat"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_library_does_not_repeat_what_took_too_long(path: str, stream: bool) -> None:
    body = HI | {"model": "phi4-mini", "prompt": "hi", "stream": stream}
    async with running({"limits": {"request_timeout_s": 0.3}}, a={"fault": "hang", "fault_at": 0}) as app:
        late = await app.client.post(path, json=body)
        async with httpx.AsyncClient(transport=app.asgi) as transport:
            client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="unused", http_client=transport, max_retries=2)
            asked = len(app.engines["a"].requests)
            with pytest.raises(openai.InternalServerError, match="time for this request is over"):
                await client.chat.completions.create(model="phi4-mini", messages=HI["messages"])
            assert len(app.engines["a"].requests) == asked + 1
    assert (late.status_code, late.headers.get("x-should-retry")) == (504, "false")


@pytest.mark.parametrize(("fault", "status"), [("fail_first", 500), ("die_midway", 503), ("truncate", 502)])
async def test_whether_to_repeat_other_failures_is_left_to_the_status(fault: str, status: int) -> None:
    async with running(a={"fault": fault, "fault_at": 0}) as app:
        failed = await app.client.post(CHAT, json=HI)
        app.gateway.active_by_model["phi-4-mini-instruct"] = 256
        full = await app.client.post(CHAT, json=HI)
        wrong = await app.client.post(CHAT, json=HI | {"temperature": 9})
    assert [response.status_code for response in (failed, full, wrong)] == [status, 503, 400]
    assert not any("x-should-retry" in response.headers for response in (failed, full, wrong))
