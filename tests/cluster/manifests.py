"""Every set of objects that the suite holds to the same rules: what the code makes, for both variants and some configurations."""

import copy
from collections.abc import Iterator
from typing import Any

import yaml

from serve_app.manifests.files import render_kuberay
from serve_app.manifests.kuberay import ClusterOptions, Upgrade
from serve_app.manifests.plan import Hardware
from tests.cluster.conftest import ROOT

Object = dict[str, Any]


def shipped() -> Object:
    config: Object = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    return config


def configured(**model: Any) -> Object:
    """The shipped configuration with another model."""
    config = copy.deepcopy(shipped())
    config["applications"][0]["args"]["models"]["phi-4-mini-instruct"].update(model)
    return config


def with_group(name: str, engine: Object, **options: Any) -> Object:
    """The shipped configuration with one more group."""
    config = copy.deepcopy(shipped())
    application = config["applications"][0]
    application["args"]["engines"][name] = engine
    application["deployments"].append({"name": name, **options})
    return config


CONFIGS = {
    "shipped": shipped(),
    "from the hub": configured(path="microsoft/Phi-4-mini-instruct"),
    "from a volume": configured(path="/models/phi"),
    "one more group": with_group("second", {"kind": "fake"}, ray_actor_options={"num_cpus": 1}),
}


def clusters() -> Iterator[tuple[str, list[Object]]]:
    """Every cluster, with a name."""
    for name, config in CONFIGS.items():
        for variant in Hardware:
            for upgrade in Upgrade:
                text = render_kuberay(config, variant, ClusterOptions(upgrade=upgrade, registry="registry.example/"))
                yield f"{name}, {variant}, {upgrade}", list(yaml.safe_load_all(text))


CLUSTERS = dict(clusters())


def only(objects: list[Object], kind: str) -> Object:
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every pod's template, with its name."""
    for each in objects:
        if each["kind"] == "RayService":
            cluster = each["spec"]["rayClusterConfig"]
            yield "head", cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                yield group["groupName"], group["template"]
        elif "template" in each.get("spec", {}):
            yield each["metadata"]["name"], each["spec"]["template"]
