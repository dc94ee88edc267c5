"""Tool calls and answer formats on the running application, by OpenAI's client: the same on every group, streamed and whole."""

import json
from typing import Any

import jsonschema
import pytest
from openai import OpenAI

from benchmarks.live import LiveApp

GROUPS = ["onnx", "llama_cpp", "vllm"]
CIRCLE: Any = {
    "type": "function",
    "function": {
        "name": "calculate_circle_area",
        "description": "Calculate the area of a circle given its radius",
        "parameters": {
            "type": "object",
            "properties": {"radius": {"type": "number", "description": "The radius of the circle"}},
            "required": ["radius"],
        },
    },
}
ASK: Any = [{"role": "user", "content": "Calculate the area of a circle with radius 5 units"}]


@pytest.fixture
def client(app: LiveApp) -> OpenAI:
    return OpenAI(base_url=f"{app.url}/v1", api_key="unused")


def _options(group: str, **more: Any) -> dict[str, Any]:
    return {"model": "phi-4-mini", "temperature": 0, "extra_headers": {"x-engine": group}} | more


@pytest.mark.parametrize("group", GROUPS)
def test_the_tutorials_circle_is_one_call(client: OpenAI, group: str) -> None:
    choice = client.chat.completions.create(messages=ASK, tools=[CIRCLE], **_options(group)).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("calculate_circle_area", {"radius": 5})


@pytest.mark.parametrize("group", GROUPS)
def test_streamed_by_the_clients_own_helper(client: OpenAI, group: str) -> None:
    with client.chat.completions.stream(messages=ASK, tools=[CIRCLE], **_options(group)) as stream:
        kinds = {event.type for event in stream}
        choice = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.done" in kinds
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or ()
    assert (call.function.name, json.loads(call.function.arguments)) == ("calculate_circle_area", {"radius": 5})


@pytest.mark.parametrize("group", GROUPS)
def test_call_result_answer(client: OpenAI, group: str) -> None:
    message = client.chat.completions.create(messages=ASK, tools=[CIRCLE], **_options(group)).choices[0].message
    (call,) = message.tool_calls or ()
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": '{"area": 78.54}'}
    messages: Any = [*ASK, message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(messages=messages, tools=[CIRCLE], **_options(group)).choices[0]
    assert answer.finish_reason == "stop"
    assert "78.54" in (answer.message.content or "")


@pytest.mark.parametrize("group", GROUPS)
def test_choices(client: OpenAI, group: str) -> None:
    hello: Any = [{"role": "user", "content": "Hello!"}]
    other: Any = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    named: Any = {"type": "function", "function": {"name": "calculate_circle_area"}}
    for wish in ("required", named):
        choice = client.chat.completions.create(messages=hello, tools=[CIRCLE, other], tool_choice=wish, **_options(group)).choices[
            0
        ]
        assert choice.finish_reason == "tool_calls"
        for call in choice.message.tool_calls or ():
            if call.function.name == "calculate_circle_area":
                jsonschema.validate(json.loads(call.function.arguments), CIRCLE["function"]["parameters"])
        assert wish == "required" or [call.function.name for call in choice.message.tool_calls or ()] == ["calculate_circle_area"]
    none = client.chat.completions.create(messages=ASK, tools=[CIRCLE], tool_choice="none", **_options(group)).choices[0]
    assert none.message.tool_calls is None


@pytest.mark.parametrize("group", GROUPS)
def test_schemas(client: OpenAI, group: str) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": schema, "strict": True}}
    for seed in range(3):
        options = _options(group, temperature=1.0, seed=seed)
        text = client.chat.completions.create(messages=ASK, response_format=wanted, **options).choices[0].message.content
        jsonschema.validate(json.loads(text or ""), schema)
    with client.chat.completions.stream(messages=ASK, response_format=wanted, **_options(group)) as stream:
        jsonschema.validate(json.loads(stream.get_final_completion().choices[0].message.content or ""), schema)
