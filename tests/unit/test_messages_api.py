"""Anthropic's API, driven by its own SDK over the whole application in-process."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import pytest

from serve_app.access.keys import Key, KeyList, hash_key
from tests.unit.app import App, running

HI: list[Any] = [{"role": "user", "content": "hi"}]
BODY = {"model": "phi", "max_tokens": 20, "messages": HI}
CALL = '<|tool_call|>[{"name": "area", "arguments": {"radius": 5}}]<|/tool_call|>'
TOOL: Any = {
    "name": "area",
    "description": "The area of a circle",
    "input_schema": {"type": "object", "properties": {"radius": {"type": "integer"}}, "required": ["radius"]},
}


@asynccontextmanager
async def _claude(extra: dict[str, Any] | None = None, **engine: Any) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, App]]:
    async with running({"models": {"phi": {"aliases": ["phi4-mini"]}}} | (extra or {}), a=engine) as app:
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app.asgi.app), base_url="http://test")
        yield anthropic.AsyncAnthropic(base_url="http://test", api_key="free", http_client=http, max_retries=0), app


async def test_a_message() -> None:
    async with _claude(text="Hello, you.") as (client, _):
        message = await client.messages.create(**BODY)  # type: ignore[call-overload]
        assert (message.role, message.model, message.stop_reason, message.stop_sequence) == ("assistant", "phi", "end_turn", None)
        assert [(block.type, block.text) for block in message.content] == [("text", "Hello, you.")]
        assert message.id.startswith("msg_")
        assert message.usage.input_tokens > 0 < message.usage.output_tokens
        cut = await client.messages.create(**BODY | {"max_tokens": 2})  # type: ignore[call-overload]
        assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)
        stopped = await client.messages.create(**BODY, stop_sequences=[" you"])  # type: ignore[call-overload]
        assert (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].text) == ("stop_sequence", " you", "Hello,")


async def test_a_stream_has_every_event_in_order() -> None:
    async with _claude(text="Hello, you.") as (client, app):
        answer = await app.client.post("/v1/messages?beta=true", json=BODY | {"stream": True}, headers={"x-api-key": "free"})
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
        assert names == [event["type"] for event in events]
        kinds = list(dict.fromkeys(names))
        assert kinds == [
            "message_start",
            "ping",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        assert events[0]["message"]["usage"]["input_tokens"] > 0
        assert events[-2]["usage"]["output_tokens"] > 0
        async with client.messages.stream(**BODY) as stream:  # type: ignore[arg-type]
            text = "".join([piece async for piece in stream.text_stream])
            whole = await stream.get_final_message()
        assert (text, whole.content[0].text, whole.stop_reason) == ("Hello, you.", "Hello, you.", "end_turn")  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_and_their_results_understood(stream: bool) -> None:
    async with _claude(text="Let me see. " + CALL) as (client, app):
        body: Any = BODY | {"tools": [TOOL], "max_tokens": 100}
        if stream:
            async with client.messages.stream(**body) as streamed:
                message = await streamed.get_final_message()
        else:
            message = await client.messages.create(**body)
        assert message.stop_reason == "tool_use"
        (call,) = [block for block in message.content if block.type == "tool_use"]
        assert (call.name, call.input) == ("area", {"radius": 5})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "78.5"}], "is_error": True}
        said = {"role": "assistant", "content": [block.model_dump() for block in message.content]}
        turns = [*HI, said, {"role": "user", "content": [result]}]
        await client.messages.create(**body | {"messages": turns})
        shown = app.gateway.catalog.resolve(None).model.decode_ids(app.engines["a"].requests[-1].prompt)
        assert "Error: 78.5" in shown
        assert '"area"' in shown


@pytest.mark.parametrize(
    ("choice", "offers"),
    [
        ({"type": "auto"}, True),
        ({"type": "any", "disable_parallel_tool_use": True}, True),
        ({"type": "tool", "name": "area"}, True),
        ({"type": "none"}, False),
    ],
)
async def test_tool_choices(choice: Any, offers: bool) -> None:
    async with _claude(text=CALL) as (_, app):
        await app.client.post("/v1/messages", json=BODY | {"tools": [TOOL], "tool_choice": choice})
        request = app.engines["a"].requests[-1] if app.engines["a"].requests else None
        if request is not None:  # a forced call is refused here: the fake engine follows no constraint
            shown = app.gateway.catalog.resolve(None).model.decode_ids(request.prompt)
            assert ("The area of a circle" in shown) is offers


async def test_system_prefill_thoughts_and_metadata() -> None:
    thinking = {"models": {"phi": {"think_tags": ["<think>", "</think>"]}}}
    async with _claude(thinking, text="<think>Hm.</think>So 4.") as (client, app):
        body: Any = BODY | {
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "metadata": {"user_id": "me"},
        }
        message = await client.messages.create(**body)
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert message.content[0].thinking == "Hm."
        async with client.messages.stream(**body) as stream:
            whole = await stream.get_final_message()
        assert [block.type for block in whole.content] == ["thinking", "text"]
        shown = app.gateway.catalog.resolve(None).model.decode_ids(app.engines["a"].requests[-1].prompt)
        assert "Be brief." in shown
        turns = [*HI, {"role": "assistant", "content": [{"type": "text", "text": "The answer is"}]}]
        await client.messages.create(**BODY | {"messages": turns})  # type: ignore[call-overload]
        shown = app.gateway.catalog.resolve(None).model.decode_ids(app.engines["a"].requests[-1].prompt)
        assert shown.endswith("The answer is")


async def test_tokens_are_counted_as_the_answer_counts_them() -> None:
    async with _claude() as (client, _):
        body: Any = {"model": "phi", "messages": HI, "system": "Be brief.", "tools": [TOOL]}
        counted = await client.messages.count_tokens(**body)
        message = await client.messages.create(**body, max_tokens=1)
        assert counted.input_tokens == message.usage.input_tokens > 10


async def test_models_in_the_shape_of_the_client() -> None:
    async with _claude() as (client, app):
        names = [model.id async for model in client.models.list()]
        assert names == ["phi", "phi4-mini"]
        assert (await client.models.retrieve("phi4-mini")).id == "phi4-mini"
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("none")
        openais = (await app.client.get("/v1/models")).json()
        assert openais["object"] == "list"
        missing = await app.client.get("/v1/models/none")
        assert missing.json()["error"]["code"] == "model_not_found"


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
    ({"messages": [*HI, {"role": "system", "content": []}]}, "messages.1.content"),
    ({"messages": [*HI, {"role": "tool", "content": "x"}]}, "messages.1.role"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "images are not served"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use", "name": "x", "input": {}}]}]}, "tool_use"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
    ({"tool_choice": {"type": "any"}}, "tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"temperature": -1}, "temperature"),
]


@pytest.mark.parametrize(("change", "said"), FAULTS, ids=[said for _, said in FAULTS])
async def test_wrong_bodies_are_400_in_shape(change: dict[str, Any], said: str) -> None:
    async with _claude() as (_, app):
        answer = await app.client.post("/v1/messages", json={k: v for k, v in (BODY | change).items() if v is not None})
        shown = answer.json()
        assert (answer.status_code, shown["type"], shown["error"]["type"]) == (400, "error", "invalid_request_error")
        assert said in shown["error"]["message"]
        assert shown["request_id"] == answer.headers["request-id"]


async def test_instructions_between_the_turns_are_shown_in_their_place() -> None:
    async with _claude(text="Yes.") as (client, app):
        rule: Any = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
        await client.messages.create(**BODY | {"messages": [*HI, rule, {"role": "user", "content": "now?"}]})  # type: ignore[call-overload]
        shown = app.gateway.catalog.resolve(None).model.decode_ids(app.engines["a"].requests[-1].prompt)
        assert shown.index("hi") < shown.index("Be brief.") < shown.index("now?")


async def test_errors_have_anthropics_types_statuses_and_headers(tmp_path: Path) -> None:
    keys = KeyList(keys=(Key(name="free", sha256=hash_key("free"), requests_per_minute=1),))
    (tmp_path / "keys.json").write_text(keys.model_dump_json())
    access = {"access": {"keys_file": str(tmp_path / "keys.json"), "journal_dir": None}}
    async with _claude(access) as (client, app):
        raw = await client.messages.with_raw_response.create(**BODY)  # type: ignore[call-overload]
        assert raw.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert raw.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert raw.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        with pytest.raises(anthropic.RateLimitError) as limited:
            await client.messages.create(**BODY)  # type: ignore[call-overload]
        assert limited.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index]
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(**BODY | {"model": "none"})  # type: ignore[call-overload]
        wrong: httpx.Response = await app.client.post("/v1/messages", json=BODY, headers={"x-api-key": "no"})
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "authentication_error")
        lost = await app.client.get("/v1/messages/batches", headers={"x-api-key": "free"})
        assert (lost.status_code, lost.json()["error"]["type"]) == (404, "not_found_error")
    async with _claude(absent=True) as (client, _):
        with pytest.raises(anthropic.APIStatusError) as busy:
            await client.messages.create(**BODY)  # type: ignore[call-overload]
        assert (busy.value.status_code, busy.value.body["error"]["type"]) == (529, "overloaded_error")  # type: ignore[index]


async def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    async with _claude(text="one two three four", fault="die_midway", fault_at=2) as (_, app):
        answer = await app.client.post("/v1/messages", json=BODY | {"stream": True})
        assert answer.status_code == 200
        last = json.loads(answer.text.strip().split("data: ")[-1])
        assert (last["type"], last["error"]["type"]) == ("error", "api_error")


async def test_an_answer_of_thoughts_alone_has_no_empty_text() -> None:
    thinking = {"models": {"phi": {"think_tags": ["<think>", "</think>"]}}}
    async with running(thinking, a={"text": "<think>Hm, well, let me see.</think>4"}) as app:
        body = {"model": "phi", "max_tokens": 5, "messages": [{"role": "user", "content": "2+2?"}]}
        whole = (await app.client.post("/v1/messages", json=body)).json()
        assert [block["type"] for block in whole["content"]] == ["thinking"]
        streamed = await app.client.post("/v1/messages", json=body | {"stream": True})
        assert streamed.text.count("content_block_start") == 2  # the event's name and its type
