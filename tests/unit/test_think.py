"""Ollama's `think` over a model whose thoughts are marked, and over one that has none."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ollama
import pytest

from tests.unit.app import THINKING, App, running
from tests.unit.test_ollama import CIRCLE, _prompt

CHAT, GENERATE = "/api/chat", "/api/generate"
HI: dict[str, Any] = {"model": "phi4-mini", "messages": [{"role": "user", "content": "hi"}]}
ASK: dict[str, Any] = {"model": "phi4-mini", "prompt": "hi"}
TEXT = "<think>two and two</think>\nFour."
OPEN = "<|user|>hi<|end|><|assistant|>"
EMPTY = "<think>\n\n</think>\n\n"


@asynccontextmanager
async def _thinking(text: str = TEXT, **more: object) -> AsyncIterator[App]:
    async with running(THINKING | more, a={"text": text}) as app:
        yield app


async def _said(app: App, path: str, body: dict[str, Any], *, stream: bool) -> tuple[str, str]:
    """Ask; return thoughts and answer."""
    response = await app.client.post(path, json=body | {"stream": stream})
    assert response.status_code == 200, response.text
    lines = [json.loads(line) for line in response.text.splitlines()]
    said = [line["message"] if path == CHAT else line for line in lines]
    field = "content" if path == CHAT else "response"
    return "".join(each.get("thinking", "") for each in said), "".join(each[field] for each in said)


BOTH = [(CHAT, HI), (GENERATE, ASK)]


@pytest.mark.parametrize(("path", "body"), BOTH)
@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_are_thinking(path: str, body: dict[str, Any], stream: bool) -> None:
    async with _thinking() as app:
        for think in (None, True, "low", "medium", "high", "max"):
            assert await _said(app, path, body | {"think": think}, stream=stream) == ("two and two", "Four.")
            assert _prompt(app) == OPEN
        assert await _said(app, path, body, stream=stream) == ("two and two", "Four.")


@pytest.mark.parametrize(("path", "body"), BOTH)
@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_can_be_switched_off(path: str, body: dict[str, Any], stream: bool) -> None:
    """The answer begins with an empty thought; a model that thinks all the same is not heard."""
    for text in ("Four.", TEXT):
        async with _thinking(text) as app:
            assert await _said(app, path, body | {"think": False}, stream=stream) == ("", "Four.")
            assert _prompt(app) == OPEN + EMPTY


async def test_what_is_there_of_an_answer_stays_when_thoughts_are_off() -> None:
    async with _thinking("ur.") as app:
        begun = HI | {"messages": [*HI["messages"], {"role": "assistant", "content": "Fo"}], "think": False}
        assert await _said(app, CHAT, begun, stream=False) == ("", "ur.")
        assert _prompt(app) == OPEN + "Fo"
        raw = ASK | {"prompt": "Q: ", "raw": True, "think": False}
        assert await _said(app, GENERATE, raw, stream=False) == ("", "ur.")
        assert _prompt(app) == "Q: "


async def test_a_prompt_that_begins_the_thought_itself() -> None:
    variants = {"opened": {"template": "{{ .Prompt }}<|assistant|><think>\n"}}
    async with _thinking("two</think>Four.", variants=variants) as app:
        for body in (ASK | {"model": "opened"}, ASK | {"prompt": "Q: <think>", "raw": True, "think": True}):
            assert await _said(app, GENERATE, body, stream=True) == ("two", "Four.")
        assert await _said(app, GENERATE, ASK | {"raw": True}, stream=True) == ("", "two</think>Four."), "raw is the text as it is"


async def test_calls_come_after_thoughts_and_without_them() -> None:
    call = '<|tool_call|>[{"name": "circle", "arguments": {"radius": 5}}]<|/tool_call|>'
    async with _thinking("<think>hm</think>" + call) as app:
        client = ollama.AsyncClient(host="http://test", transport=app.asgi)
        for think, thoughts in ((True, "hm"), ("low", "hm"), (False, None)):
            answer = await client.chat(**HI, tools=[CIRCLE], think=think)
            assert (answer.message.thinking, [dict(each.function.arguments) for each in answer.message.tool_calls or ()]) == (
                thoughts,
                [{"radius": 5}],
            )


async def test_show_says_whether_a_model_thinks() -> None:
    for extra, can in ((THINKING, ["completion", "tools", "thinking"]), ({}, ["completion", "tools"])):
        async with running(extra, a={}) as app:
            assert (await app.client.post("/api/show", json={"model": "phi4-mini"})).json()["capabilities"] == can


@pytest.mark.parametrize(("path", "body"), BOTH)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_without_thoughts_refuses_them_as_ollama_does(path: str, body: dict[str, Any], stream: bool) -> None:
    async with running(a={"text": TEXT}) as app:
        for think in (True, "low", "medium", "high"):
            for asked in (body, body | {"messages": [], "prompt": ""}):
                refused = await app.client.post(path, json=asked | {"think": think, "stream": stream})
                assert (refused.status_code, refused.json()) == (400, {"error": '"phi4-mini" does not support thinking'})
        missing = await app.client.post(path, json=body | {"model": "nope", "think": True})
        assert (missing.status_code, missing.json()["error"]) == (404, "model 'nope' not found")
        assert not app.engines["a"].requests
        assert await _said(app, path, body | {"think": False}, stream=stream) == ("", TEXT)
        assert _prompt(app) == OPEN


@pytest.mark.parametrize("think", ["", "yes", "true", "HIGH", 1, 0.5, ["low"]])
async def test_other_values_are_refused(think: Any) -> None:
    async with _thinking() as app:
        for path, body in BOTH:
            refused = await app.client.post(path, json=body | {"think": think})
            assert (refused.status_code, "think" in refused.json()["error"]) == (400, True)
            if isinstance(think, str):
                assert f'invalid think value: "{think}" (must be "high"' in refused.json()["error"]


async def test_no_other_api_changes() -> None:
    async with _thinking() as app:
        answer = await app.client.post("/v1/chat/completions", json={"messages": HI["messages"]})
        assert answer.json()["choices"][0]["message"]["reasoning"] == "two and two"
        assert (await app.client.post("/reasoning", json={"prompt": "hi"})).json()["generated_text"] == "Four."
