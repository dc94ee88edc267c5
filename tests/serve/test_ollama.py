"""Ollama's official client and every verb against the running application."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import ollama
import pytest

from tests.cluster.fetch_tools import OLLAMA_JS, node
from tests.live import LiveApp

QUESTION = "If a car travels at 60 mph for 2.5 hours, then at 80 mph for 1.5 hours, what is the total distance traveled?"
ASK: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
MODEL = "phi4-mini"
GREEDY = {"temperature": 0}
TUTORIALS = {
    "phi4-mini-reasoning": "A rectangle has length 15cm and width 8cm. If we increase both dimensions by 20%, "
    "what is the percentage increase in area?",
    "phi4-mini-coder": "Create a Python class for a binary tree with methods for insertion, deletion, and in-order traversal. "
    "Include comprehensive docstrings.",
}
"""The tutorial's two models, and what it asks each."""
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


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("name", TUTORIALS)
def test_the_tutorials_blocks_work_as_printed(app: LiveApp, connect: Connect, tmp_path: Path, name: str) -> None:
    """`phi-serve` stands for `docker exec ollama-phi4 ollama`, and the address for Ollama's."""
    made = app.config["applications"][0]["args"]["variants"][name]
    temperature, top_p = (made["parameters"][each] for each in ("temperature", "top_p"))
    body = {
        "model": name,
        "prompt": TUTORIALS[name],
        "stream": False,
        "options": {"temperature": temperature, "top_p": top_p, "num_ctx": 4096},
    }
    script = f"""
cat > {tmp_path}/modelfile << EOF
FROM phi4-mini
PARAMETER temperature {temperature}
PARAMETER top_p {top_p}
SYSTEM {'"' * 3}{made["system"]}{'"' * 3}
EOF
{Path(sys.executable).parent}/phi-serve create {name} -f {tmp_path}/modelfile
curl --silent --show-error $PHI_SERVE_HOST/api/generate -d '{json.dumps(body, indent=2)}'
"""
    environment = os.environ | {"PHI_SERVE_HOST": app.url}
    ran = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    steps, _, answer = ran.stdout.partition("{")
    assert steps.rstrip().endswith("success")
    told = json.loads("{" + answer)
    assert (told["model"], told["done"], bool(told["response"])) == (name, True, True)
    client = connect()
    shown = client.show(name)
    assert (shown.parameters or "").split() == ["temperature", str(temperature), "top_p", str(top_p)]
    assert httpx.post(f"{app.url}/api/show", json={"model": name}).json()["system"] == made["system"].rstrip("\n")
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
    refusals: list[Callable[[], Any]] = [
        lambda: client.pull("x"),
        lambda: list(client.pull("x", stream=True)),
        lambda: client.push(MODEL),
        lambda: list(client.push(MODEL, stream=True)),
        lambda: client.embed(MODEL, "x"),
        lambda: client.embeddings(MODEL, "x"),
    ]
    for refused in refusals:
        with pytest.raises(ollama.ResponseError):
            refused()
    assert client.pull(MODEL).status == "success"
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


async def test_the_asynchronous_client(app: LiveApp, tmp_path: Path) -> None:
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
        steps = [step.status async for step in await client.create("averb3", from_=MODEL, system="Be brief.", stream=True)]
        assert steps[-1] == "success"
        assert (await client.show("averb3")).details
        assert (await client.delete("averb3")).status == "success"
        for name in ("averb", "averb3"):
            with pytest.raises(ollama.ResponseError, match="not found"):
                await client.show(name)
        assert (await client.pull(MODEL)).status == "success"
        assert [step.status async for step in await client.pull(MODEL, stream=True)][-1] == "success"
        for refused in (client.pull("x"), client.push(MODEL), client.embed(MODEL, "x"), client.embeddings(MODEL, "x")):
            with pytest.raises(ollama.ResponseError):
                await refused
        with pytest.raises(ollama.ResponseError, match="not authorized to push"):
            [step async for step in await client.push(MODEL, stream=True)]
        file = tmp_path / "blob"
        file.write_bytes(os.urandom(1000))
        assert await client.create_blob(file) == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
        (call,) = (await client.chat(MODEL, CALL, tools=[CIRCLE], options=GREEDY)).message.tool_calls or []
        assert call.function.arguments == {"radius": 5}


def test_a_begun_answer_is_continued_by_every_group(app: LiveApp, connect: Connect) -> None:
    """The model is greedy, so that it ends as it would have without the beginning."""
    hello = {"role": "user", "content": "Hello"}
    for group in _groups(app):
        client = connect(group)
        whole = client.chat(MODEL, [hello], options=GREEDY).message.content or ""
        at = whole.index(" ", len(whole) // 3)
        turns = [hello, {"role": "Assistant", "content": whole[:at]}]
        assert client.chat(MODEL, turns, options=GREEDY).message.content == whole[at:]
        parts = list(client.chat(MODEL, turns, options=GREEDY, stream=True))
        assert "".join(part.message.content or "" for part in parts) == whole[at:]
        body = {"model": "phi4-mini", "messages": [hello, turns[1] | {"role": "assistant"}], "temperature": 0}
        both = {"continue_final_message": True, "add_generation_prompt": False}
        answer = httpx.post(f"{app.url}/v1/chat/completions", json=body | both, headers={"x-engine": group}, timeout=120).json()
        assert answer["choices"][0]["message"]["content"] == whole[at:]
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
        begun = [hello, {"role": "assistant", "content": "A number: "}]
        formatted = client.chat(MODEL, begun, format=schema, options=GREEDY | {"num_predict": 40}).message.content or ""
        assert formatted.startswith("{"), "the format holds for the new text"


def test_a_context_beyond_every_groups_counts_as_theirs(app: LiveApp, connect: Connect) -> None:
    for group in _groups(app):
        answer = connect(group).chat(MODEL, [{"role": "user", "content": "Hello"}], options=GREEDY | {"num_ctx": 1 << 21})
        assert (answer.done_reason, bool(answer.message.content)) == ("stop", True)


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
    program = node()
    if program is None or not OLLAMA_JS.exists():
        pytest.skip("needs Ollama's JavaScript client, and node where there is none: `make tools` fetches them")
    command = [program, str(Path(__file__).with_name("ollama_client.mjs")), str(OLLAMA_JS), app.url]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert len(set(told["texts"])) == 1
    assert told["steps"][-1] == told["deleted"] == "success"
    assert "js:latest" in told["listed"]
    assert told["shown"] == "Be brief."
    assert told["refused"] == [404, "model 'js' not found"]
