"""The committed files are what the code makes of serve_config.yaml, and the code misses nothing of it."""

import json
from collections.abc import Iterator

import pytest
import yaml
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.config import AppSettings
from serve_app.manifests.files import render_all, render_compose
from serve_app.manifests.plan import Hardware, Platform, build_plan
from tests.cluster.conftest import ROOT
from tests.cluster.manifests import CLUSTERS, Object, only, shipped, with_group


def test_the_committed_files_are_what_is_made() -> None:
    made = render_all(ROOT)
    assert made
    different = [path for path, text in made.items() if not (ROOT / path).is_file() or (ROOT / path).read_text() != text]
    assert different == [], "run `make manifests`"


@pytest.mark.parametrize("command", ["kuberay --variant cpu", "kuberay --variant gpu", "compose"])
def test_the_command_prints_the_committed_file(command: str) -> None:
    result = CliRunner().invoke(app, ["export", *command.split(), "--config", str(ROOT / "serve_config.yaml")])
    file = "docker/compose.yaml" if command == "compose" else f"cluster/kuberay/{command.split()[-1]}.yaml"
    assert result.exit_code == 0
    assert result.stdout == "".join((ROOT / file).read_text().splitlines(keepends=True)[1:])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: [", "is not YAML"),
        ("a: 1", "does not have the structure"),
        ("applications: [{args: {engines: {a: {kind: fake, nope: 1}}}, deployments: []}]", "args.engines.a.fake.nope"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_sentence(content: str, told: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("config") / "c.yaml"
    file.write_text(content)
    result = CliRunner().invoke(app, ["export", "kuberay", "--config", str(file)])
    assert result.exit_code == 1
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def _serve_configs() -> Iterator[tuple[str, Object]]:
    for variant in Hardware:
        objects = CLUSTERS[f"shipped, {variant}, NewCluster"]
        yield f"kuberay {variant}", yaml.safe_load(only(objects, "RayService")["spec"]["serveConfigV2"])
    compose = yaml.safe_load(render_compose(shipped()))
    yield "compose", yaml.safe_load(compose["configs"]["serve_config"]["content"].replace("$$", "$"))
    yield "compose gpu", yaml.safe_load(compose["configs"]["serve_config_gpu"]["content"].replace("$$", "$"))


@pytest.mark.parametrize(("name", "made"), list(_serve_configs()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_cluster_serves_serve_config(name: str, made: Object) -> None:
    expected = shipped()
    assert made["http_options"].pop("host") == "0.0.0.0"
    del expected["http_options"]["host"]
    for added in ("access", "store"):  # test_keys
        del made["applications"][0]["args"][added]
    if "gpu" in name:
        _undo_gpu(made, expected)
    assert made == expected


def _undo_gpu(made: Object, expected: Object) -> None:
    """Put back what a GPU changes: device and precision of engines that have a device, and what their replicas ask for."""
    before, after = expected["applications"][0], made["applications"][0]
    moved = {name for name, engine in before["args"]["engines"].items() if "device" in engine}
    assert moved
    for name in moved:
        assert after["args"]["engines"][name]["device"] == "cuda"
        after["args"]["engines"][name] = before["args"]["engines"][name]
    for old, new in zip(before["deployments"], after["deployments"], strict=True):
        if old["name"] in moved:
            assert new["ray_actor_options"]["num_gpus"] >= 1
            new["ray_actor_options"] = old["ray_actor_options"]


def test_the_gpu_configuration_is_valid() -> None:
    AppSettings.model_validate(build_plan(shipped(), Hardware.GPU, Platform.KUBERNETES).application["args"])


def test_a_group_that_is_added_is_everywhere() -> None:
    config = with_group("second", {"kind": "fake"}, ray_actor_options={"num_cpus": 1})
    assert "second" in build_plan(config, Hardware.GPU, Platform.KUBERNETES).pools[0].groups
    assert render_compose(config).count("second") >= 3
    with_gpu = with_group("third", {"kind": "fake"}, ray_actor_options={"num_gpus": 2})
    pools = build_plan(with_gpu, Hardware.CPU, Platform.KUBERNETES).pools
    assert [(pool.name, pool.groups, pool.gpus) for pool in pools][1:] == [("gpu", ("third",), 2)]


def test_nodes_outlive_the_longest_generation() -> None:
    application = shipped()["applications"][0]
    longest = application["args"]["limits"]["request_timeout_s"]
    patience = max(each["graceful_shutdown_timeout_s"] for each in application["deployments"])
    assert build_plan(shipped(), Hardware.CPU, Platform.KUBERNETES).grace_s > max(longest, patience)


def test_the_dashboard_is_json_and_its_panels_do_not_overlap() -> None:
    board = json.loads((ROOT / "cluster/grafana/dashboards/phi-serve.json").read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) > 10
