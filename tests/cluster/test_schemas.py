"""Every object against the schema of whoever reads it."""

import warnings
from typing import Any

import jsonschema
import pytest

from tests.cluster.manifests import CLUSTERS, only

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources
    import kubernetes_validate

OTHERS = {"monitoring.coreos.com/v1", "ray.io/v1"}
"""Custom resources, which Kubernetes' own schemas do not know."""


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_rayservice_is_kuberays(name: str, ray_service_schema: jsonschema.Draft202012Validator) -> None:
    errors = [f"{error.json_path}: {error.message}" for error in ray_service_schema.iter_errors(only(CLUSTERS[name], "RayService"))]
    assert errors == []


def test_the_schema_refuses_what_is_misspelt(ray_service_schema: jsonschema.Draft202012Validator) -> None:
    service = only(CLUSTERS["shipped, cpu, NewCluster"], "RayService")
    for place in ("spec", "rayClusterConfig"):
        broken = {**service, "spec": {**service["spec"], "rayClusterConfig": {**service["spec"]["rayClusterConfig"]}}}
        target: dict[str, Any] = broken["spec"] if place == "spec" else broken["spec"]["rayClusterConfig"]
        target["autoscalerOption"] = {}
        assert not ray_service_schema.is_valid(broken)


@pytest.mark.parametrize("name", CLUSTERS)
def test_everything_else_is_kubernetes(name: str) -> None:
    for each in CLUSTERS[name]:
        if each["apiVersion"] not in OTHERS:
            kubernetes_validate.validate(each, "1.30", strict=True)


@pytest.mark.parametrize("name", CLUSTERS)
def test_pods_are_kubernetes(name: str) -> None:
    """The pods inside the RayService too, as if each were a pod of its own."""
    cluster = only(CLUSTERS[name], "RayService")["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = group["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"} | template["metadata"], "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.30", strict=True)
