"""Generates the cluster's compose file: head, workers, the deployment job, and the optional services as profiles.

Knows the plan; sizes come from the environment files in docker/env, one per row of the resource table.
"""

from typing import Any

from serve_app.manifests.plan import (
    AGENT_PORT,
    HTTP_PORT,
    KEYS_FOLDER,
    OBJECT_STORE_BYTES,
    STATE_FOLDER,
    UID,
    VERSION,
    Hardware,
    Plan,
    Pool,
)
from serve_app.manifests.text import dump

Service = dict[str, Any]

IMAGES = {
    "prometheus": "docker.io/prom/prometheus:v3.5.0",
    "grafana": "docker.io/grafana/grafana:12.2.0",
    "redis": "docker.io/library/redis:8.2.2-bookworm",
    "webui": "ghcr.io/open-webui/open-webui:v0.6.34",
}
"""Third-party images by tag; pin them by digest where you can."""
_SECRETS = ("ray_token", "redis_password", "grafana_password", "api_key")
_KEYS = f"./keys:{KEYS_FOLDER}:ro"
"""The file of keys, made by make-secrets.sh and changed by `phi-serve keys`."""
_CONFIG = "/app/serve_config.yaml"
_LOOPBACK = "127.0.0.1"


def build_compose(plan: Plan, gpu_plan: Plan) -> dict[str, Any]:
    """Return the compose file of `plan`; its profile `gpu` has a node for the groups that `gpu_plan` puts on GPUs."""
    services = {
        "head": _build_head(plan),
        "worker": _build_worker(plan.pools[0], plan),
        "deploy": _build_deploy_job(),
    }
    for pool in gpu_plan.pools[1:]:
        services["gpu-worker"] = _build_gpu_worker(pool, gpu_plan)
    return {
        "name": "phi-serve",
        "services": services | _build_optional_services(plan),
        "networks": {
            "ray": {"internal": True},
            "front": {},
        },
        "volumes": {"models": {}, "state": {}, "prometheus": {}, "grafana": {}, "redis": {}, "webui": {}},
        "secrets": {name: {"file": f"./secrets/{name}"} for name in _SECRETS},
        "configs": {
            "serve_config": {"content": _escape_variables(plan)},
            "serve_config_gpu": {"content": _escape_variables(gpu_plan)},
        },
    }


def _escape_variables(plan: Plan) -> str:
    """Return the configuration as text in which compose replaces no variables."""
    return dump(plan.config).replace("$", "$$")


def _harden(service: Service, *, memory: str, pids: int, cpus: str = "1", read_only: bool = True) -> Service:
    """Return a service without privileges and with limits."""
    return service | {
        "read_only": read_only,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": pids,
        "mem_limit": memory,
        "cpus": cpus,
        "restart": "unless-stopped",
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
    }


def _build_container(variant: Hardware, role: str, plan: Plan, environment: dict[str, str]) -> Service:
    """Return the common part of all our containers."""
    image = f"${{PHI_SERVE_{variant.upper()}_IMAGE:-phi-serve-{variant}:{VERSION}}}"
    build: Service = {"context": "..", "dockerfile": f"docker/{variant}.Dockerfile"}
    if variant is Hardware.CPU:
        build["args"] = {"LOCK": "${PHI_SERVE_LOCK:-image-cpu}"}  # edge: without vLLM
    return {
        "image": image,
        "build": build,
        "command": [role],
        "user": f"{UID}:{UID}",
        "init": True,
        "environment": {
            "RAY_HEAD_HOST": "ray-head",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": "/run/secrets/ray_token",
            "RAY_OBJECT_STORE_BYTES": str(OBJECT_STORE_BYTES),
            # How long nodes wait for a new head where Redis keeps its state; Ray's default of a minute is short for a host's
            # restart.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "HF_HUB_OFFLINE": "0" if plan.needs_hub else "1",
            **environment,
        },
        "secrets": ["ray_token"],
        "networks": {"ray": {}},
        "volumes": ["models:/models:ro", _KEYS, f"state:{STATE_FOLDER}"],
        # For Ray's sockets and logs. Only the cache, which may contain compiled code, is executable.
        # Writable for all users, since the container has one user and podman does not support `uid=`.
        "tmpfs": [
            "/tmp:mode=1777,size=1g",
            "/home/phi:mode=1777,size=64m",
            "/cache:exec,mode=1777,size=${CACHE_SIZE:-2g}",
        ],
        "shm_size": "${SHM_SIZE:-1g}",
        "stop_grace_period": f"{plan.grace_s}s",
    }


def _build_probe(url: str) -> Service:
    return {
        "test": ["CMD", "python3.11", "/app/probe.py", url],
        "interval": "15s",
        "timeout": "5s",
        "start_period": "300s",
        "retries": 4,
    }


def _build_head(plan: Plan) -> Service:
    """Return Ray's head, which runs the proxy that clients use, and no engine."""
    environment = {
        "RAY_NODE_CPUS": "0",
        "RAY_REDIS_ADDRESS": "${RAY_REDIS_ADDRESS:-}",
        "REDIS_PASSWORD_FILE": "/run/secrets/redis_password",
    }
    head = _build_container(Hardware.CPU, "head", plan, environment)
    head["secrets"] = ["ray_token", "redis_password"]
    head["networks"] = {"ray": {"aliases": ["ray-head"]}, "front": {}}
    head["ports"] = [f"{_LOOPBACK}:${{PHI_SERVE_PORT:-{HTTP_PORT}}}:{HTTP_PORT}"]
    head["healthcheck"] = _build_probe(f"http://127.0.0.1:{HTTP_PORT}/health")
    return _harden(head, memory="${HEAD_MEMORY:-2g}", pids=4096)


def _build_worker(pool: Pool, plan: Plan) -> Service:
    """Return a node for engines; WORKER_REPLICAS is their number."""
    worker = _build_container(Hardware.CPU, "worker", plan, {"RAY_NODE_CPUS": "${WORKER_CPUS:-2}"})
    worker["depends_on"] = {"head": {"condition": "service_started"}}
    worker["deploy"] = {"replicas": "${WORKER_REPLICAS:-1}"}
    worker["healthcheck"] = _build_probe(f"http://127.0.0.1:{AGENT_PORT}/api/local_raylet_healthz")
    worker["labels"] = {"phi-serve.groups": ",".join(pool.groups)}
    worker = _harden(worker, memory="${WORKER_MEMORY:-6g}", pids=8192, cpus="${WORKER_CPUS:-2}")
    if plan.needs_hub:
        worker["networks"] = {"ray": {}, "front": {}}
    return worker


def _build_gpu_worker(pool: Pool, plan: Plan) -> Service:
    """Return a node with NVIDIA GPUs."""
    worker = _build_worker(pool, plan)
    worker |= {
        "image": f"${{PHI_SERVE_GPU_IMAGE:-phi-serve-gpu:{VERSION}}}",
        "build": {"context": "..", "dockerfile": "docker/gpu.Dockerfile"},
        "profiles": ["gpu"],
        "mem_limit": "${GPU_WORKER_MEMORY:-16g}",
    }
    worker["environment"] |= {"RAY_NODE_CPUS": str(pool.cpus), "RAY_NODE_GPUS": "${GPU_COUNT:-" + str(pool.gpus) + "}"}
    device = {"driver": "nvidia", "count": "${GPU_COUNT:-" + str(pool.gpus) + "}", "capabilities": ["gpu"]}
    worker["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return worker


def _build_deploy_job() -> Service:
    """Return the job that deploys the configuration SERVE_CONFIG_NAME once; run it again after a change."""
    return _harden(
        {
            "image": f"${{PHI_SERVE_CPU_IMAGE:-phi-serve-cpu:{VERSION}}}",
            "command": ["deploy"],
            "user": f"{UID}:{UID}",
            "environment": {
                "RAY_HEAD_HOST": "ray-head",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": "/run/secrets/ray_token",
                "SERVE_CONFIG": _CONFIG,
            },
            "secrets": ["ray_token"],
            "volumes": [_KEYS],
            "configs": [{"source": "${SERVE_CONFIG_NAME:-serve_config}", "target": _CONFIG}],
            "networks": {"ray": {}},
            "tmpfs": ["/tmp:mode=1777,size=64m", "/home/phi:mode=1777,size=16m"],
            "depends_on": {"head": {"condition": "service_started"}},
            "healthcheck": {"disable": True},
        },
        memory="1g",
        pids=512,
    ) | {"restart": "on-failure"}


def _build_optional_services(plan: Plan) -> dict[str, Service]:
    """Return the services that belong to profiles."""
    return {
        "export": _build_export_job(plan),
        "prometheus": _build_prometheus(),
        "grafana": _build_grafana(),
        "redis": _build_redis(),
        "webui": _build_webui(),
    }


def _build_export_job(plan: Plan) -> Service:
    """Return the job that exports a model to ONNX into the volume, once."""
    export = _build_container(Hardware.CPU, "phi-serve", plan, {"HF_HUB_OFFLINE": "0"})
    export["command"] = ["phi-serve", "export", "onnx", "${MODEL:-embedded}", "--precision", "${PRECISION:-int4}"]
    export["command"] += ["--out", "/models/${EXPORT_NAME:-onnx}"]
    export |= {"profiles": ["export"], "volumes": ["models:/models"], "networks": {"front": {}}, "healthcheck": {"disable": True}}
    del export["secrets"]
    return _harden(export, memory="${EXPORT_MEMORY:-24g}", pids=1024, cpus="${WORKER_CPUS:-2}") | {"restart": "no"}


def _build_prometheus() -> Service:
    service: Service = {
        "image": IMAGES["prometheus"],
        "profiles": ["monitoring"],
        "user": "65534:65534",
        "command": [
            "--config.file=/etc/prometheus/prometheus.yaml",
            "--storage.tsdb.path=/prometheus",
            "--storage.tsdb.retention.time=15d",
        ],
        "secrets": ["api_key"],
        "volumes": ["../cluster/prometheus:/etc/prometheus:ro", "prometheus:/prometheus"],
        "networks": {"ray": {}, "front": {}},
        "ports": [f"{_LOOPBACK}:${{PROMETHEUS_PORT:-9090}}:9090"],
        "healthcheck": {"test": ["CMD", "wget", "-q", "--spider", "http://127.0.0.1:9090/-/healthy"], "interval": "30s"},
    }
    return _harden(service, memory="1g", pids=256)


def _build_grafana() -> Service:
    service: Service = {
        "image": IMAGES["grafana"],
        "profiles": ["monitoring"],
        "user": "472:472",
        "environment": {
            "GF_SECURITY_ADMIN_PASSWORD__FILE": "/run/secrets/grafana_password",
            "GF_USERS_ALLOW_SIGN_UP": "false",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_PLUGINS_PREINSTALL_DISABLED": "true",
        },
        "secrets": ["grafana_password"],
        "volumes": [
            "../cluster/grafana/provisioning:/etc/grafana/provisioning:ro",
            "../cluster/grafana/dashboards:/etc/grafana/dashboards:ro",
            "grafana:/var/lib/grafana",
        ],
        "tmpfs": ["/tmp:mode=1777,size=64m"],
        "networks": {"front": {}},
        "ports": [f"{_LOOPBACK}:${{GRAFANA_PORT:-3000}}:3000"],
        "depends_on": ["prometheus"],
        "healthcheck": {"test": ["CMD", "wget", "-q", "--spider", "http://127.0.0.1:3000/api/health"], "interval": "30s"},
    }
    return _harden(service, memory="512m", pids=256)


def _build_redis() -> Service:
    """Return the store of the head's state, from which a new head finds the running cluster (RAY_REDIS_ADDRESS=redis:6379)."""
    start = 'exec redis-server --appendonly yes --dir /data --requirepass "$$(cat /run/secrets/redis_password)"'
    service: Service = {
        "image": IMAGES["redis"],
        "profiles": ["ha"],
        "user": "999:999",
        "entrypoint": ["sh", "-c", start],
        "secrets": ["redis_password"],
        "volumes": ["redis:/data"],
        "networks": {"ray": {}},
        "healthcheck": {"test": ["CMD-SHELL", "redis-cli ping | grep -q -e PONG -e NOAUTH"], "interval": "15s"},
    }
    return _harden(service, memory="512m", pids=64)


def _build_webui() -> Service:
    """Return Open WebUI over the OpenAI dialect. Its image writes to its root file system, so only this one is not read-only."""
    service: Service = {
        "image": IMAGES["webui"],
        "profiles": ["webui"],
        # The image takes the key from the environment only. What follows is the image's own command.
        "entrypoint": ["bash", "-c", 'export OPENAI_API_KEY="$$(cat /run/secrets/api_key)" && exec bash start.sh'],
        "environment": {
            "ENABLE_OLLAMA_API": "false",
            "OPENAI_API_BASE_URL": f"http://head:{HTTP_PORT}/v1",
            "OFFLINE_MODE": "true",
            "ANONYMIZED_TELEMETRY": "false",
        },
        "secrets": ["api_key"],
        "volumes": ["webui:/app/backend/data"],
        "networks": {"front": {}},
        "ports": [f"{_LOOPBACK}:${{WEBUI_PORT:-3001}}:8080"],
        "depends_on": {"head": {"condition": "service_started"}},
    }
    return _harden(service, memory="2g", pids=256, read_only=False)
