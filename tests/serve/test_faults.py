"""Clients that leave or are old, replicas that die, bytes that are wrong: the application goes on. Streams: test_failover.py."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import GROUPS, LiveApp

CHAT = "/v1/chat/completions"
LONG = {"model": "phi-4-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3500, "ignore_eos": True}
SHORT = {"model": "phi-4-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def _freed_after_s(app: LiveApp, group: str) -> float:
    began = time.monotonic()
    while any(load.running for load in app.loads(group)):
        assert time.monotonic() - began < 10, "the slot was never freed"
    return time.monotonic() - began


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("group", GROUPS)
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
    (b'{"model": "phi-4-mini", "messages": "hi"}', 400),
    (b'{"model": "phi-4-mini", "messages": []}', 400),
    (b'{"model": "phi-4-mini", "messages": [{"role": "alien", "content": "x"}]}', 400),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}], "temperature": Infinity}', 400),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}], "temperature": -1}', 400),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}], "seed": 1180591620717411303424}', 400),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', 400),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1e12}', 400),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1000000000000}', 400),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}], "model": "nope"}', 404),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}], "logit_bias": {"9999999": 1}}', 400),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "' + b"a " * 500_000 + b'"}]}', 413),
    (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "' + b"a " * 20_000 + b'"}]}', 400),
]


@pytest.mark.parametrize("group", GROUPS)
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


def _raw(port: int, head: bytes, body: dict[str, Any] | None = None) -> tuple[bytes, bytes]:
    """Send what no client would, on a connection of its own; return head and body of the answer."""
    content = b"" if body is None else json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(content) + content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    start, _, rest = answer.partition(b"\r\n\r\n")
    return start.lower(), rest


def _ports(app: LiveApp) -> tuple[int, int]:
    """Serve's own port and Ollama's."""
    return app.config["http_options"]["port"], app.config["applications"][0]["args"]["ollama_port"]["port"]


HELLO: dict[str, Any] = {"model": "phi4-mini", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
UNREADABLE = [
    b"x-request-id: caf\xe9", b"x-session-id: \xff", b"serve_multiplexed_model_id: \xff", b"traceparent: \xff", b"cookie: \xff",
    b"x-request-timeout-seconds: \xff", b"x-request-disconnect-disabled: \xff", "x-request-id: 日本".encode(),
]  # fmt: skip


@pytest.mark.parametrize("header", UNREADABLE)
def test_header_bytes_that_are_not_utf_8_are_no_fault_of_the_server(app: LiveApp, header: bytes) -> None:
    for port in _ports(app):
        start, body = _raw(port, b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + header + b"\r\n", HELLO)
        assert start.startswith(b"http/1.1 200"), (port, start)
        given = re.findall(rb"x-request-id: ([!-~]+)", start)
        assert len(given) == 1
        assert b"chatcmpl-" + given[0] in body


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/api/chat"])
def test_a_stream_to_http_1_0_has_a_length_and_no_chunks(app: LiveApp, path: bytes) -> None:
    for port in _ports(app):
        start, body = _raw(port, b"POST " + path + b" HTTP/1.0\r\nhost: localhost\r\n", HELLO)
        assert b"transfer-encoding" not in start
        assert b"content-length: %d" % len(body) in start
        assert body.endswith(b"data: [DONE]\n\n" if path.startswith(b"/v1") else b"}\n")
        assert body.count(b"\n") > 2


def test_pages_and_names_are_judged_on_both_ports(app: LiveApp) -> None:
    for port in _ports(app):
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        asked = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        preflight = httpx.options(url, headers=asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, asked["origin"])
        answer = httpx.post(url, json=HELLO, headers={"origin": asked["origin"]}, timeout=60)
        assert answer.headers["access-control-allow-origin"] == asked["origin"]
        assert "x-engine" in answer.headers["access-control-expose-headers"]
        assert httpx.post(url, json=HELLO, headers={"origin": "https://evil.example"}).status_code == 403
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", headers={"host": "evil.example"}).status_code == 403
        assert httpx.get(f"http://127.0.0.1:{port}/livez", headers={"host": "evil.example"}).status_code == 200


def _replica_folders(app: LiveApp) -> set[Path]:
    return set(app.temporary.glob(".phi-replica-*"))


def _folder_of(pid: int) -> Path:
    """Return a replica's temporary folder: the last argument of the shell that would remove it."""
    children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    arguments = [Path(f"/proc/{child}/cmdline").read_text().rstrip("\0").split("\0") for child in children]
    (folder,) = (Path(each[-1]) for each in arguments if each[0] == "/bin/sh" and ".phi-replica-" in each[-1])
    return folder


def _await_folder_per_replica(app: LiveApp) -> set[Path]:
    """Wait until there is one folder per replica, and return them; groups that scale may start and stop replicas meanwhile."""
    deadline = time.monotonic() + 60
    while True:
        folders = _replica_folders(app)
        replicas = sum(len(app.pids(each)) for each in app.config["applications"][0]["args"]["engines"])
        if len(folders) == replicas:
            return folders
        assert time.monotonic() < deadline, (folders, replicas)
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["llama_cpp", "vllm"])
def test_a_killed_replica_leaves_no_temporary_files_behind_its_successor(app: LiveApp, group: str) -> None:
    pid = app.pids(group)[0]
    lost = _folder_of(pid)
    assert lost in _await_folder_per_replica(app)
    os.kill(pid, signal.SIGKILL)
    app.await_replicas(group, 1, 180)
    after = _await_folder_per_replica(app)
    assert lost not in after
    assert _folder_of(app.pids(group)[0]) in after
    assert not [each for each in app.temporary.iterdir() if each.is_socket() or each.name.startswith(("phi-llama-", "vllm_"))]
