"""The shipped configuration with the real model's files in one changed line: every feature on every group, streamed and whole.

The weights are random, so texts mean nothing; constraints, ids, ends and the absence of errors are what is looked at.
"""

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.live import GROUPS, LiveApp, live, shipped_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CHAT = "/v1/chat/completions"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Zürich", "東京"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": PARAMETERS}}
STRICT = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "trip", "schema": PARAMETERS, "strict": True}}
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def app(real_dir: Path) -> Iterator[LiveApp]:  # other forms of the tokenizer: --form
    config = shipped_config()
    config["applications"][0]["args"]["models"]["phi-4-mini-instruct"]["path"] = str(real_dir)
    with live(config) as app:
        yield app


def _ask(app: LiveApp, group: str, *, stream: bool, **body: Any) -> dict[str, Any]:
    """Return a choice: its text, its calls, how it ended, its logprobs."""
    sent = {"messages": ASK, "temperature": 1.0, "seed": 3, "max_tokens": 120, "stream": stream} | body
    response = httpx.post(app.url + CHAT, json=sent, headers={"x-engine": group}, timeout=120)
    assert response.status_code == 200, response.text
    assert response.headers["x-engine"] == group
    if not stream:
        choice = response.json()["choices"][0]
        calls = [call["function"] for call in choice["message"].get("tool_calls") or ()]
        text = choice["message"]["content"] or ""
        return {"text": text, "calls": calls, "end": choice["finish_reason"], "logprobs": choice["logprobs"]}
    answer: dict[str, Any] = {"text": "", "calls": [], "end": None, "logprobs": {"content": []}}
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]", response.text
    for line in lines:
        (choice,) = json.loads(line)["choices"]
        answer["text"] += choice["delta"].get("content") or ""
        answer["logprobs"]["content"] += (choice.get("logprobs") or {}).get("content") or []
        for part in choice["delta"].get("tool_calls") or ():
            if part["index"] == len(answer["calls"]):
                answer["calls"].append({"name": "", "arguments": ""})
            call = answer["calls"][part["index"]]
            call["name"] += part["function"].get("name") or ""
            call["arguments"] += part["function"].get("arguments") or ""
        answer["end"] = choice["finish_reason"] or answer["end"]
    return answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_tools(app: LiveApp, group: str, stream: bool) -> None:
    for tool, choice in ((WEATHER, "required"), (WEATHER, NAMED), (STRICT, "required"), (STRICT, NAMED)):
        answer = _ask(app, group, stream=stream, tools=[tool], tool_choice=choice, parallel_tool_calls=False)
        assert (answer["end"], answer["text"]) == ("tool_calls", "")
        (call,) = answer["calls"]
        assert call["name"] == "get_weather"
        jsonschema.validate(json.loads(call["arguments"]), PARAMETERS)
    none = _ask(app, group, stream=stream, tools=[WEATHER], tool_choice="none", max_tokens=8)
    assert (none["calls"], none["end"]) == ([], "length")
    # `auto`: the model is made to begin a call, and the guide or the promise lets only an offered one follow.
    for tool in (WEATHER, STRICT):
        answer = _ask(app, group, stream=stream, tools=[tool], logit_bias={"200025": 100}, parallel_tool_calls=False)
        assert [call["name"] for call in answer["calls"]] == ["get_weather"], answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_answers_keep_their_form(app: LiveApp, group: str, stream: bool) -> None:
    answer = _ask(app, group, stream=stream, response_format=SCHEMA)
    assert answer["end"] == "stop"
    jsonschema.validate(json.loads(answer["text"]), PARAMETERS)
    for wish, form in (
        ({"regex": "[a-c]{3}x"}, "[a-c]{3}x"),
        ({"choice": ["red", "grün", "赤"]}, "red|grün|赤"),
        ({"grammar": 'start: "a" /[0-9]/ "c"'}, "a[0-9]c"),
    ):
        answer = _ask(app, group, stream=stream, structured_outputs=wish)
        assert re.fullmatch(form, answer["text"]), answer
        assert answer["end"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_ids_beyond_the_number_of_tokens(app: LiveApp, group: str, stream: bool) -> None:
    answer = _ask(app, group, stream=stream, logit_bias={"200020": 100})
    assert (answer["text"], answer["end"]) == ("", "stop")
    answer = _ask(app, group, stream=stream, logit_bias={"200028": 100}, max_tokens=3)
    assert (answer["text"], answer["end"]) == ("", "length"), "control tokens are no text"
    answer = _ask(app, group, stream=stream, logit_bias={"200028": 100}, stop_token_ids=[200028])
    assert (answer["text"], answer["end"]) == ("", "stop")
    body = {"messages": ASK, "logit_bias": {"200064": 1}, "stream": stream}
    refused = httpx.post(app.url + CHAT, json=body, headers={"x-engine": group}, timeout=60)
    assert refused.status_code == 400
    assert "token ids must be below 200064" in refused.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_logprobs_and_seeds(app: LiveApp, group: str, stream: bool) -> None:
    first, again = (_ask(app, group, stream=stream, logprobs=True, top_logprobs=5, max_tokens=12) for _ in range(2))
    assert first == again
    content = first["logprobs"]["content"]
    assert len(content) == 12
    assert all(len(entry["top_logprobs"]) == 5 and entry["logprob"] < 0 for entry in content)
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode("utf-8", "replace") == first["text"]
    assert _ask(app, group, stream=stream, seed=4, max_tokens=12)["text"] != first["text"]


def test_tokens_of_the_models_own_ids(app: LiveApp) -> None:
    ids = httpx.post(app.url + "/tokenize", json={"messages": ASK}, timeout=60).json()["tokens"]
    assert (ids[0], ids[-2:]) == (200_021, [200_020, 200_019])
    text = httpx.post(app.url + "/detokenize", json={"tokens": [200_025, *ids[1:-2], 200_001]}, timeout=60).json()["prompt"]
    assert text == "<|tool_call|>What is the weather in Paris?"


def test_streams_continue_in_the_other_replica_when_theirs_dies(app: LiveApp) -> None:
    def body(number: int) -> dict[str, Any]:  # equal conversations would all go to one replica
        asked = [{"role": "user", "content": f"Tell me {number + 2} things about Paris."}]
        return {"messages": asked, "temperature": 0, "max_tokens": 400, "ignore_eos": True, "stream": True}

    def post(number: int) -> str:
        return httpx.post(app.url + CHAT, json=body(number), headers={"x-engine": "onnx"}, timeout=120).text

    with ThreadPoolExecutor(_STREAMS + 1) as pool:
        wanted = list(pool.map(post, range(_STREAMS)))
        before = _attempts(app)
        answers = [pool.submit(post, number) for number in range(_STREAMS)]
        while not sum(load.running for load in app.loads("onnx")) >= _STREAMS // 2:
            assert not all(answer.done() for answer in answers)
        os.kill(app.pids("onnx")[0], signal.SIGKILL)
        said = [answer.result() for answer in answers]
    assert [_text(each) for each in said] == [_text(each) for each in wanted]
    assert all(each.rstrip().endswith("data: [DONE]") for each in said)
    assert _attempts(app) - before > _STREAMS, "some of the streams were on the replica that died"
    app.await_replicas("onnx", 2)


_STREAMS = 12


def _attempts(app: LiveApp) -> float:
    lines = httpx.get(app.url + "/metrics", timeout=10).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('phi_serve_attempts_total{engine="onnx"'))


def _text(stream: str) -> str:
    lines = (line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: {"))
    return "".join(json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines)
