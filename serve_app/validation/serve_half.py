"""Checks Ray Serve's half of the configuration: unknown keys at every level, and bounds that contradict each other.

Serve itself ignores or reports such mistakes only after Ray has started. The keys are those of the Ray that is locked; a test holds
them against Ray's own schema. Pure.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from serve_app.validation.findings import Finding, Place, show_value, suggest
from serve_app.validation.text import Document

_LOGGING = "additional_log_standard_attrs enable_access_log encoding log_level logs_dir"
KEYS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        name: frozenset(keys.split())
        for name, keys in {
            "root": "applications controller_options grpc_options http_options logging_config proxy_location target_capacity "
            "tracing_config",
            "application": "args autoscaling_policy deployments external_scaler_enabled host import_path logging_config name port "
            "route_prefix runtime_env",
            "deployment": "autoscaling_config backpressure_config deployment_actors gang_scheduling_config "
            "graceful_shutdown_timeout_s graceful_shutdown_wait_loop_s health_check_period_s health_check_timeout_s logging_config "
            "max_ongoing_requests max_queued_requests max_replicas_per_node max_surge_percent name num_replicas "
            "placement_group_bundle_label_selector placement_group_bundles placement_group_strategy ray_actor_options "
            "request_router_config rolling_update_percentage user_config",
            "ray_actor_options": "accelerator_type fallback_strategy label_selector memory num_cpus num_gpus resources runtime_env",
            "http_options": "host keep_alive_timeout_s port request_timeout_s root_path ssl_ca_certs ssl_certfile ssl_keyfile "
            "ssl_keyfile_password",
            "grpc_options": "enable_reflection grpc_servicer_functions port request_timeout_s",
            "logging_config": _LOGGING,
            "autoscaling_config": "aggregation_function downscale_delay_s downscale_smoothing_factor downscale_to_zero_delay_s "
            "downscaling_factor initial_replicas look_back_period_s max_replicas metrics_interval_s min_replicas policy "
            "smoothing_factor target_ongoing_requests upscale_delay_s upscale_smoothing_factor upscaling_factor",
        }.items()
    }
)
_NUMBERS = frozenset((
    "num_replicas", "max_ongoing_requests", "max_queued_requests", "max_replicas_per_node", "max_surge_percent",
    "graceful_shutdown_timeout_s", "health_check_period_s", "health_check_timeout_s", "min_replicas", "max_replicas",
    "initial_replicas", "target_ongoing_requests", "upscale_delay_s", "downscale_delay_s", "num_cpus", "num_gpus",
    "memory", "port", "request_timeout_s", "keep_alive_timeout_s",
))  # fmt: skip
_WORDS = MappingProxyType({"num_replicas": ("auto",)})
"""Texts that may stand for a number."""


def check_serve_half(document: Document) -> Iterator[Finding]:
    """Yield the mistakes outside `args`."""
    root = document.value
    if not isinstance(root, dict):
        yield document.report((), "the file is no mapping", "begin with serve_config.yaml of the package")
        return
    yield from _check_keys(document, (), root, "root")
    for name in ("http_options", "grpc_options", "logging_config"):
        yield from _check_mapping(document, (name,), root.get(name), name)
    applications = root.get("applications")
    if not isinstance(applications, list) or not applications:
        yield document.report(
            ("applications",), "there is no application", "list one under applications, with args and deployments"
        )
        return
    for at, application in enumerate(applications):
        place: Place = ("applications", at)
        if not isinstance(application, dict):
            yield document.report(
                place, f"{show_value(application)} is no mapping", "give it name, import_path, args and deployments"
            )
            continue
        yield from _check_keys(document, place, application, "application")
        yield from _check_mapping(document, (*place, "logging_config"), application.get("logging_config"), "logging_config")
        deployments = application.get("deployments") or []
        if not isinstance(deployments, list):
            yield document.report((*place, "deployments"), "deployments is no list", "begin each deployment with `- name:`")
            continue
        for number, deployment in enumerate(deployments):
            yield from _check_deployment(document, (*place, "deployments", number), deployment)


def _check_deployment(document: Document, place: Place, deployment: Any) -> Iterator[Finding]:
    if not isinstance(deployment, dict) or not isinstance(deployment.get("name"), str):
        yield document.report(place, "a deployment needs a name", "give it the name of its engine group, or ingress")
        return
    yield from _check_keys(document, place, deployment, "deployment")
    for name in ("ray_actor_options", "logging_config", "autoscaling_config"):
        if not (name == "autoscaling_config" and deployment.get(name) == "auto"):
            yield from _check_mapping(document, (*place, name), deployment.get(name), name)
    scaling = deployment.get("autoscaling_config")
    if not isinstance(scaling, dict):
        return
    if isinstance(deployment.get("num_replicas"), int):
        problem = f"num_replicas ({deployment['num_replicas']}) and autoscaling_config exclude each other"
        yield document.report((*place, "num_replicas"), problem, "remove one of them")
    low, high = scaling.get("min_replicas", 1), scaling.get("max_replicas", 1)
    if _is_number(low) and _is_number(high) and low > high:
        problem = f"min_replicas ({low}) is above max_replicas ({high})"
        yield document.report((*place, "autoscaling_config", "min_replicas"), problem, f"raise max_replicas to {low}, or lower it")


def _check_mapping(document: Document, place: Place, value: Any, kind: str) -> Iterator[Finding]:
    if value is None:
        return
    if not isinstance(value, dict):
        yield document.report(place, f"{show_value(value)} is no mapping", f"it has the keys {', '.join(sorted(KEYS[kind]))}")
        return
    yield from _check_keys(document, place, value, kind)


def _check_keys(document: Document, place: Place, value: Mapping[str, Any], kind: str) -> Iterator[Finding]:
    for name, inner in value.items():
        if name not in KEYS[kind]:
            yield document.report((*place, name), f"unknown key '{name}'", suggest(name, KEYS[kind]))
        elif name in _NUMBERS and not _is_number(inner) and inner is not None and inner not in _WORDS.get(name, ()):
            yield document.report((*place, name), f"{name} is {show_value(inner)}, which is no number", "write a number, unquoted")
        elif name in _NUMBERS and _is_number(inner) and inner < 0 and not (name == "max_queued_requests" and inner == -1):
            yield document.report((*place, name), f"{name} is {inner}, below 0", "write 0 or more")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
