"""Several Ray nodes on this machine, real processes without containers: placement, a lost node, metrics, the autoscaling policy."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from serve_app.app import build_app
from serve_app.config import AppSettings
from tests.live import free_port

pytestmark = pytest.mark.slow
LIMIT_S = 90
POLICY = {
    "policy_function": "deployments.autoscaling:TokenBacklog",
    "policy_kwargs": {"target_wait_s": 0.5, "answer_tokens": 40, "target_running": 2},
}
TEXT = " ".join(["word"] * 60)
ENGINE = {"kind": "fake", "tokens_per_second": 40, "slots": 2, "text": TEXT}
TO_ZERO = {"min_replicas": 0, "max_replicas": 1, "upscale_delay_s": 0, "downscale_delay_s": 2, "metrics_interval_s": 0.5}
SCALING = {"min_replicas": 1, "max_replicas": 2, "upscale_delay_s": 0, "downscale_delay_s": 600, "metrics_interval_s": 0.5}


@pytest.fixture(scope="module")
def scratch() -> Iterator[str]:
    """The folder of this cluster, its address file included: by default that lies in /tmp/ray, which all on the machine share."""
    folder = tempfile.mkdtemp(prefix="phi-", dir="/tmp")
    Path(folder, "ray").mkdir()  # Cluster does not make it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(scratch: str) -> Iterator[tuple[str, Cluster, list[Any]]]:
    """A head without cores, two workers, and three groups: a fixed one, one scaled by our policy, one that may sleep."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True, "temp_dir": scratch})
    workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
    port = free_port()
    settings = AppSettings.model_validate(
        {
            "engines": {"pair": ENGINE, "scaled": ENGINE, "sleeper": ENGINE},
            "routing": {"sleeping": ["sleeper"]},
            "store": {"kind": "sqlite", "path": f"{scratch}/state"},
            "access": {"keys_file": f"{scratch}/keys.json", "journal_dir": f"{scratch}/journal"},
        }
    )
    app = build_app(settings.model_dump(mode="json", exclude_unset=True))
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        for node in app._bound_deployment.init_args[1].values():
            deployment = node._bound_deployment
            bounds = {"scaled": SCALING, "sleeper": TO_ZERO}.get(deployment.name)
            options: dict[str, Any] = {"autoscaling_config": {**bounds, "policy": POLICY}} if bounds else {"num_replicas": 2}
            node._bound_deployment = deployment.options(ray_actor_options={"num_cpus": 0.2}, max_replicas_per_node=1, **options)
        app._bound_deployment = app._bound_deployment.options(ray_actor_options={"num_cpus": 0})
        serve.run(app, name="phi-serve", blocking=False)
        url = f"http://127.0.0.1:{port}"
        _until(lambda: httpx.get(f"{url}/health", timeout=5).status_code == 200)
        yield url, cluster, workers
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _until(holds: Callable[[], bool]) -> float:
    began = time.monotonic()
    while True:
        try:
            if holds():
                return time.monotonic() - began
        except (httpx.HTTPError, ValueError, KeyError):
            pass
        assert time.monotonic() - began < LIMIT_S
        time.sleep(0.3)


def _group(url: str, name: str) -> dict[str, Any]:
    groups: list[dict[str, Any]] = httpx.get(f"{url}/v1/cluster", timeout=10).json()["groups"]
    return next(group for group in groups if group["name"] == name)


def _ask(url: str, group: str, tokens: int = 8) -> int:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-engine": group}, timeout=120).status_code


def _places(name: str) -> list[str]:
    actors = list_actors(filters=[("state", "=", "ALIVE")], limit=1000, detail=True)
    return [actor.node_id for actor in actors if f"#{name}#" in (actor.name or "")]


def test_replicas_are_on_different_workers_and_none_on_the_head(nodes: tuple[str, Cluster, list[Any]]) -> None:
    _, _, workers = nodes
    _until(lambda: len(_places("pair")) == 2)
    assert set(_places("pair")) == {worker.node_id for worker in workers}


def test_a_request_wakes_a_group_without_replicas_and_is_held_meanwhile(nodes: tuple[str, Cluster, list[Any]]) -> None:
    url, _, _ = nodes
    assert _group(url, "sleeper")["phase"] == "asleep"
    with ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        assert list(pool.map(lambda _: _ask(url, "sleeper"), range(4))) == [200] * 4
        woke_s = time.monotonic() - began
    assert _group(url, "sleeper")["ready_replicas"] == 1
    slept_s = _until(lambda: _group(url, "sleeper")["phase"] == "asleep")
    print(f"\nanswered {woke_s:.1f} s after waking it, asleep again {slept_s:.1f} s later")


def test_a_queue_brings_a_replica(nodes: tuple[str, Cluster, list[Any]]) -> None:
    url, _, _ = nodes
    assert _group(url, "scaled")["ready_replicas"] == 1
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(_ask, url, "scaled", 50) for _ in range(24)]
        took_s = _until(lambda: _group(url, "scaled")["ready_replicas"] == 2)
        assert [answer.result() for answer in answers] == [200] * 24
    print(f"\na second replica {took_s:.1f} s after the load began")


def test_vllms_series_are_there_for_every_group(nodes: tuple[str, Cluster, list[Any]]) -> None:
    url, _, _ = nodes
    assert _ask(url, "pair") == 200

    def counted() -> bool:
        families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=10).text)
        samples = [sample for family in families for sample in family.samples if sample.name == "vllm:generation_tokens_total"]
        return {sample.labels["group"] for sample in samples if sample.value > 0} == {"pair", "scaled"}

    _until(counted)


def test_a_lost_node_costs_no_request_that_comes_after(nodes: tuple[str, Cluster, list[Any]]) -> None:
    url, cluster, workers = nodes
    cluster.remove_node(workers[1], allow_graceful=False)
    _until(lambda: _group(url, "pair")["ready_replicas"] == 1)
    statuses = [_ask(url, "pair", 2) for _ in range(20)]
    assert statuses == [200] * 20
    cluster.add_node(num_cpus=1)
    took_s = _until(lambda: _group(url, "pair")["ready_replicas"] == 2)
    print(f"\na new node took over after {took_s:.1f} s")
