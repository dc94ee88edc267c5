"""Kept and background responses, and many streams, on the running application with two ingresses; some of them are killed."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.cluster.fetch_tools import SDK_JS, node
from tests.live import LiveApp, live, shipped_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MODEL = "phi-4-mini-instruct"
WORDS = "one two three four five six seven eight nine ten. "
STREAMS = 64
INGRESSES = 2
GROUPS = ("quick", "slow")
QUICK = {"x-engine": "quick"}


@pytest.fixture(scope="module")
def app() -> Iterator[LiveApp]:
    config = shipped_config()
    (application,) = config["applications"]
    application["args"]["engines"] = {
        "quick": {"kind": "fake", "text": WORDS * 4, "tokens_per_second": 50, "slots": 2 * STREAMS},
        "slow": {"kind": "fake", "text": WORDS * 400, "tokens_per_second": 10, "slots": 8},
    }
    application["args"]["routing"] = {"prefer": {"general": ["quick"]}}
    application["args"]["limits"] = {"max_concurrent_generations": 4 * STREAMS}
    ingress = next(each for each in application["deployments"] if each["name"] == "ingress")
    small = {"ray_actor_options": {"num_cpus": 0.05}}
    application["deployments"] = [
        ingress | small | {"num_replicas": INGRESSES},
        *({"name": name, "max_ongoing_requests": 1000} | small for name in GROUPS),
    ]
    with live(config) as app:
        _await_ingresses(app)
        for group in GROUPS:
            app.await_replicas(group, 1)
        yield app


def _await_ingresses(app: LiveApp) -> None:
    deadline = time.monotonic() + 90
    while len(app.pids("ingress")) < INGRESSES:
        assert time.monotonic() < deadline
        time.sleep(0.5)  # Serve is starting another one


def _kill_an_ingress(app: LiveApp, pid: int | None = None) -> None:
    os.kill(pid or app.pids("ingress")[0], signal.SIGKILL)


def _client(app: LiveApp) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{app.url}/v1", api_key="x", max_retries=5)


def test_a_conversation_survives_a_killed_ingress(app: LiveApp) -> None:
    client = _client(app)
    first = client.responses.create(model=MODEL, input="My name is Ada.")
    killed = app.pids("ingress")
    _kill_an_ingress(app)
    second = client.responses.create(model=MODEL, input="I like maths.", previous_response_id=first.id)
    _await_ingresses(app)
    _kill_an_ingress(app, next(pid for pid in app.pids("ingress") if pid in killed))
    third = client.responses.create(model=MODEL, input="Who am I?", previous_response_id=second.id)
    _await_ingresses(app)
    assert not set(killed) & set(app.pids("ingress"))
    items = client.responses.input_items.list(third.id, order="asc").data
    assert [item.content[0].text for item in items][::2] == ["My name is Ada.", "I like maths.", "Who am I?"]  # type: ignore[union-attr]
    for kept in (first, second, third):
        assert client.responses.retrieve(kept.id).output_text == kept.output_text


def test_a_javascript_conversation_survives_a_killed_ingress(app: LiveApp) -> None:
    program = node()
    if program is None or not (SDK_JS / "openai").exists():
        pytest.skip("needs OpenAI's JavaScript client, and node where there is none: `make tools` fetches them")
    script, previous, turns = str(Path(__file__).with_name("turn.mjs")), "", ["My name is Ada.", "I like maths.", "Who am I?"]
    for turn in turns:
        command = [program, script, str(SDK_JS), app.url, turn, *([previous] if previous else [])]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        told = json.loads(ended.stdout)
        previous = told["id"]
        _kill_an_ingress(app)
        _await_ingresses(app)
    assert told["items"][::2] == turns


def test_work_of_killed_ingresses_has_failed_and_other_work_is_cancelled(app: LiveApp) -> None:
    client = _client(app)
    slow: Any = {"model": MODEL, "input": "hi", "background": True, "extra_headers": {"x-engine": "slow"}}
    begun = [client.responses.create(**slow) for _ in range(4)]
    for _ in range(8):  # whichever ingress takes a request, it reaches the one that works
        assert client.responses.retrieve(begun[0].id).status == "in_progress"
    assert client.responses.cancel(begun[0].id).status == "cancelled"
    killed = time.monotonic()
    for pid in app.pids("ingress"):
        _kill_an_ingress(app, pid)
    _await_ingresses(app)
    left = {response.id for response in begun[1:]}
    took = dict.fromkeys(left, 0.0)
    while left:
        for response_id in tuple(left):
            try:
                found = client.responses.retrieve(response_id)
            except openai.OpenAIError:  # no ingress is back yet
                continue
            if found.status != "in_progress":
                assert found.status == "failed"
                left.discard(response_id)
                took[response_id] = time.monotonic() - killed
        assert time.monotonic() < killed + 60
        time.sleep(0.1)  # a client that polls
    print(f"\nfailed {sorted(round(each, 1) for each in took.values())} s after their ingresses were killed")


def test_128_streams_end_with_exact_usage(app: LiveApp) -> None:
    before = _read_usage(app)
    counted = asyncio.run(_run_streams(app))
    assert counted[:STREAMS] == counted[STREAMS:]
    wanted = [sum(column) for column in zip(*counted, strict=True)]
    deadline = time.monotonic() + 15
    while (gained := [now - then for now, then in zip(_read_usage(app), before, strict=True)]) != wanted:
        assert time.monotonic() < deadline, (gained, wanted)
        time.sleep(0.3)  # the journal reaches the store within a second
    _await_idle(app)
    print(f"\n{2 * STREAMS} streams: {wanted} tokens in answers and in the usage")


async def _run_streams(app: LiveApp) -> list[tuple[int, int]]:
    """Return the tokens of prompt and answer of every stream, those of the Responses API first."""
    responses = openai.AsyncOpenAI(base_url=f"{app.url}/v1", api_key="x", max_retries=0, timeout=240)
    messages = anthropic.AsyncAnthropic(base_url=app.url, api_key="x", max_retries=0, timeout=240)

    async def respond(at: int) -> tuple[int, int]:
        async with responses.responses.stream(model=MODEL, input=f"Question {at}", extra_headers=QUICK) as stream:
            text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
            final = await stream.get_final_response()
        assert text == final.output_text == WORDS * 4
        assert final.usage is not None
        return final.usage.input_tokens, final.usage.output_tokens

    async def tell(at: int) -> tuple[int, int]:
        turns: Any = [{"role": "user", "content": f"Question {at}"}]
        async with messages.messages.stream(model=MODEL, max_tokens=500, messages=turns, extra_headers=QUICK) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert text == WORDS * 4
        return final.usage.input_tokens, final.usage.output_tokens

    async with responses, messages:
        return await asyncio.gather(*(respond(at) for at in range(STREAMS)), *(tell(at) for at in range(STREAMS)))


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(app: LiveApp, path: str, stream: bool) -> None:
    turns = [{"role": "user", "content": "hi"}]
    wish = {"input": "hi"} if path == "/v1/responses" else {"max_tokens": 3000, "messages": turns}
    sent: Any = {"json": {"model": MODEL, "stream": stream} | wish, "headers": {"x-engine": "slow"}}
    with httpx.Client() as client:
        if stream:
            with client.stream("POST", app.url + path, timeout=30, **sent) as answer:
                texts = answer.iter_text()  # kept: without it the connection would be closed
                begun = next(texts)
                assert answer.status_code == 200, begun
                assert _count_work(app) == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(app.url + path, timeout=2, **sent)
    print(f"\n{path}, stream {stream}: free {_await_idle(app):.2f} s after the client left")


def _count_work(app: LiveApp) -> int:
    return sum(load.running + load.waiting for group in GROUPS for load in app.loads(group))


def _await_idle(app: LiveApp) -> float:
    """Return the seconds until no group works on anything."""
    began = time.monotonic()
    while _count_work(app):
        assert time.monotonic() < began + 30
        time.sleep(0.02)  # the replica needs the core too
    return time.monotonic() - began


def _read_usage(app: LiveApp) -> list[int]:
    rows = httpx.get(f"{app.url}/v1/usage", timeout=30).json()["data"]
    return [sum(row[name] for row in rows) for name in ("prompt_tokens", "completion_tokens")]
