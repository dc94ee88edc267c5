"""Ollama's API over scripted engines: what comes on the wire, and what the engines get."""

import json
from typing import Any

import ollama
import pytest

from serve_app.types import Grammar, JsonSchema
from tests.chat import constraint_of
from tests.unit.app import App, running

CHAT, GENERATE = "/api/chat", "/api/generate"
TEXT = "Hello there, friend."
HI: dict[str, Any] = {"model": "phi4-mini", "messages": [{"role": "user", "content": "hi"}]}
ASK: dict[str, Any] = {"model": "phi4-mini", "prompt": "hi"}
PARAMETERS = {"type": "object", "properties": {"radius": {"type": "number"}}, "required": ["radius"]}
CIRCLE = {"type": "function", "function": {"name": "circle", "description": "Area of a circle", "parameters": PARAMETERS}}
CALL = '<|tool_call|>[{"name": "circle", "arguments": {"radius": 5}}, {"name": "circle", "arguments": {"radius": 6}}]<|/tool_call|>'


def _client(app: App) -> ollama.AsyncClient:
    return ollama.AsyncClient(host="http://test", transport=app.asgi)


def _prompt(app: App, at: int = -1, group: str = "a") -> str:
    tokenizer = app.gateway.catalog.resolve(None).model.tokenizer
    return b"".join(map(tokenizer.raw, app.engines[group].requests[at].prompt)).decode()


def _lines(text: str) -> list[Any]:
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


async def test_streams_by_default_one_object_a_line() -> None:
    async with running(a={"text": TEXT}) as app:
        chat = await app.client.post(CHAT, json=HI)
        generate = await app.client.post(GENERATE, json=ASK)
    for response, said in ((chat, lambda line: line["message"]["content"]), (generate, lambda line: line["response"])):
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        assert response.headers["x-engine"] == "a"
        lines = _lines(response.text)
        assert "".join(map(said, lines)) == TEXT
        assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
        assert {line["model"] for line in lines} == {"phi4-mini"}
        last = lines[-1]
        assert last["done_reason"] == "stop"
        assert last["eval_count"] == len(app.gateway.catalog.resolve(None).model.tokenizer.encode(TEXT, special=False)) + 1
        assert last["prompt_eval_count"] == len(app.engines["a"].requests[0].prompt)
        assert last["total_duration"] >= last["eval_duration"] > 0
        assert all(isinstance(last[name], int) for name in last if name.endswith(("_duration", "_count")))


async def test_whole_answers_equal_streamed_ones() -> None:
    async with running(a={"text": TEXT}) as app:
        client = _client(app)
        whole = await client.generate(**ASK)
        parts = [part async for part in await client.generate(**ASK, stream=True)]
        chat = await client.chat(**HI)
        chunks = [part async for part in await client.chat(**HI, stream=True)]
    assert whole.response == "".join(part.response or "" for part in parts) == TEXT
    assert whole.context == parts[-1].context
    assert chat.message.content == "".join(chunk.message.content or "" for chunk in chunks) == TEXT


async def test_defaults_are_ollamas_and_options_win() -> None:
    options = {"temperature": 0, "top_k": 7, "num_predict": 3, "seed": 5, "repeat_penalty": 1.2, "num_ctx": 4096, "num_thread": 4}
    async with running(a={"text": TEXT}) as app:
        await app.client.post(GENERATE, json=ASK)
        short = await app.client.post(GENERATE, json=ASK | {"options": options, "stream": False})
        await app.client.post(GENERATE, json=ASK | {"options": {"num_predict": -1, "seed": -1, "nonsense": 1, "top_p": 1}})
        plain, wished, open_ended = (request.sampling for request in app.engines["a"].requests)
    assert (plain.temperature, plain.top_k, plain.top_p, plain.repetition_penalty) == (0.8, 40, 0.9, 1.0)
    assert (wished.temperature, wished.top_k, wished.max_tokens, wished.seed, wished.repetition_penalty) == (0, 7, 3, 5, 1.2)
    assert (open_ended.max_tokens, open_ended.seed, open_ended.top_p) == (None, None, 1)
    assert short.json()["done_reason"] == "length"
    assert short.json()["eval_count"] == 3


async def test_stop_strings_end_the_answer() -> None:
    async with running(a={"text": TEXT}) as app:
        for stop in ("there", ["friend", "there"]):
            body = (await app.client.post(GENERATE, json=ASK | {"stream": False, "options": {"stop": stop}})).json()
            assert (body["response"], body["done_reason"]) == ("Hello ", "stop")
            assert body["eval_duration"] > 0


async def test_generate_puts_the_prompt_into_the_models_template() -> None:
    async with running(a={}) as app:
        await app.client.post(GENERATE, json=ASK | {"system": "Be brief."})
        assert _prompt(app) == "<|system|>Be brief.<|end|><|user|>hi<|end|><|assistant|>"
        await app.client.post(GENERATE, json=ASK | {"prompt": "<|user|>raw<|end|>", "raw": True, "stream": False})
        assert _prompt(app) == "<|user|>raw<|end|>"
        own = "{{ if .System }}<|system|>{{ .System }}<|end|>{{ end }}Q: {{ .Prompt }}\nA: {{ .Response }}!"
        await app.client.post(GENERATE, json=ASK | {"template": own, "system": "<|end|>S"})
        assert _prompt(app) == "<|system|><|end|>S<|end|>Q: hi\nA: "
        special = [
            app.gateway.catalog.resolve(None).model.tokenizer.raw(t)
            for t in app.engines["a"].requests[-1].prompt
            if t in app.gateway.catalog.resolve(None).model.tokenizer.vocabulary.control_ids
        ]
        assert special == [b"<|system|>", b"<|end|>"]


async def test_context_goes_on_where_the_last_answer_ended() -> None:
    async with running(a={"text": "Two."}) as app:
        first = (await app.client.post(GENERATE, json=ASK | {"stream": False, "system": "S"})).json()
        assert "".join(app.gateway.catalog.resolve(None).model.tokenizer.raw(token).decode() for token in first["context"]) == (
            "<|system|>S<|end|><|user|>hi<|end|><|assistant|>Two."
        )
        await app.client.post(GENERATE, json=ASK | {"prompt": "and?", "context": first["context"]})
        assert _prompt(app) == "<|system|>S<|end|><|user|>hi<|end|><|assistant|>Two.<|end|><|user|>and?<|end|><|assistant|>"
        raw = (await app.client.post(GENERATE, json=ASK | {"stream": False, "raw": True})).json()
    assert "context" not in raw


async def test_tool_calls_have_objects_as_arguments() -> None:
    async with running(a={"text": "Well. " + CALL}) as app:
        client = _client(app)
        whole = await client.chat(**HI, tools=[CIRCLE])
        chunks = [chunk async for chunk in await client.chat(**HI, tools=[CIRCLE], stream=True)]
        assert _prompt(app).startswith(f"<|system|><|tool|>[{json.dumps(CIRCLE['function'])}]<|/tool|><|end|>")
    assert whole.message.content == "Well. "
    assert whole.done_reason == "stop"
    for calls in (whole.message.tool_calls or [], [call for chunk in chunks for call in chunk.message.tool_calls or []]):
        assert [(call.function.name, call.function.arguments) for call in calls] == [
            ("circle", {"radius": 5}),
            ("circle", {"radius": 6}),
        ]


async def test_what_no_tool_takes_is_flagged_in_the_last_line_and_never_dropped() -> None:
    wrong = '<|tool_call|>[{"name": "circle", "arguments": {"radius": "five"}}, {"name": "circle", "arguments": {"radius": 5'
    async with running(a={"text": wrong}) as app:
        client = _client(app)
        whole = await client.chat(**HI, tools=[CIRCLE])
        chunks = [chunk async for chunk in await client.chat(**HI, tools=[CIRCLE], stream=True)]
        raw = (await app.client.post(CHAT, json=HI | {"tools": [CIRCLE], "stream": False})).json()
        lines = _lines((await app.client.post(CHAT, json=HI | {"tools": [CIRCLE]})).text)
    for message, text in (
        (whole.message.tool_calls or [], whole.message.content),
        ([call for chunk in chunks for call in chunk.message.tool_calls or []], "".join(c.message.content or "" for c in chunks)),
    ):
        assert [call.function.arguments for call in message] == [{"radius": "five"}]
        assert text == '{"name": "circle", "arguments": {"radius": 5'
    assert raw["invalid_tool_arguments"] == lines[-1]["invalid_tool_arguments"] == ["circle", "circle"]
    assert not any("invalid_tool_arguments" in line for line in lines[:-1])


async def test_calls_and_results_reach_the_model_as_openais_do() -> None:
    call = {"function": {"name": "circle", "arguments": {"radius": 5}}}
    turns = [*HI["messages"], {"role": "assistant", "content": "", "tool_calls": [call]}]
    result = {"role": "tool", "content": '{"area": 78.5}'}
    made = {"id": "c", "type": "function", "function": {"name": "circle", "arguments": '{"radius": 5}'}}
    async with running(a={}) as app:
        await app.client.post(CHAT, json=HI | {"messages": [*turns, result | {"tool_name": "circle"}], "tools": [CIRCLE]})
        openai = [*HI["messages"], {"role": "assistant", "tool_calls": [made]}, result | {"tool_call_id": "c"}]
        await app.client.post("/v1/chat/completions", json={"messages": openai, "tools": [CIRCLE]})
        ours, theirs = app.engines["a"].requests
    assert ours.prompt == theirs.prompt


async def test_formats_become_constraints() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    async with running(a={}) as app:
        codec = next(e.codec for e in _ollama_endpoints() if e.path == CHAT)

        def constraint(**fields: Any) -> Any:
            return constraint_of(codec.decode(codec.body.model_validate(HI | fields), "id")[0])

        assert constraint(format="json") == JsonSchema('{"type":"object"}')
        assert constraint(format=schema) == JsonSchema(json.dumps(schema), lenient=True)
        assert constraint(format="") is None
        assert isinstance(constraint(format="json", tools=[CIRCLE]), Grammar)
        refused = await app.client.post(CHAT, json=HI | {"format": "json"})  # the fake engine keeps no constraint
    assert refused.status_code == 400
    assert "structured" in refused.json()["error"] or "no engine group" in refused.json()["error"]


def _ollama_endpoints() -> list[Any]:
    from serve_app.dialects.base import Generate
    from serve_app.dialects.ollama import DIALECT

    return [endpoint for endpoint in DIALECT.endpoints if isinstance(endpoint, Generate)]


async def test_logprobs() -> None:
    async with running(a={"text": "Hi."}) as app:
        whole = (await app.client.post(GENERATE, json=ASK | {"stream": False, "logprobs": True, "top_logprobs": 1})).json()
        lines = _lines((await app.client.post(CHAT, json=HI | {"logprobs": True})).text)
    assert "".join(entry["token"] for entry in whole["logprobs"]) == "Hi."
    assert whole["logprobs"][0]["top_logprobs"][0]["bytes"]
    assert sum(len(line.get("logprobs", [])) for line in lines) == len(whole["logprobs"])


@pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), ("5m", "load"), (-1, "load"), (0, "unload"), ("0s", "unload")])
async def test_an_empty_prompt_loads_or_unloads(keep_alive: Any, reason: str) -> None:
    async with running(a={}) as app:
        generate = await app.client.post(GENERATE, json={"model": "phi4-mini", "keep_alive": keep_alive})
        chat = await app.client.post(CHAT, json={"model": "phi4-mini", "messages": [], "keep_alive": keep_alive})
        assert not app.engines["a"].requests
    assert generate.headers["content-type"] == "application/json"
    assert generate.json().items() >= {"response": "", "done": True, "done_reason": reason}.items()
    assert chat.json().items() >= {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason}.items()


async def test_nothing_is_loaded_where_no_group_is_ready() -> None:
    async with running(a={"absent": True}) as app:
        response = await app.client.post(GENERATE, json={"model": "phi4-mini"})
        running_models = (await app.client.get("/api/ps")).json()
    assert response.status_code == 503
    assert running_models == {"models": []}


BAD = {
    "no body": (b"", 400, "missing request body"),
    "not JSON": (b"{", 400, "The body is not valid JSON"),
    "no model": (b'{"prompt":"hi"}', 400, "model is required"),
    "unknown model": (b'{"model":"nope","prompt":"hi"}', 404, "model 'nope' not found"),
    "suffix": (b'{"model":"phi4-mini","prompt":"hi","suffix":"x"}', 400, '"phi4-mini" does not support insert'),
    "thinking": (b'{"model":"phi4-mini","prompt":"hi","think":true}', 400, '"phi4-mini" does not support thinking'),
    "thinking hard": (b'{"model":"phi4-mini","prompt":"hi","think":"high"}', 400, '"phi4-mini" does not support thinking'),
    "an image": (b'{"model":"phi4-mini","prompt":"hi","images":["aGk="]}', 400, '"phi4-mini" does not support images'),
    "raw with system": (b'{"model":"phi4-mini","prompt":"hi","raw":true,"system":"s"}', 400, "raw mode does not support"),
    "a bad option": (
        b'{"model":"phi4-mini","prompt":"hi","options":{"temperature":"hot"}}',
        400,
        'option "temperature" must be of type float',
    ),
    "an option too large": (b'{"model":"phi4-mini","prompt":"hi","options":{"temperature":3}}', 400, "temperature must be between"),
    "a huge option": (b'{"model":"phi4-mini","prompt":"hi","options":{"top_p":1' + b"0" * 400 + b"}}", 400, "top_p"),
    "a bad format": (b'{"model":"phi4-mini","prompt":"hi","format":"yaml"}', 400, 'format must be "json" or a JSON schema'),
    "a bad duration": (b'{"model":"phi4-mini","prompt":"hi","keep_alive":"soon"}', 400, "invalid duration 'soon'"),
    "a bad template": (b'{"model":"phi4-mini","prompt":"hi","template":"\\n{{ call .X }}"}', 400, "template line 2: "),
    "negative context": (b'{"model":"phi4-mini","prompt":"hi","context":[-1]}', 400, "context must hold"),
    "a context of text": (b'{"model":"phi4-mini","prompt":"hi","context":["a"]}', 400, "context.0"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_requests(case: str) -> None:
    content, status, text = BAD[case]
    async with running(a={}) as app:
        response = await app.client.post(GENERATE, content=content)
        assert not app.engines["a"].requests
    assert response.status_code == status
    assert set(response.json()) == {"error"}
    assert text in response.json()["error"]


async def test_errors_have_ollamas_shape() -> None:
    async with running({"limits": {"max_body_bytes": 2000, "max_concurrent_generations": 1}}, a={"tokens_per_second": 20}) as app:
        wrong = await app.client.get(CHAT)
        missing = await app.client.get("/api/nothing")
        large = await app.client.post(GENERATE, json=ASK | {"prompt": "x" * 3000})
        async with app.client.stream("POST", GENERATE, json=ASK):
            app.gateway.active_by_model["phi-4-mini-instruct"] = 1
            busy = await app.client.post(GENERATE, json=ASK)
    assert (wrong.status_code, missing.status_code, large.status_code, busy.status_code) == (405, 404, 413, 503)
    assert busy.json() == {"error": "server busy, please try again.  maximum pending requests exceeded"}
    assert all(set(response.json()) == {"error"} for response in (wrong, missing, large))


async def test_a_failure_midway_is_a_line() -> None:
    async with running(routing={"max_attempts": 1}, a={"text": TEXT, "fault": "die_midway"}) as app:
        lines = _lines((await app.client.post(CHAT, json=HI)).text)
        whole = await app.client.post(CHAT, json=HI | {"stream": False})
    assert set(lines[-1]) == {"error"}
    assert not any(line.get("done") for line in lines)
    assert (whole.status_code, set(whole.json())) == (503, {"error"})


async def test_the_root_is_ollamas_on_its_port_only() -> None:
    async with running(a={}) as app:
        plain = await app.client.get("/")
        told = await app.client.get("/", headers={"host": "box:11434"})
        heads = [await app.client.head(path) for path in ("/", "/api/tags", "/api/version", "/api/ps")]
        version = await app.client.get("/api/version")
    assert plain.json()["name"] == "phi-serve"
    assert (told.text, told.headers["content-type"]) == ("Ollama is running", "text/plain; charset=utf-8")
    assert [response.status_code for response in heads] == [200] * 4
    assert version.json()["version"]


@pytest.mark.parametrize("role", ["User", "USER", "user"])
async def test_roles_may_be_written_in_any_case(role: str) -> None:
    turns = [("System", "S"), (role, "hi"), ("ASSISTANT", "Yes."), ("Tool", "r"), ("Developer", "D"), (role, "and?")]
    body = HI | {"messages": [{"role": each, "content": content} for each, content in turns]}
    async with running(a={}) as app:
        response = await app.client.post(CHAT, json=body)
        assert response.status_code == 200, response.text
        assert _prompt(app) == (
            "<|system|>S<|end|><|user|>hi<|end|><|assistant|>Yes.<|end|><|tool|>r<|end|><|system|>D<|end|><|user|>and?<|end|><|assistant|>"
        )
        for unknown in ("wizard", "", "user ", 3, None):
            refused = await app.client.post(CHAT, json=HI | {"messages": [{"role": unknown, "content": "x"}]})
            assert (refused.status_code, "messages.0.role" in refused.json()["error"]) == (400, True)
