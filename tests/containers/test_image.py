"""What the built image is, beside what its Dockerfile says."""

import json

import pytest

from tests.containers.cluster import Cluster
from tests.containers.podman import limits, podman

BUILD_TOOLS = ("gcc", "g++", "cc", "ld", "make", "cmake", "git", "pip", "pip3", "curl", "wget")
_FOLDERS = ("/", "/app", "/opt/phi", "/models", "/run/phi-serve/keys", "/etc", "/tmp", "/home/phi", "/cache", "/state", "/dev/shm")
_WRITES = f"import pathlib\nfor path in {_FOLDERS}:\n"
_WRITES += "    try:\n        pathlib.Path(path, 'probe').write_text('x'); print(path)\n    except OSError: pass"


def _once(image: str, *command: str) -> str:
    return podman("run", "--rm", *limits(), image, *command)


def test_it_runs_as_uid_10001_and_has_a_health_check(image: str) -> None:
    (described,) = json.loads(podman("inspect", "--type", "image", image))
    assert described["Config"]["User"] == "10001:10001"
    assert described["Healthcheck"]["Test"][-1] == "http://127.0.0.1:8000/health"
    assert _once(image, "id", "-u").strip() == "10001"
    print(f"\n{image}: {described['Size'] / 1e9:.2f} GB")


def test_no_build_tool_and_no_trace_of_the_build(image: str) -> None:
    found = _once(image, "sh", "-c", f"for tool in {' '.join(BUILD_TOOLS)}; do command -v $tool || true; done")
    assert found == ""
    # Of the wheels an empty mount point is left.
    assert _once(image, "sh", "-c", "ls -d /src /dist /app-layer /opt/wheel /wheels/* 2>/dev/null || true") == ""
    assert "PIP_" not in _once(image, "env")


def test_nothing_in_it_can_gain_privileges(image: str) -> None:
    """Programs with the set-user-id bit are the base's; compose's no-new-privileges makes them harmless."""
    (described,) = json.loads(podman("inspect", "--type", "image", image))
    assert not any(word in pair for pair in described["Config"]["Env"] for word in ("PASSWORD", "SECRET"))
    owned = _once(image, "sh", "-c", "find /opt/phi /app -user 10001 -o -perm -o+w ! -type l | head")
    assert owned == "", "the program's own files are not its user's to change"


@pytest.mark.parametrize("node", ["head", "worker"])
def test_a_running_node_is_as_compose_says(cluster: Cluster, node: str) -> None:
    container = cluster.head if node == "head" else cluster.workers[1]
    assert container.run("id", "-u").strip() == "10001"
    assert container.run("python3.11", "-c", _WRITES).split() == ["/tmp", "/home/phi", "/cache", "/state", "/dev/shm"]
    status = container.run("grep", "-E", "CapEff|CapBnd|NoNewPrivs", "/proc/1/status").split()
    assert status[1::2] == ["0000000000000000", "0000000000000000", "1"]
    podman("healthcheck", "run", container.name)


def test_every_node_has_an_address_of_its_own(cluster: Cluster) -> None:
    nodes = (cluster.head, *cluster.workers.values())
    addresses = [node.inspect('{{(index .NetworkSettings.Networks "phi-ray").IPAddress}}') for node in nodes]
    assert len(set(addresses)) == 3
    assert set(addresses) >= {place.split("/")[0] for places in cluster.replicas().values() for place in places}
