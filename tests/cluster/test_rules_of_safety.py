"""No root, no writing where programs lie, limits and probes everywhere, no secret in a file, no floating tag, few open ports."""

import re
from collections.abc import Iterator

import pytest
import yaml

from tests.cluster.conftest import ROOT
from tests.cluster.manifests import CLUSTERS, Object, only, pods

COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SERVICES: dict[str, Object] = COMPOSE["services"]
WRITES_ITS_ROOT = {"webui"}
"""Open WebUI's image writes into its own folders."""
OWN_USER = {"webui"}
"""Its image runs as the user that it is built for."""
DOCKERFILES = ("cpu", "gpu")


def _images() -> Iterator[str]:
    for objects in CLUSTERS.values():
        for _, pod in pods(objects):
            yield from (container["image"] for container in pod["spec"]["containers"])
    for service in SERVICES.values():
        yield re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", service["image"])


def test_every_image_has_a_version() -> None:
    images = set(_images())
    assert len(images) >= 6
    for image in images:
        _, _, tag = image.rpartition("/")[2].partition(":")
        assert tag
        assert tag not in {"latest", "main", "nightly", "stable"}
        assert any(digit.isdigit() for digit in tag)


@pytest.mark.parametrize("name", CLUSTERS)
def test_pods_are_restricted(name: str) -> None:
    for pod_name, pod in pods(CLUSTERS[name]):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert spec.get("automountServiceAccountToken", True) is (pod_name == "head"), "only the autoscaler asks the API server"
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert security["runAsNonRoot"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]) & set(container["resources"]["requests"])
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                (kind,) = {"httpGet", "tcpSocket"} & set(container[probe])
                assert container[probe][kind]["port"] in ports


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_autoscaler_is_restricted_too(name: str) -> None:
    options = only(CLUSTERS[name], "RayService")["spec"]["rayClusterConfig"]["autoscalerOptions"]
    assert options["version"] == "v2"
    assert options["securityContext"]["readOnlyRootFilesystem"]
    assert {"cpu", "memory"} <= set(options["resources"]["limits"])


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_models_are_read_only(name: str) -> None:
    mounts = [
        mount
        for pod_name, pod in pods(CLUSTERS[name])
        for container in pod["spec"]["containers"]
        for mount in container["volumeMounts"]
        if mount["mountPath"] == "/models"
    ]
    assert bool(mounts) is ("volume" in name)
    assert all(mount["readOnly"] for mount in mounts)


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_asks_for_its_token_and_the_network_for_a_label(name: str) -> None:
    objects = CLUSTERS[name]
    assert only(objects, "RayService")["spec"]["rayClusterConfig"]["authOptions"]["mode"] == "token"
    policy = next(each for each in objects if each["kind"] == "NetworkPolicy" and "Ingress" in each["spec"]["policyTypes"])
    outside = [rule for rule in policy["spec"]["ingress"] if any("namespaceSelector" in source for source in rule["from"])]
    assert outside
    for rule in outside:
        assert {port["port"] for port in rule["ports"]} <= {8000, 8080, 8265}
    anybody = [rule for rule in outside if any("podSelector" not in source for source in rule["from"])]
    assert all(8265 not in {port["port"] for port in rule["ports"]} for rule in anybody)


@pytest.mark.parametrize("name", CLUSTERS)
def test_selectors_find_pods(name: str) -> None:
    objects = CLUSTERS[name]
    labels = [pod["metadata"]["labels"] for _, pod in pods(objects)]
    wanted = [each["spec"]["selector"]["matchLabels"] for each in objects if each["kind"] == "PodDisruptionBudget"]
    wanted += [each["spec"]["podSelector"]["matchLabels"] for each in objects if each["kind"] == "NetworkPolicy"]
    assert len(wanted) >= 3
    for selector in wanted:
        assert any(selector.items() <= found.items() for found in labels)


def test_no_secret_is_in_a_file() -> None:
    for objects in CLUSTERS.values():
        assert not [each for each in objects if each["kind"] == "Secret"]
        for _, pod in pods(objects):
            for container in pod["spec"]["containers"]:
                assert not [each for each in container.get("env", []) if _secret(each["name"]) and "value" in each]
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            assert not _secret(key) or value.startswith("/run/secrets/"), key
    assert set(COMPOSE["secrets"]) == {"ray_token", "redis_password", "grafana_password", "api_key"}
    tracked = {path.name for path in (ROOT / "docker" / "secrets").iterdir()} - set(COMPOSE["secrets"])
    assert tracked == {".gitignore"}
    assert {path.name for path in (ROOT / "docker" / "keys").iterdir()} - {"keys.json", "keys.json.lock"} == {".gitignore"}


def _secret(name: str) -> bool:
    return any(word in name for word in ("PASSWORD", "TOKEN", "SECRET", "KEY"))


@pytest.mark.parametrize("name", SERVICES)
def test_compose_services_are_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["read_only"] is (name not in WRITES_ITS_ROOT)
    assert "privileged" not in service
    assert "network_mode" not in service
    assert (name in OWN_USER) or not service["user"].startswith("0")
    assert "healthcheck" in service or name in WRITES_ITS_ROOT


def test_compose_publishes_on_loopback_and_never_ray() -> None:
    published = {name: port for name, service in SERVICES.items() for port in service.get("ports", [])}
    assert set(published) == {"head", "prometheus", "grafana", "webui"}
    for port in published.values():
        assert port.startswith("127.0.0.1:")
    inside = {port.rpartition(":")[2] for port in published.values()}
    assert inside == {"8000", "9090", "3000", "8080"}
    assert COMPOSE["networks"]["ray"] == {"internal": True}
    assert set(SERVICES["worker"]["networks"]) == {"ray"}


def test_compose_nodes_ask_for_the_token_and_write_state_only() -> None:
    for name in ("head", "worker", "gpu-worker", "deploy"):
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert all(volume.endswith(":ro") or volume == "state:/state" for volume in SERVICES[name].get("volumes", []))
    assert SERVICES["export"]["volumes"] == ["models:/models"], "the converter writes them"


@pytest.mark.parametrize(
    ("name", "low", "high"), [("development", 6, 8), ("production-cpu", 8, 12), ("edge", 4, 6), ("production-gpu", 4, 6)]
)
def test_the_rows_of_the_resource_table_are_kept(name: str, low: float, high: float) -> None:
    lines = (ROOT / "docker" / "env" / f"{name}.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    total = _gib(given["HEAD_MEMORY"]) + _gib(given["WORKER_MEMORY"]) * int(given["WORKER_REPLICAS"])
    row = {"production-cpu": _gib(given["WORKER_MEMORY"]), "production-gpu": low}.get(name, total)
    assert low <= row <= high
    known = set(re.findall(r"\$\{([A-Z_]+):-", (ROOT / "docker" / "compose.yaml").read_text()))
    assert set(given) <= known | {"COMPOSE_PROFILES"}
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert set(given.get("COMPOSE_PROFILES", "").split(",")) - {""} <= profiles


def _gib(size: str) -> float:
    return float(size[:-1]) / {"g": 1, "m": 1024}[size[-1]]


def test_the_profiles_are_those_that_the_guide_names() -> None:
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert profiles == {"gpu", "export", "monitoring", "ha", "webui"}


@pytest.mark.parametrize("variant", DOCKERFILES)
def test_images_are_lean_and_not_root(variant: str) -> None:
    text = (ROOT / "docker" / f"{variant}.Dockerfile").read_text()
    build, final = re.split(r"^FROM \$\{BASE_IMAGE\}$", text, flags=re.MULTILINE)
    assert re.search(r"^ARG BASE_IMAGE=\S+:\S*\d{8}\S*$", build, flags=re.MULTILINE), "a base of one day"
    assert "USER 10001:10001" in final
    assert re.search(r"^HEALTHCHECK .*/health", final, flags=re.MULTILINE)
    assert "--from=dependencies /opt/phi" in final
    assert "--from=build /app-layer" in final
    tools = {"g++", "make", "cmake", "build-essential", "git", "pip", "curl"} | ({"gcc"} if variant == "cpu" else set())
    installed = re.search(r"install --yes --no-install-recommends ([^&\\]*)", final)
    assert installed
    assert not tools & set(installed[1].split())
    assert "pip wheel" in build
    assert "--no-deps" in build
    assert not re.search(r"(TOKEN|PASSWORD|SECRET)=[^/\s]*\w", text.replace("RAY_AUTH_MODE=token", ""))


@pytest.mark.parametrize("variant", DOCKERFILES)
def test_images_carry_the_environment_of_serve(variant: str) -> None:
    final = (ROOT / "docker" / f"{variant}.Dockerfile").read_text()
    lines = (ROOT / "cluster" / "serve.env").read_text().splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            assert line in final
