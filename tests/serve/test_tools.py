"""Tool calls and answer formats on the running application, by OpenAI's client: the same on every group, streamed and whole."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import httpx
import jsonschema
import pytest
from openai import BadRequestError, OpenAI

from tests.live import GROUPS, LiveApp
from tests.schemas import random_object
from tests.wild_schemas import wild_object

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


@pytest.mark.parametrize("choice", ["auto", {"name": "calculate_circle_area"}])
@pytest.mark.parametrize("group", GROUPS)
def test_the_legacy_shape(client: OpenAI, group: str, choice: Any) -> None:
    legacy: Any = {"functions": [CIRCLE["function"]], "function_call": choice}
    answer = client.chat.completions.create(messages=ASK, **legacy, **_options(group)).choices[0]
    call = answer.message.function_call
    assert call is not None
    assert (answer.finish_reason, answer.message.tool_calls) == ("function_call", None)
    assert (call.name, json.loads(call.arguments)) == ("calculate_circle_area", {"radius": 5})
    chunks = list(client.chat.completions.create(messages=ASK, stream=True, **legacy, **_options(group)))
    pieces = [chunk.choices[0].delta.function_call for chunk in chunks if chunk.choices[0].delta.function_call]
    assert (pieces[0].name, "".join(piece.arguments or "" for piece in pieces)) == (call.name, call.arguments)
    assert chunks[-1].choices[0].finish_reason == "function_call"
    result: Any = {"role": "function", "name": call.name, "content": '{"area": 78.54}'}
    after = client.chat.completions.create(
        messages=[*ASK, answer.message.model_dump(exclude_none=True), result], functions=legacy["functions"], **_options(group)
    )
    assert "78.54" in (after.choices[0].message.content or "")


@pytest.mark.parametrize("group", GROUPS)
def test_allowed_tools(client: OpenAI, group: str) -> None:
    other: Any = {"type": "function", "function": CIRCLE["function"] | {"name": "other"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "calculate_circle_area"}}]}
    choice: Any = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = client.chat.completions.create(messages=ASK, tools=[other, CIRCLE], tool_choice=choice, **_options(group)).choices[0]
    assert {call.function.name for call in answer.message.tool_calls or ()} == {"calculate_circle_area"}  # type: ignore[union-attr]


@pytest.mark.parametrize("group", GROUPS)
def test_completions_keep_a_response_format(client: OpenAI, group: str) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    wanted: Any = {"response_format": {"type": "json_schema", "json_schema": {"name": "t", "schema": schema}}}
    whole = client.completions.create(prompt="Hello", max_tokens=40, extra_body=wanted, **_options(group)).choices[0]
    streamed = client.completions.create(prompt="Hello", max_tokens=40, stream=True, extra_body=wanted, **_options(group))
    assert json.loads(whole.text)["a"] in ("x", "y")
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.text


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
def test_constraints_too_large_to_follow_are_the_clients_fault_and_open_no_breaker(client: OpenAI, group: str) -> None:
    wish: Any = {"structured_outputs": {"regex": "(a|aa|aaa){900,5000}b"}}
    for _ in range(7):  # five failures would leave the group alone for half a minute
        with pytest.raises(BadRequestError, match="make it simpler"):
            client.chat.completions.create(messages=ASK, max_tokens=1500, extra_body=wish, **_options(group))
    assert client.chat.completions.create(messages=ASK, max_tokens=5, **_options(group)).choices


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


def _each(count: int, ask: Callable[[int], str | None]) -> list[str]:
    """What went wrong in `count` questions asked eight at a time."""
    with ThreadPoolExecutor(8) as pool:
        return [fault for fault in pool.map(ask, range(count)) if fault]


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_answers_keep_a_hundred_random_schemas(client: OpenAI, group: str) -> None:
    def ask(number: int) -> str | None:
        schema = random_object(Random(number))
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        options = _options(group, temperature=1.0, seed=number, max_tokens=1500)
        choice = client.chat.completions.create(messages=ASK, response_format=wanted, **options).choices[0]
        return _fault(choice.message.content or "", schema, choice.finish_reason)

    assert _each(100, ask) == []


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("named", [False, True])
def test_forced_calls_keep_fifty_random_schemas(client: OpenAI, group: str, named: bool) -> None:
    def ask(number: int) -> str | None:
        rng = Random(number)
        schemas = {f"tool_{at}": random_object(rng) for at in range(3)}
        tools: Any = [{"type": "function", "function": {"name": name, "parameters": each}} for name, each in schemas.items()]
        wish: Any = {"type": "function", "function": {"name": "tool_1"}} if named else "required"
        options = _options(group, temperature=1.0, seed=number, max_tokens=3000)
        choice = client.chat.completions.create(messages=ASK, tools=tools, tool_choice=wish, **options).choices[0]
        calls: Any = choice.message.tool_calls or ()
        if not calls or (named and [call.function.name for call in calls] != ["tool_1"]):
            return f"schema {number}: calls {[call.function.name for call in calls]}, {choice.finish_reason}"
        faults = [_fault(call.function.arguments, schemas[call.function.name], choice.finish_reason) for call in calls]
        return "; ".join(fault for fault in faults if fault)

    assert _each(50, ask) == []


def _fault(text: str, schema: dict[str, Any], reason: str) -> str | None:
    try:
        jsonschema.validate(json.loads(text), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{reason}: {text[:200]} is not {json.dumps(schema)[:300]}: {str(error)[:80]}"
    return None


@pytest.mark.parametrize("group", GROUPS)
def test_what_a_schema_wants_and_no_grammar_keeps_is_flagged(app: LiveApp, group: str) -> None:
    """Two equal items are all that is left to say: whole and streamed, in both dialects, and refused where strict."""
    schema = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    format_: Any = {"type": "json_schema", "json_schema": {"name": "t", "schema": schema}}
    body: Any = {"model": "phi-4-mini", "messages": ASK, "response_format": format_, "temperature": 0}
    headers = {"x-engine": group}
    whole = httpx.post(f"{app.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    choice = whole.json()["choices"][0]
    assert (json.loads(choice["message"]["content"]), choice["finish_reason"]) == ([1, 1], "stop")
    assert (choice["invalid_answer"], whole.headers["x-invalid-answer"]) == (True, "0")
    streamed = httpx.post(f"{app.url}/v1/chat/completions", json=body | {"stream": True}, headers=headers, timeout=60).text
    assert json.loads(streamed.split("\n\n")[-3].removeprefix("data: "))["choices"][0]["invalid_answer"] is True
    for stream in (False, True):
        asked = {"model": "phi4-mini", "messages": ASK, "format": schema, "stream": stream}
        said = httpx.post(f"{app.url}/api/chat", json=asked, headers=headers, timeout=60).text.splitlines()
        assert json.loads(said[-1])["invalid_answer"] is True
    format_["json_schema"]["strict"] = True
    refused = httpx.post(f"{app.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert (refused.status_code, "uniqueItems" in refused.text) == (400, True)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_two_hundred_wild_schemas(app: LiveApp, group: str) -> None:
    """Whatever clients generate: an answer that ended fits its schema or is flagged; nothing is a server's error."""

    def ask(number: int) -> str | None:
        schema = wild_object(Random(number))
        path, body = _asking_for(schema, number % 4)
        body |= {"model": "phi4-mini", "messages": ASK}
        said = httpx.post(f"{app.url}{path}", json=body, headers={"x-engine": group}, timeout=180)
        if said.status_code != 200:
            strict = number % 4 == 1 and "constraint cannot be used" in said.text
            incapable = f"{group}: incapable" in said.text  # llama.cpp, for patterns beside texts outside ASCII
            if said.status_code == 400 and (strict or incapable):
                return None
            return f"schema {number}: {said.status_code} {said.text[:300]}"
        return _wild_fault(said, schema, number)

    assert _each(200, ask) == []
    states = [line for line in httpx.get(f"{app.url}/metrics").text.splitlines() if line.startswith("phi_serve_breaker{")]
    assert states
    assert not [line for line in states if 'state="closed"' not in line and line.endswith(" 1.0")]


def _asking_for(schema: dict[str, Any], way: int) -> tuple[str, dict[str, Any]]:
    """Return an endpoint and what it is asked: an answer, one that is promised, a call, Ollama's format."""
    sampling: dict[str, Any] = {"temperature": 1.0, "seed": 1, "max_tokens": 600}
    if way == 3:
        return "/api/chat", {"format": schema, "stream": False, "options": {"temperature": 1.0, "seed": 1, "num_predict": 600}}
    if way == 2:
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        return "/v1/chat/completions", sampling | {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    format_ = {"type": "json_schema", "json_schema": {"name": "t", "schema": schema, "strict": way == 1}}
    return "/v1/chat/completions", sampling | {"response_format": format_}


def _wild_fault(said: httpx.Response, schema: dict[str, Any], number: int) -> str | None:
    answer = json.loads(said.content, parse_constant=_no_json)
    choice = answer["choices"][0] if "choices" in answer else answer
    reason = choice["finish_reason"] if "choices" in answer else choice["done_reason"]
    if reason == "length" or "invalid_answer" in choice or "invalid_tool_arguments" in choice:
        return None
    calls = choice["message"].get("tool_calls")
    text = calls[0]["function"]["arguments"] if calls else choice["message"]["content"]
    return _fault(text, schema, f"schema {number}, {reason}")


def _no_json(what: str) -> None:
    raise AssertionError(f"{what} is no JSON")
