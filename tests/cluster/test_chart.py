"""The chart, rendered by helm itself: with its own values it gives what the code gives, and other values change what they say."""

import json
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster.conftest import ROOT, tool
from tests.cluster.manifests import CLUSTERS, Object, only, pods
from tests.cluster.test_schemas import OTHERS, kubernetes_validate

CHART = ROOT / "cluster" / "chart"

_POOL = {"name": "cpu", "cpus": 8, "memory": "32Gi", "gpus": 0, "min": 0, "max": 9, "nodeSelector": {"disk": "ssd"}}
VARIANTS: dict[str, list[str]] = {
    "cpu": [],
    "gpu": ["--values", str(CHART / "values-gpu.yaml")],
    "from a volume": ["--set", "storage.claim=weights", "--set", "models.phi-4-mini-instruct.path=/models/phi"],
    "from the hub": ["--set", "models.phi-4-mini-instruct.path=microsoft/Phi-4-mini-instruct", "--set", "networkPolicy.hub=true"],
    "own redis": ["--set", "redis.enabled=false", "--set", "redis.address=redis.example:6379"],
    "own token": ["--set", "auth.secretName=token"],
    "incremental": ["--set", "upgrade.type=NewClusterWithIncrementalUpgrade"],
    "without extras": ["--set", "networkPolicy.enabled=false", "--set", "monitoring.enabled=false"],
    "placed": ["--set-json", f"pools={json.dumps([_POOL])}"],
}


def render_chart(*arguments: str) -> list[Object]:
    command = [tool("helm"), "template", "phi-serve", str(CHART), "--namespace", "phi-serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def _normal(objects: list[Object]) -> dict[tuple[str, str], Any]:
    """Objects by kind and name; the configuration's text is read. The namespace is not the chart's, the secret of keys only its."""
    by_name = {}
    for each in objects:
        if each["kind"] == "RayService":
            config = yaml.safe_load(each["spec"]["serveConfigV2"])
            config["applications"][0]["deployments"].sort(key=lambda deployment: deployment["name"])
            config["engines in order"] = list(config["applications"][0]["args"]["engines"])
            each = {**each, "spec": {**each["spec"], "serveConfigV2": config}}
        by_name[each["kind"], each["metadata"]["name"]] = each
    by_name.pop(("Namespace", "phi-serve"), None)
    by_name.pop(("Secret", "phi-serve-keys"), None)
    return by_name


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_chart_gives_what_the_code_gives(variant: str) -> None:
    made = yaml.safe_load_all((ROOT / "cluster" / "kuberay" / f"{variant}.yaml").read_text())
    assert _normal(render_chart(*VARIANTS[variant])) == _normal(list(made))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_fits_the_schemas(variant: str, ray_service_schema: jsonschema.Draft202012Validator) -> None:
    objects = render_chart(*VARIANTS[variant])
    errors = [f"{error.json_path}: {error.message}" for error in ray_service_schema.iter_errors(only(objects, "RayService"))]
    assert errors == []
    for each in objects:
        if each["apiVersion"] not in OTHERS:
            kubernetes_validate.validate(each, "1.30", strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_keeps_its_pods_restricted(variant: str) -> None:
    expected = dict(pods(CLUSTERS["shipped, gpu, NewCluster"]))
    for name, pod in pods(render_chart(*VARIANTS[variant])):
        assert pod["spec"]["securityContext"] == expected[name]["spec"]["securityContext"]
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == expected[name]["spec"]["containers"][0]["securityContext"]
            assert container["resources"]["limits"]


def test_values_change_what_they_say() -> None:
    volume = render_chart(*VARIANTS["from a volume"])
    volumes = [each for _, pod in pods(volume) for each in pod["spec"]["volumes"]]
    claims = [each["persistentVolumeClaim"] for each in volumes if each["name"] == "models"]
    assert claims == [{"claimName": "weights", "readOnly": True}] * 2
    config = yaml.safe_load(only(volume, "RayService")["spec"]["serveConfigV2"])
    assert config["applications"][0]["args"]["models"]["phi-4-mini-instruct"]["path"] == "/models/phi"
    own = render_chart(*VARIANTS["own redis"])
    assert not [each for each in own if each["kind"] == "StatefulSet"]
    cluster = only(own, "RayService")["spec"]["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "redis.example:6379"
    cluster = only(render_chart(*VARIANTS["own token"]), "RayService")["spec"]["rayClusterConfig"]
    assert cluster["authOptions"]["secretName"] == "token"
    bare = {each["kind"] for each in render_chart(*VARIANTS["without extras"])}
    assert not bare & {"NetworkPolicy", "PodMonitor", "ServiceMonitor", "PrometheusRule"}
    placed = only(render_chart(*VARIANTS["placed"]), "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert (placed["maxReplicas"], placed["template"]["spec"]["nodeSelector"]) == (9, {"disk": "ssd"})


def test_a_group_is_added_by_values(tmp_path_factory: pytest.TempPathFactory) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    values["groups"].append({"name": "second", "engine": {"kind": "fake"}, "deployment": {"num_replicas": 3}})
    file = tmp_path_factory.mktemp("values") / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    service = only(render_chart("--values", str(file)), "RayService")
    application = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]
    assert application["args"]["engines"]["second"] == {"kind": "fake"}
    assert {"name": "second", "num_replicas": 3} in application["deployments"]


def test_helm_lints_it() -> None:
    done = subprocess.run([tool("helm"), "lint", "--strict", str(CHART)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
