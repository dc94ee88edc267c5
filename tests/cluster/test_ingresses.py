"""Two ingress replicas, real processes on Ray, that share one folder of models: what one makes the other serves, whatever dies."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live import LiveApp, free_port, live, shipped_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LOOKS = 60
"""Serve sends each request to either replica: all of them miss one with a chance of 2**-60."""
SIZE = 200_000
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def pair() -> Iterator[LiveApp]:
    """Two ingress replicas over one scripted group; one of the two has a port of its own as well."""
    config = shipped_config()
    application = config["applications"][0]
    application["args"] |= {
        "engines": {"fake": {"kind": "fake"}},
        "routing": {},
        "ollama_port": {"port": free_port()},
    }
    ingress = next(each for each in application["deployments"] if each["name"] == "ingress")
    application["deployments"] = [ingress | {"num_replicas": 2}, {"name": "fake", "ray_actor_options": {"num_cpus": 0.1}}]
    with live(config) as app:
        _await_both(app)
        yield app


def _await_both(app: LiveApp) -> None:
    """Wait until two replicas answer, and one of them has the second port."""
    deadline = time.monotonic() + 120
    while len(app.pids("ingress")) < 2 or len(_answering(app)) < 2 or _owner(app) is None:
        assert time.monotonic() < deadline, "no two ingress replicas"
        time.sleep(0.5)


def _answering(app: LiveApp) -> set[str]:
    """The replicas that take requests from Serve's proxy now; each names itself in its metrics once it has answered something."""
    texts = []
    with suppress(httpx.HTTPError):
        for _ in range(12):
            httpx.post(f"{app.url}/v1/chat/completions", json=ASK, timeout=10)
            texts.append(httpx.get(f"{app.url}/metrics", timeout=10).text)
    return {
        sample.labels["ingress"]
        for text in texts
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "ingress" in sample.labels
    }


def _own_port(app: LiveApp) -> str:
    return f"http://127.0.0.1:{app.config['applications'][0]['args']['ollama_port']['port']}"


def _owner(app: LiveApp) -> int | None:
    """Process id of the replica that listens on the second port."""
    port = int(_own_port(app).rpartition(":")[2])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]" for line in lines if line[3] == "0A" and int(line[1].rpartition(":")[2], 16) == port}
    for pid in app.pids("ingress"):
        with suppress(OSError):
            if sockets & {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}:
                return pid
    return None


def _create(url: str, system: str) -> int:
    body = {"model": "shared", "from": "phi4-mini", "system": system, "stream": False}
    return httpx.post(f"{url}/api/create", json=body, timeout=30).status_code


def _system(url: str) -> str | None:
    """The variant's system prompt; None where it is not known."""
    response = httpx.post(f"{url}/api/show", json={"model": "shared"}, timeout=30)
    assert response.status_code in (200, 404)
    return str(response.json()["system"]) if response.status_code == 200 else None


def test_what_one_makes_the_other_serves_within_a_second(pair: LiveApp) -> None:
    slowest_s = 0.0
    for turn in range(5):
        assert _create(_own_port(pair), f"turn {turn}") == 200
        made, last_old = time.monotonic(), 0.0
        for _ in range(LOOKS):
            asked = time.monotonic()
            if _system(pair.url) != f"turn {turn}":
                last_old = asked - made
        slowest_s = max(slowest_s, last_old)
    print(f"\nthe last answer without the change was asked for {slowest_s:.3f} s after it")
    assert slowest_s < 1.0
    for _ in range(10):
        assert httpx.post(f"{pair.url}/v1/chat/completions", json=ASK | {"model": "shared"}, timeout=30).status_code == 200
    assert len(_answering(pair)) == 2


def test_kill_9_in_the_midst_of_a_creation_leaves_the_old_or_the_new(pair: LiveApp) -> None:
    folder = Path(pair.config["applications"][0]["args"]["models_dir"])
    assert _create(pair.url, "a" * SIZE) == 200
    for pause_s in (0.0, 0.004, 0.011):
        owner, url = _owner(pair), _own_port(pair)
        assert owner is not None

        def write(url: str = url) -> None:
            with suppress(httpx.HTTPError):  # until the replica is gone
                while True:
                    for text in "ab":
                        _create(url, text * SIZE)

        with ThreadPoolExecutor(1) as writers:
            writing = writers.submit(write)
            time.sleep(0.3 + pause_s)
            os.kill(owner, signal.SIGKILL)
            writing.result(timeout=60)
        found = _system(_surviving(pair))
        assert found in ("a" * SIZE, "b" * SIZE)
        (file,) = folder.glob("*.json")
        assert json.loads(file.read_text())["settings"]["system"] == found
        assert _create(_surviving(pair), "a" * SIZE) == 200
        _await_both(pair)


def _surviving(app: LiveApp) -> str:
    """The address of Serve's proxy, as soon as it sends nothing to the killed replica any more."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if all(httpx.get(f"{app.url}/livez", timeout=5).status_code == 200 for _ in range(5)):
                return app.url
        time.sleep(0.2)
    raise AssertionError("the other replica does not answer")
