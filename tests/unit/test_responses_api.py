"""OpenAI's Responses API, driven by its own SDK over the whole application in-process."""

import json
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.unit.app import App
from tests.unit.responses import read_prompt, sdk

CALL = '<|tool_call|>[{"name": "area", "arguments": {"radius": 5}}]<|/tool_call|>'
TOOL: Any = {
    "type": "function",
    "name": "area",
    "description": "The area of a circle",
    "parameters": {"type": "object", "properties": {"radius": {"type": "integer"}}, "required": ["radius"]},
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


async def _stream(app: App, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a stream, each of which must fit the SDK's types."""
    answer = await app.client.post("/v1/responses", json=body | {"stream": True})
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event)
    return events


async def test_a_response() -> None:
    async with sdk(text="Hello, you.") as (client, app):
        response = await client.responses.create(model="phi", input="hi", instructions="Be brief.", max_output_tokens=50)
        assert (response.status, response.output_text, response.model) == ("completed", "Hello, you.", "phi")
        assert response.usage is not None
        assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
        assert "Be brief." in read_prompt(app)
        cut = await client.responses.create(model="phi", input="hi", max_output_tokens=2)
        assert cut.incomplete_details is not None
        assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_a_stream_is_the_same_response() -> None:
    async with sdk(text="Hello, you.") as (client, app):
        events = await _stream(app, {"model": "phi", "input": "hi", "max_output_tokens": 50})
        assert list(dict.fromkeys(event["type"] for event in events)) == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        whole = (await app.client.post("/v1/responses", json={"model": "phi", "input": "hi", "max_output_tokens": 50})).json()
        last = events[-1]["response"]
        for name in ("output", "usage", "status", "tools", "text"):
            shown, other = (json.dumps(each[name]).replace(each["id"][5:], "ID") for each in (last, whole))
            assert shown == other, name
        async with client.responses.stream(model="phi", input="hi") as stream:
            texts = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
            final = await stream.get_final_response()
        assert texts == final.output_text == "Hello, you."


async def test_calls_and_their_outputs() -> None:
    async with sdk(text="Let me see. " + CALL) as (client, app):
        body: Any = {"model": "phi", "input": "How large?", "tools": [TOOL, {"type": "web_search"}], "max_output_tokens": 100}
        response = await client.responses.create(**body)
        message, call = response.output
        assert (message.type, call.type) == ("message", "function_call")
        assert (call.name, json.loads(call.arguments)) == ("area", {"radius": 5})  # type: ignore[union-attr]
        events = await _stream(app, body)
        streamed = events[-1]["response"]["output"]
        assert [(item["type"], item.get("name"), item.get("arguments")) for item in streamed] == [
            ("message", None, None),
            ("function_call", "area", call.arguments),  # type: ignore[union-attr]
        ]
        deltas = "".join(event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta")
        assert deltas == call.arguments  # type: ignore[union-attr]
        said = [item.model_dump() for item in response.output]
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "78.5"}  # type: ignore[union-attr]
        again = [{"role": "user", "content": "How large?"}, *said, output]
        await client.responses.create(**body | {"input": again})
        assert all(word in read_prompt(app) for word in ("Let me see.", '"area"', "78.5", "How large?"))


async def test_thoughts_are_items_and_are_not_shown_again() -> None:
    thinking = {"models": {"phi": {"think_tags": ["<think>", "</think>"]}}}
    async with sdk(thinking, text="<think>Hm.</think>So 4.") as (client, app):
        response = await client.responses.create(model="phi", input="2+2?", max_output_tokens=50)
        assert [item.type for item in response.output] == ["reasoning", "message"]
        assert response.output_text == "So 4."
        events = await _stream(app, {"model": "phi", "input": "2+2?", "max_output_tokens": 50})
        assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message"]
        said = [item.model_dump() for item in response.output]
        items: Any = [{"role": "user", "content": "2+2?"}, *said, {"role": "user", "content": "Sure?"}]
        await client.responses.create(model="phi", input=items)
        assert "Hm." not in read_prompt(app)


async def test_logprobs_formats_and_counts() -> None:
    async with sdk(text="Hello.") as (client, app):
        include: Any = ["message.output_text.logprobs"]
        response = await client.responses.create(model="phi", input="hi", include=include, top_logprobs=1)
        part = response.output[0].content[0]  # type: ignore[union-attr, index]
        assert part.logprobs[0].token  # type: ignore[union-attr, index]
        events = await _stream(app, {"model": "phi", "input": "hi", "include": include})
        assert any(event.get("logprobs") for event in events if event["type"] == "response.output_text.delta")
        counted = await client.responses.input_tokens.count(model="phi", input="hi", instructions="Be brief.")
        told = await client.responses.create(model="phi", input="hi", instructions="Be brief.")
        assert told.usage is not None
        assert counted.input_tokens == told.usage.input_tokens


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"input": []}, "input"),
    ({"input": ""}, ""),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0: no item 'x' is kept"),
    ({"input": [{"id": "msg_1"}]}, "input.0: no item 'msg_1' is kept"),
    ({"model": None}, "model"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"input": [{"type": "local_shell_call"}]}, "local_shell_call"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "images are not served"),
    ({"previous_response_id": "resp_1"}, "no response 'resp_1' is kept"),
    ({"background": True, "stream": True}, "background"),
    ({"background": True, "store": False}, "store is false"),
    ({"tools": [{"type": "web_search"}]}, "web_search"),
    ({"tool_choice": "required"}, "tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "other"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 9}, "temperature"),
]


@pytest.mark.parametrize(("change", "said"), FAULTS, ids=[str(change)[:40] for change, _ in FAULTS])
async def test_wrong_bodies_name_the_field(change: dict[str, Any], said: str) -> None:
    async with sdk() as (_, app):
        answer = await app.client.post("/v1/responses", json={"model": "phi", "input": "hi"} | change)
        if change == {"input": ""}:
            assert answer.status_code == 200  # as an empty message in a chat
            return
        assert answer.status_code == 400, answer.text
        assert said in answer.json()["error"]["message"]


async def test_a_stream_that_breaks_off_ends_with_a_failed_response() -> None:
    async with sdk(text="one two three four", fault="die_midway", fault_at=2) as (_, app):
        events = await _stream(app, {"model": "phi", "input": "hi"})
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["error"]["code"] == "server_error"


async def test_truncation_drops_the_oldest_turns_where_the_client_allows_it() -> None:
    long: Any = [{"role": role, "content": f"{at} " + "word " * 150} for at in range(8) for role in ("user", "assistant")]
    turns = [*long, {"role": "user", "content": "Now?"}]
    async with sdk(max_model_len=1024, text="Yes.") as (client, app):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="phi", input=turns)
        assert refused.value.code == "context_length_exceeded"
        raw = await client.responses.with_raw_response.create(model="phi", input=turns, truncation="auto", instructions="Be brief.")
        assert int(raw.headers["x-dropped-messages"]) > 0
        shown = read_prompt(app)
        assert "Now?" in shown
        assert "Be brief." in shown
        assert "0 word" not in shown
        assert raw.parse().truncation == "auto"


THINKING = {"models": {"phi": {"think_tags": ["<think>", "</think>"]}}}


CUT_TEXTS = ("<think>Hm, well.</think>So 4.", f"<think>Hm, well.</think>{CALL}", "<think>Hm.", f"Look. {CALL}", "")


@pytest.mark.parametrize("text", CUT_TEXTS)
async def test_wherever_it_is_cut_off_a_stream_is_the_same_response(text: str) -> None:
    async with sdk(THINKING, text=text, tokens_per_second=5000) as (_, app):
        for tokens in range(1, 40):
            body = {"model": "phi", "input": "hi", "tools": [TOOL], "max_output_tokens": tokens}
            whole = (await app.client.post("/v1/responses", json=body)).json()
            streamed = (await _stream(app, body))[-1]["response"]
            for response in (whole, streamed):
                for item in response["output"]:
                    del item["id"]
                    item.pop("call_id", None)
            assert (whole["output"], whole["status"]) == (streamed["output"], streamed["status"])


@pytest.mark.parametrize("tools", [{}, {"tools": []}, {"tools": None}])
async def test_without_tools_the_choice_may_still_be_automatic(tools: dict[str, Any]) -> None:
    async with sdk() as (_, app):
        for path in ("/v1/responses", "/v1/responses/input_tokens"):
            answer = await app.client.post(path, json={"model": "phi", "input": "hi", "tool_choice": "auto"} | tools)
            assert answer.status_code == 200, answer.text


async def test_text_after_a_call_belongs_to_its_turn() -> None:
    output = {"type": "function_call_output", "call_id": "c", "output": "78.5"}
    call = {"type": "function_call", "call_id": "c", "name": "area", "arguments": '{"radius": 5}'}
    before, after = ({"role": "assistant", "content": text} for text in ("Let me see.", " Done."))
    whole = {"role": "assistant", "content": "Let me see. Done."}
    async with sdk() as (_, app):
        prompts = []
        for said in ([before, call, after], [whole, call]):
            body = {"model": "phi", "tools": [TOOL], "input": [{"role": "user", "content": "How large?"}, *said, output]}
            assert (await app.client.post("/v1/responses", json=body)).status_code == 200
            prompts.append(read_prompt(app))
        assert prompts[0] == prompts[1]


async def test_a_response_that_fails_unforeseen_is_kept_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sdk(text="one two three four") as (_, app):
        generate = app.engines["a"].generate

        async def break_midway(request: Any) -> Any:
            async for event in generate(request):
                yield event
                raise RuntimeError("SECRET")

        monkeypatch.setattr(app.engines["a"], "generate", break_midway)
        response = (await _stream(app, {"model": "phi", "input": "hi"}))[-1]["response"]
        assert (response["status"], response["store"], "SECRET" in str(response)) == ("failed", True, False)
        assert (await app.client.get(f"/v1/responses/{response['id']}")).json() == response
