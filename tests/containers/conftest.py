"""Images and the cluster, made once for the suite; what is missing for containers is said, and all is skipped."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers import images, podman
from tests.containers.cluster import Cluster, Config, healthy, until
from tests.live import shipped_config

SLOW_TOKENS_PER_S = 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = podman.missing()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.timeout(3600))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def options(config: Config, name: str) -> dict[str, Any]:
    """Return a deployment's section of a configuration."""
    found: dict[str, Any] = next(each for each in config["applications"][0]["deployments"] if each["name"] == name)
    return found


@pytest.fixture(scope="session")
def image() -> str:
    """The CPU image, built from this checkout."""
    return images.build()


@pytest.fixture(scope="session")
def config() -> Config:
    """The shipped configuration with an ingress on every node (docs/cluster.md), and a scripted group of slow answers."""
    config = shipped_config()
    application = config["applications"][0]
    on_every_node = {"num_replicas": 3, "max_replicas_per_node": 1, "max_surge_percent": 0, "ray_actor_options": {"num_cpus": 0}}
    options(config, "ingress").update(on_every_node)
    engine = {"kind": "fake", "tokens_per_second": SLOW_TOKENS_PER_S, "slots": 16, "text": " ".join(["word"] * 200)}
    application["args"]["engines"]["slow"] = engine
    application["deployments"].append({"name": "slow", "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.01}})
    options(config, "slow").update(max_surge_percent=100, graceful_shutdown_timeout_s=630)
    return config


@pytest.fixture(scope="session")
def cluster(image: str, config: Config) -> Iterator[Cluster]:
    """Redis, a head and two workers that serve `config`; every group has answered."""
    images.build_redis()
    with tempfile.TemporaryDirectory(prefix="phi-") as scratch:
        cluster = Cluster(image, Path(scratch))
        try:
            cluster.start(config)
            took_s = until(lambda: healthy(cluster.url), 600)
            print(f"\nevery group ready {took_s:.0f} s after the configuration was handed over")
            yield cluster
        except BaseException:
            print(cluster.told())
            raise
        finally:
            cluster.remove()
