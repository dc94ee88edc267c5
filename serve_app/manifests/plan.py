"""Plans the cluster for a configuration: pools of nodes, the groups on each, and their sizes.

Knows the configuration; knows neither compose nor Kubernetes.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import Any

from serve_app.config import AppSettings
from serve_app.store_config import RedisSettings

Config = dict[str, Any]
"""A whole serve_config.yaml."""

UID = 10001
"""User and group of every process in our images."""
VERSION = version("phi-serve")
"""Tag of the images."""
RAY_VERSION = version("ray")
HTTP_PORT = 8000
GCS_PORT = 6379
DASHBOARD_PORT = 8265
METRICS_PORT = 8080
"""Ray's own metrics on every node."""
AGENT_PORT = 52365
"""Port of the node agent, which reports the node's health."""
OBJECT_STORE_BYTES = 256 << 20
"""Small: token events are sent by value, not through Ray's store."""
KEYS_FOLDER = "/run/phi-serve/keys"
"""Where containers find the folder with the file of keys. The folder is mounted, not the file: changes replace the file."""
STATE_FOLDER = "/state"
"""Compose's volume for what the ingresses of one machine share."""
STORE_URL_ENV = "PHI_SERVE_STORE_URL"
"""Environment variable with the URL of the store on Kubernetes."""
_GRACE_MARGIN_S = 30
_MODELS = "/models"


class Hardware(StrEnum):
    """The processors of the model's groups."""

    CPU = "cpu"
    GPU = "gpu"


class Platform(StrEnum):
    """What runs the containers."""

    COMPOSE = "compose"
    """One machine, whose containers share volumes."""
    KUBERNETES = "kubernetes"
    """Several machines, which share Redis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Nodes of one size and the groups that should run on them."""

    name: str
    groups: tuple[str, ...]
    cpus: int
    """Cores of a node."""
    memory_gib: int
    gpus: int = 0
    min_nodes: int = 1
    """Least number of nodes."""
    max_nodes: int = 1
    """Most nodes; bound of the autoscaler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A configuration adapted to containers, and its nodes."""

    config: Config
    settings: AppSettings
    pools: tuple[Pool, ...]

    @property
    def grace_s(self) -> int:
        """Seconds that a node has to finish its requests: above the longest generation and Serve's own shutdown timeouts."""
        patience = [float(each.get("graceful_shutdown_timeout_s", 0)) for each in self.application["deployments"]]
        return int(max(self.settings.limits.request_timeout_s, *patience)) + _GRACE_MARGIN_S

    @property
    def application(self) -> Config:
        """The only application of the configuration."""
        application: Config = self.config["applications"][0]
        return application

    @property
    def needs_volume(self) -> bool:
        """Whether the configuration names files under /models."""
        exported = [getattr(engine, "exported", None) for engine in self.settings.engines.values()]
        return any(str(path).startswith(_MODELS) for path in (*self._model_paths, *exported))

    @property
    def needs_hub(self) -> bool:
        """Whether the model is fetched from the hub, so that nodes must reach it."""
        return any(path != "embedded" and not path.startswith("/") for path in self._model_paths)

    @property
    def needs_keys(self) -> bool:
        """Whether the application asks for keys, so that nodes must have the file of keys."""
        return not self.settings.access.open

    @property
    def needs_store_url(self) -> bool:
        """Whether the store is the Redis of the manifests, so that nodes must know its URL."""
        store = self.settings.store
        return isinstance(store, RedisSettings) and store.url_env == STORE_URL_ENV

    @property
    def _model_paths(self) -> list[str]:
        return [model.path for model in self.settings.models.values()]


def build_plan(config: Config, variant: Hardware, platform: Platform) -> Plan:
    """Return the plan for a configuration; raises pydantic's `ValidationError` where `args:` is wrong."""
    contained = _adapt_to_containers(config, platform)
    if variant is Hardware.GPU:
        contained = _move_to_gpus(contained)
    application = contained["applications"][0]
    settings = AppSettings.model_validate(application["args"])
    options = {each["name"]: each for each in application["deployments"]}
    on_gpus = {name: _count_gpus(options.get(name, {})) for name in settings.engines}
    pools = [_build_cpu_pool(tuple(name for name, gpus in on_gpus.items() if not gpus))]
    with_gpus = tuple(name for name, gpus in on_gpus.items() if gpus)
    if with_gpus:
        pools.append(_build_gpu_pool(with_gpus, max(on_gpus.values())))
    return Plan(config=contained, settings=settings, pools=tuple(pools))


def _adapt_to_containers(config: Config, platform: Platform) -> Config:
    """Return the configuration for containers.

    The proxy listens on the container's own addresses, so the application needs keys. Keys and state are where every ingress
    reaches them; a store that the configuration names stays.
    """
    contained = copy.deepcopy(config)
    contained["http_options"] = {**contained.get("http_options", {}), "host": "0.0.0.0", "port": HTTP_PORT}
    args = contained["applications"][0]["args"]
    if isinstance(args, dict):
        args["access"] = _adapt_access(args.get("access", {}), platform)
        args.setdefault("store", _build_store(platform))
    return contained


def _adapt_access(given: Any, platform: Platform) -> Any:
    """Return `args.access` for containers; what asks for no keys, or is wrong, stays."""
    if not isinstance(given, dict) or given.get("open"):
        return given
    journal = {"journal_dir": f"{STATE_FOLDER}/journal"} if platform is Platform.COMPOSE else {}
    return {**journal, **given, "keys_file": f"{KEYS_FOLDER}/keys.json"}


def _build_store(platform: Platform) -> Config:
    """Return `args.store` for a configuration that names none."""
    if platform is Platform.COMPOSE:
        return {"kind": "sqlite", "path": f"{STATE_FOLDER}/store"}
    return {"kind": "redis", "url_env": STORE_URL_ENV}


def _move_to_gpus(config: Config) -> Config:
    """Return the configuration with every engine that can use a GPU on one; other engines are unchanged."""
    moved = copy.deepcopy(config)
    application = moved["applications"][0]
    options = {each["name"]: each for each in application["deployments"]}
    for name, engine in application["args"]["engines"].items():
        if "device" not in engine:
            continue
        engine.update(device="cuda", dtype="bfloat16", enforce_eager=False)
        for field in ("threads", "kv_cache_gib"):  # without effect there
            engine.pop(field, None)
        actor = {"num_cpus": 1, "num_gpus": engine.get("tensor_parallel_size", 1)}
        if name not in options:
            options[name] = {"name": name}
            application["deployments"].append(options[name])
        options[name]["ray_actor_options"] = {**options[name].get("ray_actor_options", {}), **actor}
    return moved


def _count_gpus(options: Mapping[str, Any]) -> int:
    return math.ceil(float(options.get("ray_actor_options", {}).get("num_gpus", 0)))


def _build_cpu_pool(groups: tuple[str, ...]) -> Pool:
    """Return the CPU pool: production CPU in the tutorial's table, 8 to 12 GB."""
    return Pool(name="cpu", groups=groups, cpus=4, memory_gib=10, min_nodes=2, max_nodes=4)


def _build_gpu_pool(groups: tuple[str, ...], gpus: int) -> Pool:
    """Return the GPU pool: one GPU replica per node, with cores for vLLM's own processes only, so that no CPU group fits."""
    return Pool(name="gpu", groups=groups, cpus=2, memory_gib=16, gpus=gpus, min_nodes=1, max_nodes=2)
