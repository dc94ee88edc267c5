"""Replicas killed and frozen under 32 greedy streams: no client notices, and no token is lost, repeated or counted twice."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from serve_app.config import RoutingSettings
from tests.live import LiveApp

CHAT = "/v1/chat/completions"
STREAMS = 32
TOKENS = 144
"""Long enough that the engine has not made them all before the clients have seen the first."""
SUBJECTS = ("trains", "ships", "cats", "numbers", "rivers", "songs", "maps", "clocks")


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: int
    """Entries of its logprobs."""
    reason: str
    usage: tuple[int, int]
    longest_pause_s: float


def _body(number: int) -> dict[str, object]:
    question = f"Tell me {number + 2} things about {SUBJECTS[number % len(SUBJECTS)]}."
    return {
        "model": "phi-4-mini",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "logprobs": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _stream(app: LiveApp, number: int, progress: Callable[[int, int], None]) -> Answer:
    text, tokens, reason, usage, pause, last = "", 0, "", (0, 0), 0.0, time.monotonic()
    with httpx.stream("POST", app.url + CHAT, json=_body(number), headers={"x-engine": "onnx"}, timeout=120) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            now = time.monotonic()
            pause, last = max(pause, now - last), now
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                tokens += len((choice.get("logprobs") or {}).get("content") or ())
                reason = choice["finish_reason"] or reason
            if event.get("usage"):
                usage = (event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"])
            progress(number, tokens)
    return Answer(text, tokens, reason, usage, pause)


def _all(app: LiveApp, progress: Callable[[int, int], None] = lambda number, tokens: None) -> list[Answer]:
    with ThreadPoolExecutor(STREAMS) as pool:
        return list(pool.map(lambda number: _stream(app, number, progress), range(STREAMS)))


def _same(found: list[Answer], expected: list[Answer]) -> None:
    assert [(answer.text, answer.tokens, answer.reason, answer.usage) for answer in found] == [
        (answer.text, answer.tokens, answer.reason, answer.usage) for answer in expected
    ]


@pytest.fixture(scope="module")
def undisturbed(app: LiveApp) -> list[Answer]:
    answers = _all(app)
    assert {(answer.tokens, answer.reason, answer.usage[1]) for answer in answers} == {(TOKENS, "length", TOKENS)}
    return answers


def _once_at(tokens: int, act: Callable[[], None]) -> Callable[[int, int], None]:
    """Act once: early in the answers when half of the streams are there, late when the first is, so that none has ended."""
    lock, there, enough = threading.Lock(), set[int](), STREAMS // 2 if tokens < TOKENS // 2 else 1

    def progress(number: int, count: int) -> None:
        with lock:
            before = len(there)
            if count >= tokens:
                there.add(number)
            if before < enough <= len(there):
                act()

    return progress


def _await_both(app: LiveApp) -> None:
    """Wait until the ingress knows two replicas as well."""
    app.await_replicas("onnx", 2)
    deadline = time.monotonic() + 30
    while httpx.get(app.url + "/health", timeout=10).json()["groups"]["onnx"]["replicas"] != 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _attempts(app: LiveApp) -> float:
    lines = httpx.get(app.url + "/metrics", timeout=10).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('phi_serve_attempts_total{engine="onnx"'))


@pytest.mark.parametrize("at", [1, *(pytest.param(at, marks=pytest.mark.slow) for at in (5, TOKENS // 2)), TOKENS - 1])
def test_a_replica_killed_under_32_streams_is_not_noticed(app: LiveApp, undisturbed: list[Answer], at: int) -> None:
    _await_both(app)
    victim, before = app.pids("onnx")[0], _attempts(app)
    answers = _all(app, _once_at(at, lambda: os.kill(victim, signal.SIGKILL)))
    moved = _attempts(app) - before - STREAMS
    print(f"\nkilled at {at}: {moved:g} of {STREAMS} streams moved, longest pause {max(a.longest_pause_s for a in answers):.1f} s")
    assert moved > 0
    _same(answers, undisturbed)


@pytest.fixture
def replicas(app: LiveApp) -> Iterator[list[int]]:
    """Both replicas, to be frozen; they go on at the end whatever happens."""
    _await_both(app)
    pids = app.pids("onnx")
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_a_frozen_replica_s_streams_move_within_the_watchdog_time(
    app: LiveApp, undisturbed: list[Answer], replicas: list[int]
) -> None:
    routing = RoutingSettings()
    before = _attempts(app)
    answers = _all(app, _once_at(5, lambda: os.kill(replicas[0], signal.SIGSTOP)))
    os.kill(replicas[0], signal.SIGCONT)
    moved = _attempts(app) - before - STREAMS
    pauses = sorted(answer.longest_pause_s for answer in answers)
    print(f"\nfrozen: {moved:g} of {STREAMS} streams moved, longest pause {pauses[-1]:.1f} s, watchdog {routing.stale_after_s:g} s")
    assert moved > 0
    _same(answers, undisturbed)
    assert pauses[-1] < routing.stall_timeout_s, "its silence was noticed before the watchdog of single streams"
    _same(_all(app), undisturbed)


def test_a_whole_group_down_is_answered_by_the_other(app: LiveApp, replicas: list[int]) -> None:
    """Frozen rather than killed: Serve would have successors within seconds."""
    for pid in replicas:
        os.kill(pid, signal.SIGSTOP)
    body = {"model": "phi-4-mini", "messages": [{"role": "user", "content": "What is 2 + 3?"}], "max_tokens": 4}
    reasons = []
    while not reasons or (reasons[-1] != "not-ready" and len(reasons) < 10):
        answer = httpx.post(app.url + CHAT, json=body, headers={"x-task": "math"}, timeout=60)
        assert (answer.status_code, answer.headers["x-engine"]) == (200, "vllm")
        reasons.append(answer.headers["x-route-reason"])
    print(f"\nall answered by vllm: {reasons}")
    assert reasons[-1] == "not-ready"


def test_a_conversation_stays_on_its_replica(app: LiveApp) -> None:
    """The second turn finds the first one in the cache of the replica that answered it."""
    turns: list[dict[str, str]] = [{"role": "user", "content": "Tell me about the sea, and about ships that cross it in winter."}]
    for _ in range(4):
        body = {"model": "phi-4-mini", "messages": turns, "temperature": 0, "max_tokens": 24, "ignore_eos": True}
        answer = httpx.post(app.url + CHAT, json=body, headers={"x-engine": "onnx"}, timeout=60).json()
        cached = answer["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
        if len(turns) > 1:
            assert cached > 24, "turns that changed places would find nothing"
        turns = [
            *turns,
            {"role": "assistant", "content": answer["choices"][0]["message"]["content"]},
            {"role": "user", "content": "Go on."},
        ]
