"""Redis, a head and two workers, each a container with an address of its own, as `phi-serve export compose` describes them."""

import copy
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from serve_app.manifests.compose import build_compose
from serve_app.manifests.plan import Hardware, Platform, build_plan
from tests.containers.images import REDIS, ROOT
from tests.containers.podman import PREFIX, Container, podman
from tests.containers.services import Place, command, options

SUBNETS = {"ray": "10.89.77", "front": "10.89.78"}
HOSTS = {"ray-head": f"{SUBNETS['ray']}.10", "redis": f"{SUBNETS['ray']}.20"}
WORKERS = (1, 2)
ENVIRONMENT = {
    "RAY_REDIS_ADDRESS": "redis:6379",
    "HEAD_MEMORY": "2g",
    "WORKER_MEMORY": "6g",
    "WORKER_CPUS": "2",
    "CACHE_SIZE": "1g",
}
"""In place of an environment file of docker/env."""
RAYLET = "http://127.0.0.1:52365/api/local_raylet_healthz"
"""A node's own agent: answers once the node is one."""
Config = dict[str, Any]


class Cluster:
    """Containers of the services `redis`, `head` and `worker`; `deploy` hands them a configuration."""

    def __init__(self, image: str, scratch: Path) -> None:
        """Make the networks and the secrets; starts nothing."""
        self._image, self._scratch = image, scratch
        self.head = Container(f"{PREFIX}head")
        self.redis = Container(f"{PREFIX}redis")
        self.workers = {number: Container(f"{PREFIX}worker-{number}") for number in WORKERS}
        self.remove()
        for name, subnet in SUBNETS.items():
            inside = ["--internal"] if name == "ray" else []
            podman("network", "create", *inside, "--subnet", f"{subnet}.0/24", PREFIX + name)
        script = shutil.copy(ROOT / "docker" / "make-secrets.sh", scratch)
        subprocess.run(["sh", script], check=True, timeout=60)
        self.key = (scratch / "secrets" / "api_key").read_text()
        """The first key, which may do everything."""

    @property
    def url(self) -> str:
        """Where clients reach the head's proxy."""
        return f"http://{SUBNETS['front']}.10:8000"

    def address(self, number: int) -> str:
        """Return a worker's address on the cluster's network."""
        return f"{SUBNETS['ray']}.{10 + number}"

    def worker_url(self, number: int) -> str:
        """Where a load balancer would reach a worker's proxy."""
        return f"http://{SUBNETS['front']}.{10 + number}:8000"

    def start(self, config: Config) -> None:
        """Start everything and hand over the configuration."""
        self._run(self.redis, "redis", config, REDIS, 20)
        self._run(self.head, "head", config, self._image, 10)
        until(lambda: self.head.run("python3.11", "/app/probe.py", RAYLET) == "")
        for number, worker in self.workers.items():
            self._run(worker, "worker", config, self._image, 10 + number)
        self.deploy(config)

    def deploy(self, config: Config) -> None:
        """Hand a configuration to the cluster with compose's own service and wait until that has ended."""
        deploy = Container(f"{PREFIX}deploy")
        deploy.remove()
        self._run(deploy, "deploy", config, self._image)
        status = podman("wait", deploy.name, limit_s=400)
        if status != "0":
            raise RuntimeError(f"deploy ended with {status}:\n{deploy.logs()}")
        deploy.remove()

    def _run(self, container: Container, name: str, config: Config, image: str, host: int = 0) -> None:
        plan, gpu_plan = (build_plan(config, variant, Platform.COMPOSE) for variant in (Hardware.CPU, Hardware.GPU))
        service = copy.deepcopy(build_compose(plan, gpu_plan)["services"][name])
        if name == "worker":
            # In compose a worker is on the inner network only; here clients reach it too, as behind a load balancer.
            service["networks"] |= {"front": {}}
        file = self._scratch / "serve_config.yaml"
        file.write_text(yaml.safe_dump(plan.config))
        file.chmod(0o444)
        place = Place(
            networks={name: f"{PREFIX}{name}" + (f":ip={subnet}.{host}" if host else "") for name, subnet in SUBNETS.items()},
            hosts=HOSTS,
            secrets=self._scratch / "secrets",
            folder=self._scratch,
            configs={"serve_config": file},
            environment=ENVIRONMENT,
        )
        podman("run", "--detach", "--name", container.name, *options(service, place), image, *command(service))

    def remove(self) -> None:
        """End all containers of this suite and forget its networks and volumes."""
        for container in (Container(f"{PREFIX}deploy"), *self.workers.values(), self.head, self.redis):
            container.remove()
        for name in SUBNETS:
            podman("network", "rm", "--force", PREFIX + name, allow_failure=True)
        for volume in ("models", "state", "redis"):
            podman("volume", "rm", "--force", PREFIX + volume, allow_failure=True)

    def ready(self, group: str, url: str = "") -> int:
        """Return how many replicas of a group are ready, as an ingress sees it."""
        return int(self.group(group, url)["ready_replicas"])

    def group(self, name: str, url: str = "") -> dict[str, Any]:
        """Return what an ingress knows of a group."""
        headers = {"authorization": f"Bearer {self.key}"}
        groups = httpx.get(f"{url or self.url}/v1/cluster", headers=headers, timeout=10).json()["groups"]
        return next(each for each in groups if each["name"] == name)

    def ids(self, *groups: str) -> set[str]:
        """Return the replicas of some groups that an ingress hears of."""
        return {str(replica["id"]) for name in groups for replica in self.group(name)["replicas"]}

    def replicas(self) -> dict[str, list[str]]:
        """Return each deployment's replicas as `node address/replica`, from Ray's own books; takes seconds."""
        script = (
            "import json, ray; from ray.util.state import list_actors, list_nodes\n"
            "nodes = {node.node_id: node.node_ip for node in list_nodes(detail=True)}\n"
            "alive = list_actors(filters=[('state', '=', 'ALIVE')], limit=1000, detail=True)\n"
            "print(json.dumps([(actor.name, nodes.get(actor.node_id, '')) for actor in alive if '#' in (actor.name or '')]))"
        )
        lines = self.head.run("python", "-c", f"import ray; ray.init(log_to_driver=False, logging_level='error')\n{script}")
        found: dict[str, list[str]] = {}
        for name, address in yaml.safe_load(lines.splitlines()[-1]):
            _, deployment, replica = name.split("#")
            found.setdefault(deployment, []).append(f"{address}/{replica}")
        return found

    def told(self) -> str:
        """Return the end of every container's output, for a failure's report."""
        containers = (self.redis, self.head, *self.workers.values())
        return "\n".join(f"--- {container.name}\n{container.logs()}" for container in containers)


def until(holds: Callable[[], bool], limit_s: float = 240) -> float:
    """Return the seconds until `holds`; what cannot be reached yet does not hold. Raises `TimeoutError`."""
    began = time.monotonic()
    while True:
        with suppress(httpx.HTTPError, ValueError, KeyError, StopIteration, RuntimeError):
            if holds():
                return time.monotonic() - began
        if time.monotonic() - began > limit_s:
            raise TimeoutError(f"not so after {limit_s:g} s")
        time.sleep(0.3)


def healthy(url: str) -> bool:
    """Whether every group has generated a token, as the containers' own check asks."""
    return httpx.get(f"{url}/health", timeout=5).status_code == 200
