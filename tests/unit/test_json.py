"""Every JSON that clients get is strict, and holds no character at which some reader of lines would cut it."""

import json
import math
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import ollama
import pytest

from serve_app.dialects import openai
from serve_app.dialects.base import dump
from serve_app.http.respond import write_record_headers
from serve_app.record import RequestRecord
from serve_app.routing.policy import Candidate
from serve_app.types import Finished, FinishReason, TokenDelta, TokenEvent, TokenLogprob, Usage
from tests.unit.app import TOKENIZER, running

TEXT = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\x7fj \u00fc\u65e5\U0001f600"
"""Every character at which Python's str.splitlines or JavaScript's readers end a line, and others that must stay as they are."""
USER = [{"role": "user", "content": "hi"}]
AREA = {"type": "function", "function": {"name": "area", "parameters": {"type": "object", "properties": {"r": {}}}}}
CALL = f'<|tool_call|>[{{"name": "area", "arguments": {{"r": "{TEXT[:6]}"}}}}]<|/tool_call|>'
ENDPOINTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER, "logprobs": True, "top_logprobs": 1},
    "/v1/completions": {"prompt": "hi", "max_tokens": 100, "logprobs": 1},
    "/api/chat": {"model": "phi4-mini", "messages": USER, "logprobs": True},
    "/api/generate": {"model": "phi4-mini", "prompt": "hi", "logprobs": True},
}


def _strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _lines(body: bytes) -> list[Any]:
    """Read a body line by line the way a Python client does; fails where a line is not whole."""
    lines = [line.removeprefix("data: ") for line in body.decode().splitlines() if line]
    return [_strict(line) for line in lines if line != "[DONE]"]


def _said(told: dict[str, Any]) -> str:
    if "choices" in told:
        choice = (told["choices"] or [{}])[0]
        return str(choice.get("text") or (choice.get("message") or choice.get("delta") or {}).get("content") or "")
    return str(told.get("response") or told.get("message", {}).get("content") or "")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_answers_survive_readers_of_lines(path: str, stream: bool) -> None:
    async with running(a={"text": TEXT}) as app:
        response = await app.client.post(path, json=ENDPOINTS[path] | {"stream": stream})
    assert response.status_code == 200, response.text
    lines = _lines(response.content)
    assert len(lines) > 1 or not stream
    assert "".join(map(_said, lines)) == TEXT
    assert "\U0001f600".encode() in response.content or "\u65e5".encode() in response.content  # other characters are not escaped


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
async def test_calls_survive_readers_of_lines(path: str, stream: bool) -> None:
    async with running(a={"text": CALL}) as app:
        body = {"model": "phi4-mini", "messages": USER, "tools": [AREA], "stream": stream}
        lines = _lines((await app.client.post(path, json=body)).content)
    assert "\\u2028" in json.dumps(lines)


async def test_errors_and_what_is_told_of_models_survive_readers_of_lines() -> None:
    async with running({"variants": {"odd": {"system": TEXT}}}, a={}) as app:
        answers = [
            await app.client.post("/v1/chat/completions", json={"messages": USER, "model": TEXT}),
            await app.client.post("/api/chat", json={"messages": USER, "model": TEXT}),
            await app.client.post("/reasoning", json={"prompt": "x", "task_type": TEXT}),
            await app.client.get("/nope\u2028nope"),
            await app.client.post("/api/show", json={"model": "odd"}),
            await app.client.post("/detokenize", json={"tokens": TOKENIZER.encode(TEXT, special=False)}),
            await app.client.post("/v1/chat/completions/render", json={"messages": [{"role": "user", "content": TEXT}]}),
        ]
    for response in answers:
        assert len(_lines(response.content)) == 1


async def test_ollamas_client_reads_every_character() -> None:
    async with running(a={"text": TEXT}) as app:
        client = ollama.AsyncClient(host="http://test", transport=app.asgi)
        parts = [part async for part in await client.chat("phi4-mini", messages=USER, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == TEXT


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_never_leaves(value: float) -> None:
    assert dump({"a": [value, {"b": (1, value)}], "c": 1.5}) == b'{"a":[null,{"b":[1,null]}],"c":1.5}'


@pytest.mark.parametrize("path", ["/health", "/v1/cluster"])
async def test_health_stays_readable_whatever_an_engine_reports(path: str) -> None:
    async with running(a={}) as app:
        fleet = app.gateway.fleet()
        (group,) = fleet.groups
        load = replace(group.load, kv_usage=math.nan, tokens_per_second=math.inf)
        report = replace(group.reports[0], load=load)
        odd = replace(fleet, groups=(replace(group, load=load, reports=(report,)),))
        app.gateway.fleet = lambda: odd
        response = await app.client.get(path)
    assert response.status_code == 200
    assert "null" in response.text
    _strict(response.text)


def test_the_header_of_candidates_is_strict_json() -> None:
    odd = Candidate(group="a", obstacle="", ahead=0, wait_s=math.inf, finish_s=math.nan)
    record = RequestRecord(request_id="r", show_candidates=True, candidates=(odd,))
    header = write_record_headers(record, openai.DIALECT)["x-route-candidates"]
    assert _strict(header) == [{"group": "a", "obstacle": None, "ahead": 0, "wait_s": None, "finish_s": None}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_logprobs_are_numbers_or_null(monkeypatch: pytest.MonkeyPatch, path: str, stream: bool) -> None:
    async def generate(request: object) -> AsyncGenerator[TokenEvent, None]:
        yield TokenDelta((65,), (TokenLogprob(65, -math.inf, ((65, -math.inf), (66, math.nan))),))
        yield Finished(reason=FinishReason.STOP, usage=Usage(prompt_tokens=1, completion_tokens=1))

    async with running(a={}) as app:
        monkeypatch.setattr(app.engines["a"], "generate", generate)
        response = await app.client.post(path, json=ENDPOINTS[path] | {"stream": stream})
    assert response.status_code == 200
    _lines(response.content)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
async def test_arguments_that_are_no_json_stay_as_the_model_wrote_them(number: str, stream: bool) -> None:
    written = f'{{"r": {number}}}'
    text = f'<|tool_call|>[{{"name": "area", "arguments": {written}}}]<|/tool_call|>'
    async with running(a={"text": text}) as app:
        body = {"model": "phi4-mini", "messages": USER, "tools": [AREA], "stream": stream}
        lines = _lines((await app.client.post("/api/chat", json=body)).content)
        openai = (await app.client.post("/v1/chat/completions", json=body | {"stream": False})).json()
    assert written in "".join(map(_said, lines))
    assert openai["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == written
    assert openai["choices"][0]["invalid_tool_arguments"] == ["area"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1E+400"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/chat/completions",
            '{"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function", "function": %s}]}',
        ),
        ("/api/chat", '{"model": "phi4-mini", "messages": [{"role": "user", "content": "hi"}], "format": %s}'),
    ],
)
async def test_bodies_without_a_meaning_in_json_are_refused(path: str, body: str, number: str) -> None:
    shape = '{"name": "f", "parameters": {"minimum": %s}}'
    async with running(a={}) as app:
        refused = await app.client.post(path, content=body % (shape % number))
        text = await app.client.post(path, content=(body % (shape % 1)).replace('"hi"', f'"{number}"'))
    assert refused.status_code == 400
    assert number in refused.text
    assert number not in text.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_schema_written_as_text_is_strict_json_too(path: str) -> None:
    body = {"messages": USER, "prompt": "hi", "structured_outputs": {"json": '{"type": "number", "minimum": NaN}'}}
    async with running(a={}) as app:
        response = await app.client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "structured_outputs.json")
