"""Embeddings through Ray: two replicas of a tiny encoder beside a group that generates, one of them killed under eight requests."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.contract.test_encoder import write_model
from tests.live import LiveApp, live, shipped_config

pytestmark = pytest.mark.slow
CLIENTS, ROUNDS = 8, 12
TEXTS = [" ".join("abcdefghijklmnopqrstuvwxyz"[at % 26 :][: 1 + at % 20]) for at in range(400)]


def _config(folder: Path) -> dict[str, Any]:
    config = shipped_config()
    application = config["applications"][0]
    arguments = application["args"]
    arguments["models"]["mini"] = {"path": str(folder)}
    arguments["engines"] = {
        "fake": {"kind": "fake"},
        "encoder": {"kind": "onnx_encoder", "model": "mini", "max_batch_tokens": 256},
    }
    arguments["routing"] = {"max_attempts": 3}
    ingress = next(each for each in application["deployments"] if each["name"] == "ingress")
    groups = [
        {"name": "fake", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.1}},
        {"name": "encoder", "num_replicas": 2, "health_check_period_s": 5, "ray_actor_options": {"num_cpus": 0.2}},
    ]
    application["deployments"] = [ingress, *groups]
    return config


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApp]:
    folder = write_model(tmp_path_factory.mktemp("encoder") / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHI_SERVE_CACHE", str(tmp_path_factory.mktemp("cache")))
        with live(_config(folder)) as started:
            started.await_replicas("encoder", 2)
            _await_reports(started)
            yield started


def _await_reports(app: LiveApp) -> None:
    """Wait until the ingress has heard of both replicas; they report once a second."""
    deadline = time.monotonic() + 30
    while httpx.get(f"{app.url}/health").json()["groups"]["encoder"]["replicas"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)  # a report comes once a second


def _embed(app: LiveApp, texts: list[str]) -> list[list[float]]:
    with app.client() as client:
        return [each.embedding for each in client.embeddings.create(model="mini", input=texts).data]


def test_official_clients_get_the_same_vectors(app: LiveApp) -> None:
    expected = _embed(app, TEXTS)
    found = httpx.post(f"{app.url}/api/embed", json={"model": "mini", "input": TEXTS}, timeout=60).json()["embeddings"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    health = httpx.get(f"{app.url}/health").json()
    assert (health["groups"]["encoder"]["model"], health["groups"]["encoder"]["replicas"]) == ("mini", 2)
    wanted = ('phi_serve_tokens_total{engine="encoder"', 'vllm:prompt_tokens_total{engine="onnx_encoder"')
    deadline = time.monotonic() + 15
    while not all(each in httpx.get(f"{app.url}/metrics").text for each in wanted):  # replicas report once a second
        assert time.monotonic() < deadline
        time.sleep(0.2)  # a report comes once a second


def test_a_replica_killed_under_eight_requests_is_not_noticed(app: LiveApp) -> None:
    expected, victim = _embed(app, TEXTS), app.pids("encoder")[0]
    started = threading.Barrier(CLIENTS + 1, timeout=60)

    def work(_: int) -> list[list[list[float]]]:
        started.wait()
        return [_embed(app, TEXTS) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(work, number) for number in range(CLIENTS)]
        started.wait()
        while len(loads := app.loads("encoder")) < 2 or not all(load.running for load in loads):
            pass
        os.kill(victim, signal.SIGSTOP)  # what it has, and what comes now, stays under way
        time.sleep(0.5)  # a request takes milliseconds; one of the next goes to the stopped replica
        os.kill(victim, signal.SIGKILL)
        answers = [answer for each in running for answer in each.result(timeout=120)]
    assert len(answers) == CLIENTS * ROUNDS
    for answer in answers:
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    lines = httpx.get(f"{app.url}/metrics").text.splitlines()
    failed = [each for each in lines if each.startswith("phi_serve_attempts_total") and "encoder" in each and '"ok"' not in each]
    assert failed  # else the replica had nothing under way
    closed = [
        each for each in lines if each.startswith("phi_serve_breaker{") and 'state="closed"' in each and each.endswith(" 1.0")
    ]
    assert [each for each in closed if 'group="encoder"' in each and 'replica=""' in each]  # one replica's failures are its own
    app.await_replicas("encoder", 2)
    _await_reports(app)
    assert _embed(app, TEXTS[:3]) == expected[:3]
