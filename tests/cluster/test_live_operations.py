"""Operators on a real cluster: fake engines in real replicas, two ingresses, Serve's own controller."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from serve_app.access.operator import find_operators
from tests.live import LiveApp, live, shipped_config

pytestmark = pytest.mark.slow
LIMIT_S = 90.0
LONG: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def app() -> Iterator[LiveApp]:
    config = shipped_config()
    application = config["applications"][0]
    args = application["args"]
    engine = {"kind": "fake", "tokens_per_second": 50, "text": "word " * 50, "slots": 8, "max_model_len": 4096}
    args["engines"] = {"a": engine, "b": engine}
    args["routing"] = {"prefer": {"general": ["a", "b"]}}
    sizes: list[dict[str, Any]] = [
        {"name": "ingress", "num_replicas": 2},
        {"name": "a", "autoscaling_config": {"min_replicas": 2, "max_replicas": 2}},
        {"name": "b", "num_replicas": 1},
    ]
    common = {"ray_actor_options": {"num_cpus": 0.01}, "health_check_period_s": 1, "graceful_shutdown_timeout_s": 60}
    application["deployments"] = [size | common for size in sizes]
    with live(config) as running:
        for group, count in (("ingress", 2), ("a", 2), ("b", 1)):
            _await(lambda group=group, count=count: len(running.pids(group)) == count)  # type: ignore[misc]
        yield running


def _await(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    until_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < until_s, "it did not happen in time"
        time.sleep(0.2)  # another process changes it
    return found


def _operate(app: LiveApp, path: str, body: Any = None, *, method: str = "") -> Any:
    headers = {"x-operator-token": find_operators(app.config["applications"][0]["args"]["access"]["keys_file"]).read_secret()}
    method = method or ("GET" if body is None else "POST")
    answer = httpx.request(method, f"{app.url}/v1/operations{path}", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _group(app: LiveApp, name: str) -> Any:
    return next(group for group in _operate(app, "/state")["groups"] if group["name"] == name)


def _ready(app: LiveApp, name: str) -> set[str]:
    return {replica["id"] for replica in _group(app, name)["replicas"] if replica["phase"] == "ready"}


def _ask_long(app: LiveApp, request_id: str, ended: list[Any]) -> threading.Thread:
    def ask() -> None:
        text = ""
        headers = {"x-request-id": request_id, "x-task": "general"}
        with httpx.stream("POST", f"{app.url}/v1/chat/completions", json=LONG, headers=headers, timeout=120) as answer:
            for line in answer.iter_lines():
                text += line
        ended.append(text)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_the_state_shows_every_ingress_and_what_replicas_hold(app: LiveApp) -> None:
    state = _await(lambda: (found := _operate(app, "/state"))["status"] == "healthy" and len(found["ingresses"]) == 2 and found)
    assert len({ingress["id"] for ingress in state["ingresses"]}) == 2
    pids = set(app.pids("a")) | set(app.pids("b"))
    replicas = [replica for group in state["groups"] for replica in group["replicas"]]
    assert {replica["pid"] for replica in replicas} == pids
    measured = _await(
        lambda: all(replica["pss_bytes"] for group in _operate(app, "/state")["groups"] for replica in group["replicas"])
    )
    assert measured
    phases = [[step["phase"] for step in replica["timeline"]] for replica in replicas]
    assert all(steps == ["starting", "loading", "warming", "ready"] for steps in phases)
    assert {group["name"]: group["bounds"] for group in state["groups"]} == {"a": {"min": 2, "max": 2}, "b": {"min": 1, "max": 1}}


def test_a_request_of_either_ingress_is_seen_and_cancelled(app: LiveApp) -> None:
    ended: list[Any] = []
    threads = [_ask_long(app, f"long-{number}", ended) for number in range(6)]
    live = _await(lambda: len(found := _operate(app, "/state")["live"]) == 6 and found)
    assert len({each["ingress"] for each in live}) == 2, "both ingresses serve"
    for number in range(6):
        _operate(app, f"/requests/long-{number}/cancel", {})
    for thread in threads:
        thread.join(30)
    assert len(ended) == 6
    assert all("operator cancelled" in text for text in ended)
    listed = _operate(app, "/requests")["data"]
    assert {each["id"] for each in listed if each["outcome"] == "cancelled_by_operator"} == {f"long-{n}" for n in range(6)}
    found = _operate(app, "/requests/long-3")
    assert found["timeline"][0]["replica"]
    _await(lambda: all(load["running"] == 0 for load in _operate(app, "/state")["groups"]))


def test_a_drained_replica_ends_its_work_and_gets_nothing_new(app: LiveApp) -> None:
    drained, other = sorted(_ready(app, "a"))
    _operate(app, "/groups/a/drain", {"replica": drained})
    _await(lambda: _ready(app, "a") == {other})
    before = {load["id"]: load["running"] for load in _group(app, "a")["replicas"]}
    ended: list[Any] = []
    threads = [_ask_long(app, f"drain-{number}", ended) for number in range(4)]
    _await(lambda: {load["id"]: load["running"] for load in _group(app, "a")["replicas"]} == {drained: 0, other: 4})
    assert before[drained] == 0
    _operate(app, "/groups/a/resume", {"replica": drained})
    for number in range(4):
        _operate(app, f"/requests/drain-{number}/cancel", {})
    for thread in threads:
        thread.join(30)
    assert len(ended) == 4
    _await(lambda: _ready(app, "a") == {drained, other})


def test_a_restart_replaces_every_replica_and_cuts_no_answer(app: LiveApp) -> None:
    before = _ready(app, "a")
    outcomes: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "ignore_eos": True}
        while not stop.is_set():
            answer = httpx.post(f"{app.url}/v1/chat/completions", json=body, headers={"x-engine": "a"}, timeout=60)
            outcomes.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert set(_operate(app, "/groups/a/restart", {})["restarting"]) == before
    after = _await(lambda: len(found := _ready(app, "a")) == 2 and not found & before and found, 120)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not after & before
    assert len(outcomes) > 10
    assert set(outcomes) == {200}, outcomes


def test_a_group_is_scaled_without_a_restart(app: LiveApp) -> None:
    before, ingresses = _ready(app, "a"), set(app.pids("ingress"))
    scaled = _operate(app, "/groups/a/scale", {"min": 3})
    assert scaled["bounds"] == {"min": 3, "max": 3}
    _await(lambda: len(_ready(app, "a")) == 3)
    assert before < _ready(app, "a")
    _operate(app, "/groups/a/scale", {"min": 2, "max": 2})
    _await(lambda: len(_ready(app, "a")) == 2)
    assert _group(app, "a")["bounds"] == {"min": 2, "max": 2}
    _operate(app, "/groups/b/scale", {"min": 2, "max": 2})
    _await(lambda: len(_ready(app, "b")) == 2)
    assert set(app.pids("ingress")) == ingresses


def test_logs_come_from_every_replica(app: LiveApp) -> None:
    sources = _operate(app, "/logs?lines=20")["sources"]
    assert {source["group"] for source in sources} == {"ingress", "a", "b"}
    replicas = [source for source in sources if source["group"] == "a"]
    assert len(replicas) == 2
    assert any("ready after" in line for source in _operate(app, "/logs?group=b&lines=500")["sources"] for line in source["lines"])


def test_the_stream_follows_the_cluster(app: LiveApp) -> None:
    token = find_operators(app.config["applications"][0]["args"]["access"]["keys_file"]).read_secret()
    names: list[str] = []
    contents: list[Any] = []
    with httpx.stream("GET", f"{app.url}/v1/operations", headers={"x-operator-token": token}, timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        asked = False
        while "requests" not in names or names.count("state") < 3:
            line = next(lines)
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            elif line.startswith("data: "):
                contents.append(json.loads(line.removeprefix("data: ")))
            if "state" in names and not asked:
                asked = True
                body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
                httpx.post(f"{app.url}/v1/chat/completions", json=body, headers={"x-request-id": "followed"}, timeout=30)
    finished = [
        each["id"] for name, content in zip(names, contents, strict=False) if name == "requests" for each in content["finished"]
    ]
    assert finished.count("followed") == 1
