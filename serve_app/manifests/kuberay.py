"""Generates KubeRay's RayService (`ray.io/v1`, KubeRay 1.7), with pods under Pod Security "restricted".

Knows the plan; the other objects are in `kubernetes`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from serve_app.manifests.plan import (
    AGENT_PORT,
    DASHBOARD_PORT,
    GCS_PORT,
    HTTP_PORT,
    KEYS_FOLDER,
    METRICS_PORT,
    OBJECT_STORE_BYTES,
    RAY_VERSION,
    STORE_URL_ENV,
    UID,
    VERSION,
    Plan,
    Pool,
)
from serve_app.manifests.text import dump

Object = dict[str, Any]

NAME = "phi-serve"
REDIS = f"{NAME}-redis"
REDIS_SECRET = f"{NAME}-redis"
"""Holds `password`, which is a part of a URL too; made by the operator, never part of a manifest."""
KEYS_SECRET = f"{NAME}-keys"
"""Holds `keys.json`, the file of keys, and `api_key`, a key for Prometheus; made by the operator too."""
MODELS_CLAIM = f"{NAME}-models"
"""A volume claim with the model's files, where the configuration names a folder under /models."""
SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": UID,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": UID,
    "fsGroup": UID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_SCRATCH = {"tmp": "/tmp", "home": "/home/phi", "cache": "/cache"}


class Upgrade(StrEnum):
    """How a change replaces the running cluster."""

    NEW_CLUSTER = "NewCluster"
    """A whole second cluster, then a switch."""
    INCREMENTAL = "NewClusterWithIncrementalUpgrade"
    """Traffic moves bit by bit through a Gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """The operator's options in addition to the configuration."""

    upgrade: Upgrade = Upgrade.NEW_CLUSTER
    gateway_class: str = "istio"
    """Gateway class of the incremental upgrade."""
    registry: str = ""
    """Prefix of our images, with a slash at its end."""


def build_ray_service(plan: Plan, choices: ClusterOptions) -> Object:
    """Return the RayService of a plan."""
    workers = [_build_worker_group(pool, plan, choices) for pool in plan.pools]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": NAME, "namespace": NAME, "labels": build_labels()},
        "spec": {
            "upgradeStrategy": _build_upgrade(choices),
            "rayClusterDeletionDelaySeconds": plan.grace_s,  # lets the old cluster's streams finish
            "serveConfigV2": dump(plan.config),
            "rayClusterConfig": {
                "rayVersion": RAY_VERSION,
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": _build_autoscaler(),
                "gcsFaultToleranceOptions": {
                    "backend": "redis",
                    "redisAddress": f"{REDIS}:6379",
                    "redisPassword": {"valueFrom": {"secretKeyRef": {"name": REDIS_SECRET, "key": "password"}}},
                },
                "authOptions": {"mode": "token"},
                "headGroupSpec": _build_head_group(plan, choices),
                "workerGroupSpecs": workers,
            },
        },
    }


def build_labels(component: str | None = None) -> dict[str, str]:
    """Return the labels of our objects; with a component, of its pods."""
    shared = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": NAME}
    return shared | {"app.kubernetes.io/component": component} if component else shared


def _build_upgrade(choices: ClusterOptions) -> Object:
    if choices.upgrade is Upgrade.NEW_CLUSTER:
        return {"type": str(choices.upgrade)}
    return {
        "type": str(choices.upgrade),
        "clusterUpgradeOptions": {
            "maxSurgePercent": 50,
            "stepSizePercent": 10,
            "intervalSeconds": 30,
            "gatewayClassName": choices.gateway_class,
        },
    }


def _build_autoscaler() -> Object:
    return {
        "version": "v2",
        "idleTimeoutSeconds": 300,
        "upscalingMode": "Default",
        "resources": build_resources("200m", "512Mi", "500m", "1Gi"),
        "securityContext": SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


def _build_head_group(plan: Plan, choices: ClusterOptions) -> Object:
    probe = {"httpGet": {"path": "/api/gcs_healthz", "port": "dashboard"}, "timeoutSeconds": 5}
    container = _build_container("ray-head", "cpu", plan, choices) | {
        "resources": build_resources("1", "2Gi", "2", "4Gi"),
        "ports": [
            _build_port("gcs", GCS_PORT),
            _build_port("dashboard", DASHBOARD_PORT),
            _build_port("serve", HTTP_PORT),
            _build_port("metrics", METRICS_PORT),
        ],
        "startupProbe": probe | {"periodSeconds": 5, "failureThreshold": 60},
        "livenessProbe": probe | {"periodSeconds": 10, "failureThreshold": 12},
        "readinessProbe": probe | {"periodSeconds": 5, "failureThreshold": 3},
    }
    return {
        "rayStartParams": _build_start_params(cpus=0, gpus=0) | {"dashboard-host": "0.0.0.0"},
        # The in-tree autoscaler in this pod calls the API server; no other pod has a token.
        "template": _build_pod("head", container, plan),
    }


def _build_worker_group(pool: Pool, plan: Plan, choices: ClusterOptions) -> Object:
    variant = "gpu" if pool.gpus else "cpu"
    alive = {"httpGet": {"path": "/api/local_raylet_healthz", "port": "agent"}, "timeoutSeconds": 5}
    # Serve's proxy on this node; a node without a replica has none, is unready, and gets no requests.
    ready = {"httpGet": {"path": "/-/healthz", "port": "serve"}, "timeoutSeconds": 5}
    sizes = build_resources(str(pool.cpus), f"{pool.memory_gib}Gi", str(pool.cpus), f"{pool.memory_gib}Gi")
    if pool.gpus:
        for size in sizes.values():
            size["nvidia.com/gpu"] = str(pool.gpus)
    container = _build_container("ray-worker", variant, plan, choices) | {
        "resources": sizes,
        "ports": [_build_port("serve", HTTP_PORT), _build_port("metrics", METRICS_PORT), _build_port("agent", AGENT_PORT)],
        "startupProbe": alive | {"periodSeconds": 5, "failureThreshold": 60},
        "livenessProbe": alive | {"periodSeconds": 10, "failureThreshold": 12},
        "readinessProbe": ready | {"periodSeconds": 5, "failureThreshold": 2},
    }
    pod = _build_pod(f"worker-{pool.name}", container, plan)
    pod["spec"]["automountServiceAccountToken"] = False
    if pool.gpus:
        pod["spec"]["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return {
        "groupName": pool.name,
        "replicas": pool.min_nodes,
        "minReplicas": pool.min_nodes,
        "maxReplicas": pool.max_nodes,
        "rayStartParams": _build_start_params(cpus=pool.cpus, gpus=pool.gpus),
        "template": pod,
    }


def _build_start_params(*, cpus: int, gpus: int) -> dict[str, str]:
    return {
        "num-cpus": str(cpus),
        "num-gpus": str(gpus),
        "object-store-memory": str(OBJECT_STORE_BYTES),
        "metrics-export-port": str(METRICS_PORT),
    }


def _build_port(name: str, number: int) -> Object:
    return {"name": name, "containerPort": number}


def build_resources(cpu: str, memory: str, most_cpu: str, most_memory: str) -> Object:
    """Return requests and limits."""
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": most_cpu, "memory": most_memory}}


def _build_container(name: str, variant: str, plan: Plan, choices: ClusterOptions) -> Object:
    mounts: list[Object] = [{"name": volume, "mountPath": path} for volume, path in _SCRATCH.items()]
    mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if plan.needs_volume:
        mounts.append({"name": "models", "mountPath": "/models", "readOnly": True})
    if plan.needs_keys:
        mounts.append({"name": "keys", "mountPath": KEYS_FOLDER, "readOnly": True})
    return {
        "name": name,
        "image": f"{choices.registry}phi-serve-{variant}:{VERSION}",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": SECURITY,
        "env": _build_environment(plan),
        "volumeMounts": mounts,
        # Serve stops sending requests once the pod is unready; running requests may finish.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "10"]}}},
    }


def _build_environment(plan: Plan) -> list[Object]:
    environment: list[Object] = [{"name": "HF_HUB_OFFLINE", "value": "0" if plan.needs_hub else "1"}]
    if plan.needs_store_url:
        # Not REDIS_PASSWORD, which KubeRay sets itself. Kubernetes expands variables that stand before; database 0 is Ray's.
        secret = {"secretKeyRef": {"name": REDIS_SECRET, "key": "password"}}
        environment.append({"name": "PHI_SERVE_REDIS_PASSWORD", "valueFrom": secret})
        environment.append({"name": STORE_URL_ENV, "value": f"redis://:$(PHI_SERVE_REDIS_PASSWORD)@{REDIS}:6379/1"})
    return environment


def _build_pod(component: str, container: Object, plan: Plan) -> Object:
    volumes: list[Object] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}},
        {"name": "home", "emptyDir": {"sizeLimit": "256Mi"}},
        {"name": "cache", "emptyDir": {"sizeLimit": "24Gi"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    ]
    if plan.needs_volume:
        volumes.append({"name": "models", "persistentVolumeClaim": {"claimName": MODELS_CLAIM, "readOnly": True}})
    if plan.needs_keys:
        # Hashes only: engines need no key. A folder, since Kubernetes updates no single file (subPath).
        items = [{"key": "keys.json", "path": "keys.json"}]
        volumes.append({"name": "keys", "secret": {"secretName": KEYS_SECRET, "items": items, "defaultMode": 0o440}})
    return {
        "metadata": {"labels": build_labels(component)},
        "spec": {
            "securityContext": POD_SECURITY,
            "terminationGracePeriodSeconds": plan.grace_s,
            "enableServiceLinks": False,
            "containers": [container],
            "volumes": volumes,
        },
    }
