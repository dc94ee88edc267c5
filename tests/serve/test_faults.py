"""Clients that leave, replicas that die, bodies that are wrong: the running application goes on."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from ray.exceptions import ActorDiedError

from benchmarks.live import LiveApp

CHAT = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3500, "ignore_eos": True}
SHORT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def _freed_after_s(app: LiveApp, group: str) -> float:
    began = time.monotonic()
    while any(load.running for load in app.loads(group)):
        assert time.monotonic() - began < 10, "the slot was never freed"
    return time.monotonic() - began


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("group", ["onnx", "llama_cpp", "vllm"])
def test_a_client_that_leaves_frees_its_slot_within_a_second(app: LiveApp, group: str, stream: bool) -> None:
    headers = {"x-engine": group}
    if stream:
        with httpx.stream("POST", app.url + CHAT, json=LONG | {"stream": True}, headers=headers, timeout=60) as response:
            chunks = response.iter_raw()
            next(chunks)
            next(chunks)
            assert sum(load.running for load in app.loads(group)) == 1
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(app.url + CHAT, json=LONG, headers=headers, timeout=0.5)
    freed = _freed_after_s(app, group)
    print(f"\n{group}: freed after {freed:.3f} s")
    assert freed < 1.0


BROKEN: list[tuple[bytes, int]] = [
    (b"not json", 400),
    (b'{"messages": "hi"}', 400),
    (b'{"messages": []}', 400),
    (b'{"messages": [{"role": "alien", "content": "x"}]}', 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "temperature": Infinity}', 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "temperature": -1}', 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "seed": 1180591620717411303424}', 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1e12}', 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1000000000000}', 400),
    (b'{"messages": [{"role": "user", "content": "x"}], "model": "nope"}', 404),
    (b'{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"9999999": 1}}', 400),
    (b'{"messages": [{"role": "user", "content": "' + b"a " * 500_000 + b'"}]}', 413),
    (b'{"messages": [{"role": "user", "content": "' + b"a " * 20_000 + b'"}]}', 400),
]


@pytest.mark.parametrize("group", ["onnx", "llama_cpp", "vllm"])
@pytest.mark.parametrize(("body", "status"), BROKEN, ids=range(len(BROKEN)))
def test_broken_input_is_refused_and_the_engine_answers_the_next(app: LiveApp, group: str, body: bytes, status: int) -> None:
    headers = {"x-engine": group}
    refused = httpx.post(app.url + CHAT, content=body, headers=headers, timeout=60)
    assert refused.status_code == status
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in refused.text
    assert "/" + "work" not in refused.text
    assert httpx.post(app.url + CHAT, json=SHORT, headers=headers, timeout=60).status_code == 200


def test_a_replica_killed_midway_ends_its_streams_with_a_well_formed_error(app: LiveApp) -> None:
    began = threading.Barrier(5)

    def one(number: int) -> str:
        headers = {"x-engine": "onnx"}
        with httpx.stream("POST", app.url + CHAT, json=LONG | {"stream": True}, headers=headers, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            began.wait(30)
            *_, error, done = [line for line in lines if line]
            assert done == "data: [DONE]"
            return error

    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(one, number) for number in range(4)]
        began.wait(30)
        os.kill(app.pids("onnx")[0], signal.SIGKILL)
        ends = [stream.result(timeout=60) for stream in streams]
    broken = [end for end in ends if '"error"' in end]
    assert broken, "with two replicas and four streams, the killed one had some"
    assert all('"code":"engine_dead"' in end for end in broken)
    assert httpx.post(app.url + CHAT, json=SHORT, headers={"x-engine": "onnx"}, timeout=60).status_code == 200
    _await_replicas(app, 2)


def _await_replicas(app: LiveApp, count: int) -> None:
    deadline = time.monotonic() + 60
    while _answering(app) < count or len(app.pids("onnx")) < count:
        assert time.monotonic() < deadline, "the replica was not replaced"
        time.sleep(0.5)


def _answering(app: LiveApp) -> int:
    try:
        return len(app.loads("onnx"))
    except ActorDiedError:  # this process's own handle has not heard yet that the killed replica is gone
        return 0


def test_a_killed_replica_costs_no_request(app: LiveApp) -> None:
    victim, *survivors = app.pids("onnx")
    assert survivors, "two replicas are configured"
    os.kill(victim, signal.SIGKILL)
    statuses = [httpx.post(app.url + CHAT, json=SHORT, headers={"x-engine": "onnx"}, timeout=60).status_code for _ in range(50)]
    assert statuses == [200] * 50
    _await_replicas(app, 2)
