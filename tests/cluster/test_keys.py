"""Containers listen where other machines reach them, so every way to start them brings a file of keys, and what asks has a key."""

import base64
import copy
import json
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.access.keys import KeyList, changing_keys, hash_key, parse_keys
from serve_app.caller import Scope
from serve_app.config import AppSettings
from serve_app.manifests.files import render_compose, render_kuberay
from serve_app.manifests.kuberay import ClusterOptions
from serve_app.manifests.plan import Hardware, Platform, build_plan
from serve_app.store_config import RedisSettings, SqliteSettings
from tests.cluster.conftest import ROOT
from tests.cluster.manifests import CLUSTERS, Object, only, pods, shipped
from tests.cluster.test_chart import VARIANTS, render_chart

FOLDER = "/run/phi-serve/keys"
NODES = ("head", "worker", "gpu-worker")


def _configured(**args: Any) -> Object:
    """The shipped configuration with other `args`."""
    config = copy.deepcopy(shipped())
    config["applications"][0]["args"].update(args)
    return config


def _compose(config: Object) -> tuple[Object, list[AppSettings]]:
    """The compose file of a configuration, and the settings of both configurations in it."""
    compose: Object = yaml.safe_load(render_compose(config))
    texts = [each["content"].replace("$$", "$") for each in compose["configs"].values()]
    return compose, [AppSettings.model_validate(yaml.safe_load(text)["applications"][0]["args"]) for text in texts]


def _kuberay(config: Object) -> tuple[list[Object], AppSettings]:
    objects = list(yaml.safe_load_all(render_kuberay(config, Hardware.GPU, ClusterOptions())))
    return objects, _settings(objects)


def _settings(objects: list[Object]) -> AppSettings:
    config = yaml.safe_load(only(objects, "RayService")["spec"]["serveConfigV2"])
    return AppSettings.model_validate(config["applications"][0]["args"])


def _nodes(objects: list[Object]) -> Iterator[Object]:
    """The pods of Ray's nodes."""
    for name, pod in pods(objects):
        if name != "phi-serve-redis":
            yield pod["spec"]


def test_compose_mounts_the_file_of_keys_that_its_configuration_names() -> None:
    compose, both = _compose(shipped())
    for settings in both:
        assert settings.access.keys_file == f"{FOLDER}/keys.json"
        assert not settings.access.open
    for name in (*NODES, "deploy"):
        assert f"./keys:{FOLDER}:ro" in compose["services"][name]["volumes"], "the folder: changes replace the file"


def test_compose_keeps_state_in_a_volume_of_the_nodes() -> None:
    compose, both = _compose(shipped())
    assert "state" in compose["volumes"]
    for settings in both:
        assert isinstance(settings.store, SqliteSettings)
        assert settings.store.path == "/state/store", "the store wants a folder of mode 700 for itself"
        assert settings.access.journal_dir == "/state/journal"
    for name in NODES:
        assert "state:/state" in compose["services"][name]["volumes"]


@pytest.mark.parametrize("variant", Hardware)
def test_the_image_has_the_folder_whose_owner_the_volume_takes(variant: Hardware) -> None:
    text = (ROOT / "docker" / f"{variant}.Dockerfile").read_text()
    (line,) = [line for line in text.splitlines() if "install --directory --owner 10001 --group 10001" in line]
    assert "/state" in line.split()


@pytest.mark.parametrize("name", CLUSTERS)
def test_kuberay_mounts_the_hashes_on_every_node_and_nothing_else_of_the_secret(name: str) -> None:
    assert _settings(CLUSTERS[name]).access.keys_file == f"{FOLDER}/keys.json"
    _check_mounts(CLUSTERS[name])


def _check_mounts(objects: list[Object]) -> None:
    found = list(_nodes(objects))
    assert len(found) >= 2
    for spec in found:
        (volume,) = [each["secret"] for each in spec["volumes"] if each["name"] == "keys"]
        assert volume["secretName"] == "phi-serve-keys"
        assert volume["items"] == [{"key": "keys.json", "path": "keys.json"}]
        assert volume["defaultMode"] & 0o040, "the pod's group reads it"
        (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "keys"]
        assert mount == {"name": "keys", "mountPath": FOLDER, "readOnly": True}, "no subPath, which is never updated"


@pytest.mark.parametrize("name", CLUSTERS)
def test_kuberay_keeps_state_in_its_redis(name: str) -> None:
    store = _settings(CLUSTERS[name]).store
    assert isinstance(store, RedisSettings)
    assert store.prefix == "phi-serve"
    _check_store_url(CLUSTERS[name], "phi-serve-redis:6379")


def _check_store_url(objects: list[Object], address: str) -> None:
    for spec in _nodes(objects):
        names = [each["name"] for each in spec["containers"][0]["env"]]
        environment = {each["name"]: each for each in spec["containers"][0]["env"]}
        url = environment["PHI_SERVE_STORE_URL"]["value"]
        assert url == f"redis://:$(PHI_SERVE_REDIS_PASSWORD)@{address}/1", "database 0 is Ray's"
        secret = environment["PHI_SERVE_REDIS_PASSWORD"]["valueFrom"]["secretKeyRef"]
        assert secret == {"name": "phi-serve-redis", "key": "password"}
        assert names.index("PHI_SERVE_REDIS_PASSWORD") < names.index("PHI_SERVE_STORE_URL"), "else it is not expanded"
        assert "REDIS_PASSWORD" not in names, "KubeRay's own"


@pytest.mark.parametrize("access", ["open", {"open": True}])
def test_access_that_is_open_stays_open(access: Any) -> None:
    compose, both = _compose(_configured(access=access))
    objects, settings = _kuberay(_configured(access=access))
    for each in (*both, settings):
        assert each.access.open
    written = yaml.safe_load(compose["configs"]["serve_config"]["content"].replace("$$", "$"))
    assert written["applications"][0]["args"]["access"] == access
    for spec in _nodes(objects):
        assert not [volume for volume in spec["volumes"] if volume["name"] == "keys"], "a pod waits for its secret"
    assert "authorization" not in only(objects, "ServiceMonitor")["spec"]["endpoints"][0]


def test_other_settings_of_access_stay() -> None:
    access = {"journal_dir": None, "store_failure": "fail_closed", "keys_file": "~/keys.json"}
    _, both = _compose(_configured(access=access))
    _, settings = _kuberay(_configured(access=access))
    for each in (*both, settings):
        assert each.access.journal_dir is None
        assert each.access.store_failure == "fail_closed"
        assert each.access.keys_file == f"{FOLDER}/keys.json", "a path of the host means nothing in a container"


@pytest.mark.parametrize("store", [{"kind": "redis", "url_env": "OURS"}, {"kind": "sqlite", "path": "/mine"}])
def test_a_store_that_the_configuration_names_stays(store: Object) -> None:
    _, both = _compose(_configured(store=store))
    objects, settings = _kuberay(_configured(store=store))
    for each in (*both, settings):
        assert each.store.model_dump(exclude_defaults=True) | {"kind": each.store.kind} == store
    for spec in _nodes(objects):
        assert not [each for each in spec["containers"][0]["env"] if each["name"].startswith("PHI_SERVE_")]


@pytest.mark.parametrize("access", ["opn", 3, {"nope": 1}])
def test_wrong_access_is_refused_as_it_stands(access: Any) -> None:
    with pytest.raises(ValueError, match="access"):
        build_plan(_configured(access=access), Hardware.CPU, Platform.COMPOSE)


def _make_secrets(place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(place / "make-secrets.sh")], capture_output=True, text=True, timeout=60, cwd="/")


def _read_all(place: Path) -> dict[str, tuple[bytes, int, int]]:
    """Content, mode and time of every file."""
    files = [path for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the script in a folder where no secret exists."""
    shutil.copy(ROOT / "docker" / "make-secrets.sh", tmp_path)
    return tmp_path


def _check_key(keys: KeyList, key: str) -> None:
    (entry,) = keys.keys
    assert entry.name == "first"
    assert set(entry.scopes) == {Scope.USE, Scope.OPERATE}
    assert entry.sha256 == hash_key(key)
    assert entry.created is not None
    assert key.startswith("sk-phi-")
    assert len(key) >= len("sk-phi-") + 43


def test_the_script_makes_a_first_key(place: Path) -> None:
    done = _make_secrets(place)
    assert done.returncode == 0, done.stderr
    key = (place / "secrets" / "api_key").read_text()
    _check_key(parse_keys((place / "keys" / "keys.json").read_bytes()), key)
    assert key not in done.stdout
    assert {path.name for path in (place / "secrets").iterdir()} == set(yaml.safe_load(render_compose(shipped()))["secrets"])


def test_containers_may_read_what_the_script_makes(place: Path) -> None:
    """Whoever made them, uid 10001 reads hashes in a folder that is mounted; the folder of secrets keeps others out."""
    assert _make_secrets(place).returncode == 0
    assert stat.S_IMODE((place / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "secrets" / "api_key").stat().st_mode) == 0o444
    assert stat.S_IMODE((place / "keys").stat().st_mode) == 0o755
    file = place / "keys" / "keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    with changing_keys(file) as keys:
        keys.append(keys[0].model_copy(update={"name": "second", "sha256": "0" * 64}))
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_the_script_changes_nothing_that_exists(place: Path) -> None:
    assert _make_secrets(place).returncode == 0
    before = _read_all(place)
    done = _make_secrets(place)
    assert (done.returncode, done.stdout) == (0, "")
    assert _read_all(place) == before


def test_the_script_makes_the_file_for_a_key_that_exists(place: Path) -> None:
    (place / "secrets").mkdir()
    (place / "secrets" / "api_key").write_text("sk-phi-" + "a" * 64 + "\n")
    assert _make_secrets(place).returncode == 0
    _check_key(parse_keys((place / "keys" / "keys.json").read_bytes()), "sk-phi-" + "a" * 64)


def test_the_script_says_what_to_do_where_the_key_is_unknown(place: Path) -> None:
    assert _make_secrets(place).returncode == 0
    (place / "secrets" / "api_key").unlink()
    before = _read_all(place)
    done = _make_secrets(place)
    assert done.returncode == 1
    assert "phi-serve keys create" in done.stderr
    assert _read_all(place) == before


def test_the_script_writes_no_hash_where_it_cannot_compute_one(place: Path) -> None:
    programs = place / "bin"
    programs.mkdir()
    for name in ("head", "od", "tr", "cat", "chmod", "mkdir", "mv", "date", "dirname"):
        (programs / name).symlink_to(shutil.which(name) or "")
    done = subprocess.run(
        ["/bin/sh", str(place / "make-secrets.sh")], capture_output=True, env={**os.environ, "PATH": str(programs)}, timeout=60
    )
    assert done.returncode != 0
    assert not (place / "keys" / "keys.json").exists()


@pytest.mark.parametrize("folder", ["keys", "secrets"])
def test_git_ignores_what_the_script_makes(folder: str) -> None:
    assert (ROOT / "docker" / folder / ".gitignore").read_text().split() == ["*", "!.gitignore"]


def test_open_webui_and_prometheus_send_the_key() -> None:
    services = yaml.safe_load(render_compose(shipped()))["services"]
    assert "api_key" in services["webui"]["secrets"]
    assert "/run/secrets/api_key" in services["webui"]["entrypoint"][-1]
    assert services["webui"]["environment"]["OPENAI_API_BASE_URL"] == "http://head:8000/v1"
    assert "api_key" in services["prometheus"]["secrets"]
    config = yaml.safe_load((ROOT / "cluster" / "prometheus" / "prometheus.yaml").read_text())
    sent = {each["job_name"]: each.get("authorization") for each in config["scrape_configs"]}
    assert sent == {"phi-serve": {"credentials_file": "/run/secrets/api_key"}, "ray": None}, "Ray's own metrics ask for none"


def test_the_service_monitor_sends_the_key() -> None:
    objects = CLUSTERS["shipped, cpu, NewCluster"]
    (endpoint,) = only(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "phi-serve-keys", "key": "api_key"}}
    assert all("authorization" not in each for each in only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"])


def _read_secret(objects: list[Object]) -> dict[str, bytes]:
    return {name: base64.b64decode(value, validate=True) for name, value in only(objects, "Secret")["data"].items()}


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_chart_makes_a_first_key(variant: str) -> None:
    objects = render_chart(*VARIANTS[variant])
    _check_mounts(objects)
    _check_store_url(objects, "phi-serve-redis:6379")
    secret = _read_secret(objects)
    assert set(secret) == {"keys.json", "api_key"}
    _check_key(parse_keys(secret["keys.json"]), secret["api_key"].decode())
    assert only(objects, "Secret")["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert _read_secret(render_chart(*VARIANTS[variant]))["api_key"] != secret["api_key"], "random"


def test_the_chart_leaves_the_secret_to_the_operator() -> None:
    objects = render_chart("--set", "keys.create=false")
    assert not [each for each in objects if each["kind"] == "Secret"]
    _check_mounts(objects)


def test_the_chart_without_keys() -> None:
    objects = render_chart("--set", "keys.secret=", "--set", "args.access.open=true")
    assert not [each for each in objects if each["kind"] == "Secret"]
    assert _settings(objects).access.open
    for spec in _nodes(objects):
        assert not [volume for volume in spec["volumes"] if volume["name"] == "keys"]
    assert "authorization" not in only(objects, "ServiceMonitor")["spec"]["endpoints"][0]


def test_the_chart_follows_the_store() -> None:
    _check_store_url(render_chart(*VARIANTS["own redis"]), "redis.example:6379")
    for spec in _nodes(render_chart("--set", "args.store.url_env=OURS")):
        assert not [each for each in spec["containers"][0]["env"] if each["name"].startswith("PHI_SERVE_")]


class _Cluster(BaseHTTPRequestHandler):
    """As much of an API server as helm needs to look a secret up."""

    secret: Object | None = None

    def do_GET(self) -> None:
        resource = {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get"]}
        found: dict[str, Object | None] = {
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [resource]},
            "/api/v1/namespaces/phi-serve/secrets/phi-serve-keys": self.secret,
        }
        body = found.get(self.path.partition("?")[0])
        self.send_response(200 if body else 404)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}).encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""


def _render_upgrade(folder: Path, secret: Object | None) -> list[Object]:
    """What helm gives to a cluster that has this secret."""
    handler = type("_Handler", (_Cluster,), {"secret": secret})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        named = {"name": "a"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [named | {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [named | {"user": {}}],
            "contexts": [named | {"context": {"cluster": "a", "user": "a"}}],
            "current-context": "a",
        }
        (folder / "config").write_text(json.dumps(config))
        try:
            return render_chart("--dry-run=server", "--kubeconfig", str(folder / "config"))
        finally:
            server.shutdown()


def _existing(**annotations: str) -> Object:
    data = {"keys.json": "e30=", "api_key": "YQ==", "more": "Yg=="}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "phi-serve-keys", "annotations": annotations}, "data": data}


def test_an_upgrade_of_the_chart_keeps_the_keys(tmp_path: Path) -> None:
    existing = _existing(**{"meta.helm.sh/release-name": "phi-serve"})
    assert only(_render_upgrade(tmp_path, existing), "Secret")["data"] == existing["data"]


def test_the_chart_uses_a_secret_that_was_there_first(tmp_path: Path) -> None:
    """helm refuses to install over an object that is not its release's, so it renders none."""
    for existing in (_existing(), _existing(**{"meta.helm.sh/release-name": "another"})):
        objects = _render_upgrade(tmp_path, existing)
        assert not [each for each in objects if each["kind"] == "Secret"]
        _check_mounts(objects)


def test_an_installation_of_the_chart_makes_the_secret(tmp_path: Path) -> None:
    secret = _read_secret(_render_upgrade(tmp_path, None))
    _check_key(parse_keys(secret["keys.json"]), secret["api_key"].decode())
