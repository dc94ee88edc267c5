"""Generates the Helm chart's values for a configuration. A test compares the rendered chart with the objects of `kubernetes`."""

from typing import Any

from serve_app.config import DEFAULT_MODELS
from serve_app.manifests.compose import IMAGES
from serve_app.manifests.kuberay import KEYS_SECRET, MODELS_CLAIM, REDIS_SECRET, ClusterOptions
from serve_app.manifests.plan import RAY_VERSION, VERSION, Plan
from serve_app.manifests.text import dump

_ABOUT = {
    "image": "Our images. registry is a prefix with a slash at its end.",
    "rayVersion": "Must be the images' own.",
    "models": "The served models: args.models of serve_config.yaml.",
    "groups": "Engine groups, best first where routing names none: the engine (args.engines) and Serve's options (deployments).",
    "ingress": "Serve options of the ingress.",
    "args": "The rest of args: routing, limits.",
    "serve": "The rest of serve_config.yaml.",
    "application": "Name and place of the application; import_path is fixed by the image.",
    "head": "The head runs Ray's control service and the autoscaler, no engine.",
    "pools": "Nodes for the groups. A pool with gpus takes the groups that ask for num_gpus. min and max bound the autoscaler.",
    "storage": "claim: a PersistentVolumeClaim with the model's files, mounted read-only at /models. cache: scratch space per pod.",
    "auth": "Ray's token; KubeRay creates the secret unless secretName names your own, with the key auth_token.",
    "redis": "Keeps the head's state. enabled: false with an address of your own. You create secret; its password is hex.",
    "keys": "Secret with the keys keys.json and api_key. create: make it; false where another program renders the chart.",
    "upgrade": "NewCluster, or NewClusterWithIncrementalUpgrade, which needs a Gateway API controller.",
    "networkPolicy": "hub: pods may fetch the model on port 443. client: label of namespaces that may send requests and scrape.",
    "monitoring": "PodMonitor, ServiceMonitor and PrometheusRule of the Prometheus operator.",
    "graceSeconds": "Above the longest generation and every graceful_shutdown_timeout_s.",
}


_DEFAULT_MODELS = {name: model.model_dump(mode="json", exclude_defaults=True) for name, model in DEFAULT_MODELS.items()}


def build_values(plan: Plan, choices: ClusterOptions) -> dict[str, Any]:
    """Return the chart's values."""
    application = plan.application
    args = dict(application["args"])
    options = {each["name"]: {k: v for k, v in each.items() if k != "name"} for each in application["deployments"]}
    engines = args.pop("engines")
    return {
        "image": {
            "registry": choices.registry,
            "cpu": f"phi-serve-cpu:{VERSION}",
            "gpu": f"phi-serve-gpu:{VERSION}",
            "pullPolicy": "IfNotPresent",
        },
        "rayVersion": RAY_VERSION,
        "models": args.pop("models", _DEFAULT_MODELS),
        "groups": [{"name": name, "engine": engine, "deployment": options.get(name, {})} for name, engine in engines.items()],
        "ingress": options.get("ingress", {}),
        "args": args,
        "serve": {key: value for key, value in plan.config.items() if key != "applications"},
        "application": {key: application[key] for key in ("name", "route_prefix", "import_path")},
        "head": {"cpu": "1", "memory": "2Gi", "mostCpu": "2", "mostMemory": "4Gi"},
        "pools": [
            {
                "name": pool.name,
                "cpus": pool.cpus,
                "memory": f"{pool.memory_gib}Gi",
                "gpus": pool.gpus,
                "min": pool.min_nodes,
                "max": pool.max_nodes,
                "nodeSelector": {},
            }
            for pool in plan.pools
        ],
        "storage": {"claim": MODELS_CLAIM if plan.needs_volume else "", "cache": "24Gi"},
        "auth": {"mode": "token", "secretName": ""},
        "redis": {"enabled": True, "image": IMAGES["redis"], "address": "", "secret": REDIS_SECRET, "storage": "1Gi"},
        "keys": {"secret": KEYS_SECRET if plan.needs_keys else "", "create": plan.needs_keys},
        "upgrade": {"type": str(choices.upgrade), "gatewayClassName": choices.gateway_class},
        "networkPolicy": {"enabled": True, "hub": plan.needs_hub, "client": "phi-serve/client"},
        "monitoring": {"enabled": True},
        "graceSeconds": plan.grace_s,
    }


def render_values(plan: Plan, choices: ClusterOptions) -> str:
    """Return the values as YAML with a comment on each."""
    return "\n".join(f"# {_ABOUT[key]}\n{dump({key: value})}" for key, value in build_values(plan, choices).items())
