"""Generates the objects beside the RayService: namespace, network policies, disruption budgets, monitors, and the head's Redis.

Knows the plan and the labels of the pods.
"""

from collections.abc import Iterable
from typing import Any

from serve_app.manifests.compose import IMAGES
from serve_app.manifests.kuberay import (
    KEYS_SECRET,
    NAME,
    REDIS,
    REDIS_SECRET,
    SECURITY,
    ClusterOptions,
    Object,
    build_labels,
    build_ray_service,
    build_resources,
)
from serve_app.manifests.plan import DASHBOARD_PORT, HTTP_PORT, METRICS_PORT, Plan

_OPERATOR = {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}
_ANY_NAMESPACE: Object = {}
_CLIENT = {"matchLabels": {f"{NAME}/client": "true"}}
"""Namespaces whose pods may send requests and scrape metrics carry this label."""
_REDIS_UID = 999


def build_objects(plan: Plan, choices: ClusterOptions, rules: Object) -> list[Object]:
    """Return every object of a cluster, in the order of creation; `rules` are Prometheus' rule groups."""
    return [
        _build_namespace(),
        *_build_redis(),
        build_ray_service(plan, choices),
        *_build_policies(plan),
        *(_build_budget(pool.name) for pool in plan.pools),
        _build_pod_monitor(),
        _build_service_monitor(plan),
        _build_object("monitoring.coreos.com/v1", "PrometheusRule", NAME) | {"spec": rules},
    ]


def _build_object(version: str, kind: str, name: str) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAME, "labels": build_labels()}}


def _build_namespace() -> Object:
    enforced = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME, "labels": build_labels() | enforced}}


def _build_redis() -> Iterable[Object]:
    """Return one Redis with its disk; prefer a managed one where available."""
    selector = build_labels("redis")
    start = 'exec redis-server --appendonly yes --dir /data --requirepass "$(cat /etc/redis-secret/password)"'
    probe = {"tcpSocket": {"port": "redis"}, "timeoutSeconds": 3, "periodSeconds": 10}
    container = {
        "name": "redis",
        "image": IMAGES["redis"],
        "command": ["sh", "-c", start],
        "ports": [{"name": "redis", "containerPort": 6379}],
        "securityContext": SECURITY | {"runAsUser": _REDIS_UID, "runAsGroup": _REDIS_UID},
        "resources": build_resources("100m", "128Mi", "500m", "512Mi"),
        "startupProbe": probe | {"failureThreshold": 30},
        "livenessProbe": probe,
        "readinessProbe": probe,
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "secret", "mountPath": "/etc/redis-secret", "readOnly": True},
        ],
    }
    pod = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _REDIS_UID,
            "runAsGroup": _REDIS_UID,
            "fsGroup": _REDIS_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "containers": [container],
        "volumes": [{"name": "secret", "secret": {"secretName": REDIS_SECRET, "defaultMode": 0o440}}],
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    yield _build_object("v1", "Service", REDIS) | {"spec": {"selector": selector, "ports": [{"name": "redis", "port": 6379}]}}
    yield _build_object("apps/v1", "StatefulSet", REDIS) | {
        "spec": {
            "serviceName": REDIS,
            "replicas": 1,
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": selector}, "spec": pod},
            "volumeClaimTemplates": [claim],
        }
    }


def _build_policies(plan: Plan) -> Iterable[Object]:
    """Return network policies that keep Ray's ports within the cluster's own pods, since access to them allows running code."""
    ours: Object = {"matchLabels": {"app.kubernetes.io/part-of": NAME}}
    within: Object = {"podSelector": ours}
    egress: list[Object] = [
        {"to": [within]},
        {
            "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
            "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
        },
    ]
    if plan.needs_hub:
        egress.append({"ports": [_tcp_port(443)]})
    operator = {"namespaceSelector": _ANY_NAMESPACE, "podSelector": _OPERATOR}
    yield _build_object("networking.k8s.io/v1", "NetworkPolicy", NAME) | {
        "spec": {
            "podSelector": ours,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [within]},
                {"from": [operator], "ports": [_tcp_port(DASHBOARD_PORT), _tcp_port(HTTP_PORT)]},
                {"from": [{"namespaceSelector": _CLIENT}], "ports": [_tcp_port(HTTP_PORT), _tcp_port(METRICS_PORT)]},
            ],
            "egress": egress,
        }
    }
    yield _build_object("networking.k8s.io/v1", "NetworkPolicy", f"{NAME}-autoscaler") | {
        "spec": {
            "podSelector": {"matchLabels": build_labels("head")},
            "policyTypes": ["Egress"],
            # the API server, whose address differs from cluster to cluster
            "egress": [{"ports": [_tcp_port(443), _tcp_port(6443)]}],
        }
    }


def _tcp_port(port: int) -> Object:
    return {"protocol": "TCP", "port": port}


def _build_budget(pool: str) -> Object:
    return _build_object("policy/v1", "PodDisruptionBudget", f"{NAME}-{pool}") | {
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": build_labels(f"worker-{pool}")},
        }
    }


def _build_pod_monitor() -> Object:
    """Return the monitor of Ray's own metrics, on every node."""
    relabelled: list[Any] = [{"sourceLabels": ["__meta_kubernetes_pod_label_ray_io_cluster"], "targetLabel": "ray_io_cluster"}]
    return _build_object("monitoring.coreos.com/v1", "PodMonitor", NAME) | {
        "spec": {
            "selector": {"matchExpressions": [{"key": "ray.io/node-type", "operator": "In", "values": ["head", "worker"]}]},
            "podMetricsEndpoints": [{"port": "metrics", "interval": "15s", "relabelings": relabelled}],
        }
    }


def _build_service_monitor(plan: Plan) -> Object:
    """Return the monitor of the application's metrics: any proxy leads to an ingress, and every ingress knows every replica."""
    endpoint: Object = {"port": "serve", "path": "/metrics", "interval": "15s"}
    if plan.needs_keys:
        endpoint["authorization"] = {"credentials": {"name": KEYS_SECRET, "key": "api_key"}}
    return _build_object("monitoring.coreos.com/v1", "ServiceMonitor", NAME) | {
        "spec": {"selector": {"matchLabels": {"ray.io/serve": f"{NAME}-serve"}}, "endpoints": [endpoint]}
    }
