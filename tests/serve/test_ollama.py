"""Ollama's official client, every verb, and LiteLLM, against the running application."""

import gc
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import ollama
import pytest

from benchmarks.live import LiveApp

QUESTION = "If a car travels at 60 mph for 2.5 hours, then at 80 mph for 1.5 hours, what is the total distance traveled?"
ASK: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
MODEL = "phi4-mini"
GREEDY = {"temperature": 0}
TUTORIALS = {
    "phi4-mini-reasoning": '''FROM phi4-mini
PARAMETER temperature 0.3
PARAMETER top_p 0.8
SYSTEM """You are an expert reasoning assistant specialized in mathematics, logic, and code analysis.
Always think step by step and show your work clearly."""
''',
    "phi4-mini-coder": '''FROM phi4-mini
PARAMETER temperature 0.5
PARAMETER top_p 0.9
SYSTEM """You are a coding assistant specialized in writing clean, efficient, and well-documented code."""
''',
}
CIRCLE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculate_circle_area",
        "description": "Calculate the area of a circle",
        "parameters": {
            "type": "object",
            "properties": {"radius": {"type": "number", "description": "Radius of the circle"}},
            "required": ["radius"],
        },
    },
}
CALL = [{"role": "user", "content": "Calculate the area of a circle with radius 5 units"}]


def _groups(app: LiveApp) -> list[str]:
    groups = httpx.get(f"{app.url}/health").json()["groups"]
    return [name for name, group in groups.items() if group["engine"] != "fake"]


Connect = Callable[..., ollama.Client]


@pytest.fixture
def connect(app: LiveApp) -> Iterator[Connect]:
    """Return the way to a client, of one group if it is named."""
    with ExitStack() as stack:

        def client(group: str | None = None) -> ollama.Client:
            headers = {"x-engine": group} if group else None
            return stack.enter_context(ollama.Client(host=app.url, timeout=120, headers=headers))

        yield client


def _same(app: LiveApp, ask: Any) -> str:
    """Ask every group; all must say the same."""
    told = {group: ask(group) for group in _groups(app)}
    assert len(set(told.values())) == 1, told
    return str(next(iter(told.values())))


def test_every_group_says_the_same_in_every_endpoint(app: LiveApp, connect: Connect) -> None:
    def generated(group: str) -> str:
        return connect(group).generate(MODEL, QUESTION, options=GREEDY).response or ""

    def streamed(group: str) -> str:
        return "".join(part.response or "" for part in connect(group).generate(MODEL, QUESTION, options=GREEDY, stream=True))

    def chatted(group: str) -> str:
        return connect(group).chat(MODEL, ASK, options=GREEDY).message.content or ""

    def chat_streamed(group: str) -> str:
        parts = connect(group).chat(MODEL, ASK, options=GREEDY, stream=True)
        return "".join(part.message.content or "" for part in parts)

    def openais(group: str) -> str:
        messages: Any = ASK
        options: Any = {"temperature": 0, "extra_headers": {"x-engine": group}}
        return app.client().chat.completions.create(model=MODEL, messages=messages, **options).choices[0].message.content or ""

    texts = {ask.__name__: _same(app, ask) for ask in (generated, streamed, chatted, chat_streamed, openais)}
    assert len(set(texts.values())) == 1, texts
    assert "270" in texts["chatted"]


def test_times_and_counts_add_up(app: LiveApp, connect: Connect) -> None:
    for group in _groups(app):
        last = connect(group).generate(MODEL, QUESTION, options=GREEDY)
        assert last.done_reason == "stop"
        assert (last.prompt_eval_count or 0) > 20
        assert (last.eval_count or 0) > 5
        assert (last.prompt_eval_duration or 0) > 0
        assert (last.eval_duration or 0) > 0
        assert (last.total_duration or 0) >= (last.prompt_eval_duration or 0) + (last.eval_duration or 0)


def test_context_carries_the_conversation(connect: Connect) -> None:
    client = connect()
    first = client.generate(MODEL, "Hello!", options=GREEDY)
    carried = client.generate(MODEL, QUESTION, context=first.context, options=GREEDY)
    turns = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": first.response},
        *ASK,
    ]
    assert carried.response == client.chat(MODEL, turns, options=GREEDY).message.content


def test_tools_and_their_results(app: LiveApp, connect: Connect) -> None:
    for group in _groups(app):
        client = connect(group)
        message = client.chat(MODEL, CALL, tools=[CIRCLE], options=GREEDY).message
        (call,) = message.tool_calls or []
        assert (call.function.name, call.function.arguments) == ("calculate_circle_area", {"radius": 5})
        streamed = [
            part for part in client.chat(MODEL, CALL, tools=[CIRCLE], options=GREEDY, stream=True) if part.message.tool_calls
        ]
        assert [part.message.tool_calls for part in streamed] == [message.tool_calls] or len(streamed) == 1
        result = {"role": "tool", "tool_name": call.function.name, "content": '{"area": 78.54}'}
        answer = client.chat(MODEL, [*CALL, message, result], tools=[CIRCLE], options=GREEDY)
        assert "78.54" in (answer.message.content or "")


def test_formats(app: LiveApp, connect: Connect) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,  # so small a model would go on for ever
    }
    for group in _groups(app):
        client = connect(group)
        for seed in range(2):
            chosen = client.chat(MODEL, ASK, format=schema, options={"seed": seed}).message.content
            jsonschema.validate(json.loads(chosen or ""), schema)
        free = client.generate(MODEL, "Say something.", format="json", options={"num_predict": 200, "seed": 1})
        assert free.done_reason == "length" or isinstance(json.loads(free.response or ""), dict)


def test_the_tutorials_models(app: LiveApp, connect: Connect) -> None:
    """Its two `ollama create` blocks and its two API calls."""
    client = connect()
    for name, text in TUTORIALS.items():
        lines = httpx.post(f"{app.url}/api/create", json={"model": name, "modelfile": text}).text.splitlines()
        assert json.loads(lines[-1]) == {"status": "success"}
        assert "".join(client.show(name).parameters or "").split()[:2] == ["temperature", text.split()[4]]
    asked = {
        "phi4-mini-reasoning": "A rectangle has length 15cm and width 8cm. If we increase both dimensions by 20%, "
        "what is the percentage increase in area?",
        "phi4-mini-coder": "Create a Python class for a binary tree with methods for insertion, deletion, and in-order traversal. "
        "Include comprehensive docstrings.",
    }
    for name, prompt in asked.items():
        body = {"model": name, "prompt": prompt, "stream": False, "options": {"temperature": 0.3, "top_p": 0.8, "num_ctx": 4096}}
        answer = httpx.post(f"{app.url}/api/generate", content=json.dumps(body), timeout=120)
        assert answer.status_code == 200
        assert answer.json()["model"] == name
        assert answer.json()["response"]
    for name in TUTORIALS:
        client.delete(name)
        assert client.show(name).details  # what is configured shows again


def test_every_verb(app: LiveApp, connect: Connect, tmp_path: Path) -> None:
    client = connect()
    steps = [step.status for step in client.create("Verb:v1", from_=MODEL, system="Be brief.", parameters=GREEDY, stream=True)]
    assert steps[-1] == "success"
    assert client.create("verb:v2", from_="verb:v1", messages=[{"role": "user", "content": "x"}]).status == "success"
    assert client.copy("verb:v2", "verb:v3").status == "success"
    listed = {model.model for model in client.list().models}
    assert {"Verb:v1", "verb:v2", "verb:v3", f"{MODEL}:latest"} <= listed
    assert {"Verb:v1", "verb:v2", "verb:v3"} <= {model.id for model in app.client().models.list()}
    assert (client.show("verb:v3").modelfile or "").count("MESSAGE user x") == 1
    hello: Any = [{"role": "user", "content": "Hello"}]
    assert app.client().chat.completions.create(model="verb:v1", messages=hello).choices[0].message.content
    for name in ("verb:v1", "verb:v2", "verb:v3"):
        assert client.delete(name).status == "success"
    assert not {"Verb:v1", "verb:v2", "verb:v3"} & {model.model for model in client.list().models}
    with pytest.raises(ollama.ResponseError, match="model 'verb:v1' not found"):
        client.generate("verb:v1", "hi")
    with pytest.raises(ollama.ResponseError, match="model 'verb:v1' not found"):
        list(client.generate("verb:v1", "hi", stream=True))
    assert [step.status for step in client.pull(MODEL, stream=True)][-1] == "success"
    for refused in (lambda: client.pull("x"), lambda: client.push(MODEL), lambda: client.embed(MODEL, "x")):
        with pytest.raises(ollama.ResponseError):
            refused()
    file = tmp_path / "blob"
    file.write_bytes(os.urandom(1000))
    assert client.create_blob(file) == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    (loaded,) = client.ps().models
    assert loaded.expires_at is not None
    assert loaded.expires_at.year > 2300
    groups = httpx.get(f"{app.url}/api/ps").json()["models"][0]["groups"]
    assert {group["name"] for group in groups} == set(httpx.get(f"{app.url}/health").json()["groups"])
    assert client.generate(MODEL).done_reason == "load"
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"


async def test_the_asynchronous_client(app: LiveApp) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    async with ollama.AsyncClient(host=app.url, timeout=120) as client:
        assert (await client.create("averb", from_=MODEL)).status == "success"
        whole = await client.generate("averb", "Hello", options=GREEDY)
        parts = [part.response or "" async for part in await client.generate("averb", "Hello", options=GREEDY, stream=True)]
        chat = await client.chat("averb", hello, options=GREEDY)
        chunks = [part.message.content or "" async for part in await client.chat("averb", hello, options=GREEDY, stream=True)]
        assert whole.response == "".join(parts) == chat.message.content == "".join(chunks)
        assert (await client.copy("averb", "averb2")).status == "success"
        assert {"averb:latest", "averb2:latest"} <= {model.model for model in (await client.list()).models}
        for name in ("averb", "averb2"):
            await client.delete(name)
        assert (await client.ps()).models
        with pytest.raises(ollama.ResponseError):
            await client.show("averb")


@pytest.mark.filterwarnings("ignore")  # LiteLLM's own
def test_litellm_says_the_same_three_ways(app: LiveApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch one otherwise
    litellm = pytest.importorskip("litellm")
    ways = {"ollama_chat/": app.url, "ollama/": app.url, "openai/": f"{app.url}/v1"}

    def ask(way: str, **more: Any) -> Any:
        options = {"temperature": 0, "api_base": ways[way], "api_key": "unused", "num_retries": 0}
        return litellm.completion(model=way + MODEL, **options, **more)

    texts = {way: ask(way, messages=ASK).choices[0].message.content for way in ways}
    assert len(set(texts.values())) == 1, texts
    streamed = {way: "".join(chunk.choices[0].delta.content or "" for chunk in ask(way, messages=ASK, stream=True)) for way in ways}
    assert streamed == texts
    calls = {}
    for way in ("ollama_chat/", "openai/"):
        choice = ask(way, messages=CALL, tools=[CIRCLE]).choices[0]
        assert choice.finish_reason == "tool_calls"
        calls[way] = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
    assert calls["ollama_chat/"] == calls["openai/"] == [("calculate_circle_area", {"radius": 5})]
    gc.collect()  # what LiteLLM leaves unclosed must not meet another test


def test_a_prompt_that_fits_nowhere_is_refused(app: LiveApp) -> None:
    response = httpx.post(f"{app.url}/api/chat", json={"model": MODEL, "messages": [{"role": "user", "content": "x" * 300_000}]})
    assert (response.status_code, set(response.json())) == (400, {"error"})


def test_it_also_listens_where_ollamas_clients_look(app: LiveApp) -> None:
    port = app.config["applications"][0]["args"]["ollama_port"]["port"]
    with ollama.Client(host=f"127.0.0.1:{port}", timeout=120) as client:
        assert client.chat(MODEL, ASK, options=GREEDY).message.content
        parts = [part.message.content or "" for part in client.chat(MODEL, ASK, options=GREEDY, stream=True)]
    assert len(parts) > 2
    usual = httpx.get(f"http://127.0.0.1:{port}/", headers={"host": "localhost:11434"})
    assert usual.text == "Ollama is running"


def test_the_javascript_client(app: LiveApp) -> None:
    """OLLAMA_JS is the folder in which `npm install ollama` was run."""
    node, folder = shutil.which("node"), os.environ.get("OLLAMA_JS")
    if node is None or folder is None:
        pytest.skip("needs node, and OLLAMA_JS set to a folder in which `npm install ollama` was run")
    module = Path(folder).resolve() / "node_modules" / "ollama" / "dist" / "index.mjs"
    command = [node, str(Path(__file__).with_name("ollama_client.mjs")), str(module), app.url]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert len(set(told["texts"])) == 1
    assert told["steps"][-1] == told["deleted"] == "success"
    assert "js:latest" in told["listed"]
    assert told["shown"] == "Be brief."
    assert told["refused"] == [404, "model 'js' not found"]
