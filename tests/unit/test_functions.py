"""Which functions may be called, and in which shape: `allowed_tools`, and the legacy `functions` and `function_call`."""

import json
from typing import Any

import httpx
import openai
import pytest

from serve_app.conversation import Chat, ChoiceEnd, CompletedChoice, Completion, ToolCall
from serve_app.dialects.base import AnswerContext, parse
from serve_app.dialects.openai.codec import ChatCodec, CompletionCodec
from serve_app.record import RequestRecord
from serve_app.types import FinishReason, Grammar, JsonSchema, Usage
from tests.chat import constraint_of
from tests.unit.app import App, running

CHAT = "/v1/chat/completions"
PARAMETERS = {"type": "object", "properties": {"radius": {"type": "number"}}, "required": ["radius"]}
CIRCLE = {"name": "circle", "description": "Area of a circle", "parameters": PARAMETERS}
SQUARE = {"name": "square", "parameters": PARAMETERS}
USER = [{"role": "user", "content": "Area of a circle with radius 5?"}]
LEGACY: dict[str, Any] = {"messages": USER, "functions": [CIRCLE, SQUARE]}
TODAY: dict[str, Any] = {"messages": USER, "tools": [{"type": "function", "function": each} for each in (CIRCLE, SQUARE)]}
ONE = '<|tool_call|>[{"name": "circle", "arguments": {"radius": 5}}]<|/tool_call|>'
TWO = (
    '<|tool_call|>[{"name": "circle", "arguments": {"radius": 5}}, {"name": "circle", "arguments": {"radius": "x"}}]<|/tool_call|>'
)


def _decode(body: dict[str, Any]) -> Any:
    return ChatCodec().decode(parse(ChatCodec.body, json.dumps(body).encode()), "r")[0]


async def _stream(app: App, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = await app.client.post(CHAT, json=body | {"stream": True})
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("text", [ONE, TWO, "Well. " + TWO])
async def test_a_legacy_client_gets_one_call_in_its_shape(text: str) -> None:
    async with running(a={"text": text}) as app:
        response = await app.client.post(CHAT, json=LEGACY)
        chunks = await _stream(app, LEGACY)
    (choice,) = response.json()["choices"]
    said = "Well. " if text.startswith("Well") else None
    called = {"name": "circle", "arguments": '{"radius": 5}'}
    assert choice["message"] == {"role": "assistant", "content": said, "refusal": None, "function_call": called}
    assert (response.headers["x-task"], choice["finish_reason"]) == ("tools", "function_call")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert not any("tool_calls" in delta for delta in deltas)
    pieces = [delta["function_call"] for delta in deltas if "function_call" in delta]
    assert ["name" in piece for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert (pieces[0]["name"], "".join(piece["arguments"] for piece in pieces)) == ("circle", '{"radius": 5}')
    assert "".join(delta.get("content") or "" for delta in deltas) == (said or "")
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"
    assert "invalid_tool_arguments" not in response.text + json.dumps(chunks)  # the second call's, which nobody got


async def test_the_generation_ends_with_the_one_call() -> None:
    async with running(a={"text": TWO + " word" * 300, "tokens_per_second": 2000}) as app:
        used = (await app.client.post(CHAT, json=LEGACY)).json()["usage"]["completion_tokens"]
        whole = (await app.client.post(CHAT, json=TODAY)).json()["usage"]["completion_tokens"]
        assert app.engines["a"].load().running == 0
    assert used < whole - 250


async def test_a_legacy_client_without_a_call_gets_text() -> None:
    async with running(a={"text": "Hello."}) as app:
        (choice,) = (await app.client.post(CHAT, json=LEGACY)).json()["choices"]
        (none,) = (await app.client.post(CHAT, json=LEGACY | {"function_call": "none"})).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello.", "stop")
    assert none == choice


async def test_legacy_functions_are_shown_and_forced_as_tools_are() -> None:
    today = TODAY | {"tool_choice": {"type": "function", "function": {"name": "circle"}}}
    forced, tool = _decode(LEGACY | {"function_call": {"name": "circle"}}), _decode(today)
    assert (forced.prompts, constraint_of(forced)) == (tool.prompts, constraint_of(tool))
    assert (_decode(LEGACY).prompts, constraint_of(_decode(LEGACY))) == (_decode(TODAY).prompts, constraint_of(_decode(TODAY)))
    assert _decode(LEGACY | {"function_call": "auto"}) == _decode(LEGACY)
    unoffered = _decode(LEGACY | {"function_call": "none"})
    assert (unoffered.prompts[0].tools, constraint_of(unoffered)) == ((), None)


@pytest.mark.parametrize("path", [f"{CHAT}/render", "/tokenize", "/v1/route"])
async def test_every_endpoint_that_takes_tools_takes_legacy_functions(path: str) -> None:
    volatile = {"candidates"}
    async with running(a={}) as app:
        legacy, today = [(await app.client.post(path, json=body)).json() for body in (LEGACY, TODAY)]
        hidden = [
            (await app.client.post(path, json=body)).json() for body in (LEGACY | {"function_call": "none"}, {"messages": USER})
        ]
    assert {k: v for k, v in legacy.items() if k not in volatile} == {k: v for k, v in today.items() if k not in volatile}
    assert hidden[0] == hidden[1] != legacy


async def test_the_official_client_reads_the_legacy_shape() -> None:
    async with running(a={"text": ONE}) as app, httpx.AsyncClient(transport=app.asgi) as transport:
        client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="unused", http_client=transport)
        ask: Any = {"model": "phi-4-mini", **LEGACY}
        whole = (await client.chat.completions.create(**ask)).choices[0]
        assert whole.message.function_call is not None
        again = [*USER, whole.message.model_dump(), {"role": "function", "name": "circle", "content": "78.5"}]
        after = await client.chat.completions.create(**ask | {"messages": again})
        name, arguments, reason = "", "", None
        async for chunk in await client.chat.completions.create(**ask, stream=True):
            piece, reason = chunk.choices[0].delta.function_call, chunk.choices[0].finish_reason
            name, arguments = name + ((piece and piece.name) or ""), arguments + ((piece and piece.arguments) or "")
    assert (whole.message.function_call.name, whole.finish_reason) == ("circle", "function_call")
    assert (name, arguments, reason) == ("circle", whole.message.function_call.arguments, "function_call")
    assert after.choices[0].finish_reason == "function_call"


def test_a_cut_call_ends_in_length_in_the_legacy_shape_too() -> None:
    body = parse(ChatCodec.body, json.dumps(LEGACY).encode())
    request, stream = ChatCodec().decode(body, "r")
    call = AnswerContext(
        request=request, record=RequestRecord(request_id="r", model="m"), body=body, stream=stream, created=0, elapsed=lambda: 0.0
    )
    end = ChoiceEnd(reason=FinishReason.LENGTH, usage=Usage(prompt_tokens=1, completion_tokens=1))
    cut = CompletedChoice(text="", logprobs=(), end=end, tool_calls=(ToolCall(name="circle", arguments='{"ra'),))
    (shown,) = ChatCodec().encode(Completion(choices=(cut,)), call)["choices"]
    assert (shown["finish_reason"], shown["message"]["function_call"]["arguments"]) == ("length", '{"ra')


ALLOWED = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "square"}}]}


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "allowed_tools", "allowed_tools": ALLOWED},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "square"}]},
    ],
)
def test_allowed_tools_are_those_that_are_offered(choice: dict[str, Any]) -> None:
    alone = TODAY | {"tools": TODAY["tools"][1:]}
    assert _decode(TODAY | {"tool_choice": choice}) == _decode(alone)
    must = json.loads(json.dumps(choice).replace('"auto"', '"required"'))
    required = _decode(TODAY | {"tool_choice": must})
    assert required == _decode(alone | {"tool_choice": "required"})
    assert isinstance(constraint_of(required), Grammar)
    once = {"parallel_tool_calls": False}
    assert _decode(TODAY | {"tool_choice": must} | once) == _decode(alone | {"tool_choice": "required"} | once)


async def test_a_tool_that_is_not_allowed_is_not_shown_anywhere() -> None:
    body = TODAY | {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED}}
    async with running(a={"text": ONE}) as app:
        rendered = (await app.client.post(f"{CHAT}/render", json=body)).json()
        tokenized = (await app.client.post("/tokenize", json=body)).json()
        routed = await app.client.post("/v1/route", json=body)
        assert (await app.client.post(CHAT, json=body)).status_code == 200
        (request,) = app.engines["a"].requests
    assert list(request.prompt) == rendered["prompt_token_ids"] == tokenized["tokens"]
    assert "square" in rendered["prompt"]
    assert '"name": "circle"' not in rendered["prompt"]
    assert routed.json()["task"] == "tools"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "functions and tools": (TODAY | {"functions": [CIRCLE]}, "functions"),
    "functions and a tool's choice": (LEGACY | {"tool_choice": "auto"}, "functions"),
    "a function's call and tools": (TODAY | {"function_call": "auto"}, "function_call"),
    "a call without functions": ({"messages": USER, "function_call": {"name": "circle"}}, "function_call"),
    "an unknown function": (LEGACY | {"function_call": {"name": "no_tools"}}, "function_call"),
    "no choice": (LEGACY | {"function_call": "required"}, "function_call"),
    "a name with spaces": ({"messages": USER, "functions": [CIRCLE, {"name": "a b"}]}, "functions.1.name"),
    "no schema": ({"messages": USER, "functions": [{"name": "f", "parameters": []}]}, "functions.0.parameters"),
    "two of one name": ({"messages": USER, "functions": [CIRCLE, CIRCLE]}, "functions"),
    "allowed without tools": (TODAY | {"tools": [], "tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED}},
                              "tool_choice"),
    "no list of allowed ones": (TODAY | {"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    "an empty list": (TODAY | {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED | {"tools": []}}},
                      "tool_choice.allowed_tools.tools"),
    "an unknown mode": (TODAY | {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED | {"mode": "none"}}},
                        "tool_choice.allowed_tools.mode"),
    "an unknown allowed one": (TODAY | {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED | {
        "tools": [{"type": "function", "function": {"name": "no"}}]}}}, "tool_choice"),
    "an unnamed allowed one": (TODAY | {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED | {
        "tools": [{"type": "function"}]}}}, "tool_choice"),
    "a custom tool": (TODAY | {"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type"),
    "a choice without a function": (TODAY | {"tool_choice": {"type": "function"}}, "tool_choice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_bad_choices_are_named_by_the_fields_that_the_client_knows(case: str) -> None:
    body, param = BAD[case]
    async with running(a={}) as app:
        response = await app.client.post(CHAT, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert "ToolChoice" not in error["message"]
    assert ("tool" in error["message"]) <= ("tool" in json.dumps(body))


def _completion(**extra: Any) -> Any:
    body = parse(CompletionCodec.body, json.dumps({"prompt": "x"} | extra).encode())
    return constraint_of(CompletionCodec().decode(body, "r")[0])


def test_completions_take_response_format() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert _completion(response_format={"type": "json_object"}) == JsonSchema('{"type":"object"}')
    formatted = {"type": "json_schema", "json_schema": {"name": "t", "schema": schema, "strict": True}}
    assert _completion(response_format=formatted) == _completion(structured_outputs={"json": schema})
    assert _completion(response_format={"type": "text"}) is None
    assert _completion(response_format=None) is None


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "response_format"),
        ({"response_format": {"type": "json_object"}}, None),
    ],
)
async def test_completions_never_ignore_a_format(extra: dict[str, Any], param: str | None) -> None:
    async with running(a={}) as app:
        response = await app.client.post("/v1/completions", json={"prompt": "x"} | extra)
        assert not app.engines["a"].requests
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_request_without_functions_has_room_for_several_calls() -> None:
    assert not _decode(TODAY).one_call
    assert isinstance(_decode(LEGACY).prompts[0], Chat)
    assert _decode(LEGACY).one_call
