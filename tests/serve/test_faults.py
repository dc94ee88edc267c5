"""Clients that leave, replicas that die, bodies that are wrong: the running application goes on. Streams: test_failover.py."""

import os
import signal
import time

import httpx
import pytest

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


def test_a_killed_replica_costs_no_request(app: LiveApp) -> None:
    victim, *survivors = app.pids("onnx")
    assert survivors, "two replicas are configured"
    os.kill(victim, signal.SIGKILL)
    statuses = [httpx.post(app.url + CHAT, json=SHORT, headers={"x-engine": "onnx"}, timeout=60).status_code for _ in range(50)]
    assert statuses == [200] * 50
    app.await_replicas("onnx", 2)
