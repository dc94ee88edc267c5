"""The profiles are whole configurations of the real model: every group has a deployment, and what they state of memory is true."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config import AppSettings
from serve_app.engine_config import LlamaCppSettings, OnnxSettings

FOLDER = Path(__file__).parents[2] / "cluster" / "profiles"
NAMES = ("cpu-8gb", "cpu-12gb", "cpu-24gb", "gpu")
KV_BYTES = {"f32": 262_144, "f16": 131_072}
"""Of the real model, a token."""


def _read(name: str) -> tuple[AppSettings, list[dict[str, Any]]]:
    (application,) = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["applications"]
    return AppSettings.model_validate(application["args"]), application["deployments"]


def test_there_is_a_file_for_each() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_is_complete(name: str) -> None:
    settings, deployments = _read(name)
    assert settings.models[settings.default_model].path == "microsoft/Phi-4-mini-instruct"
    assert {deployment["name"] for deployment in deployments} == {"ingress", *settings.engines}
    assert all(set(groups) == set(settings.engines) for groups in settings.routing.prefer.values())
    assert sum(deployment["ray_actor_options"]["num_cpus"] for deployment in deployments) <= 2
    assert f"CONFIG=cluster/profiles/{name}.yaml" in (FOLDER / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_kv_caches_are_those_stated(name: str) -> None:
    settings, _ = _read(name)
    for engine in settings.engines.values():
        if isinstance(engine, OnnxSettings):
            assert (engine.slots + 1) * engine.max_model_len * KV_BYTES["f32"] == 3 << 30
        if isinstance(engine, LlamaCppSettings):
            assert engine.slots * engine.max_model_len * KV_BYTES["f16"] == 1 << 30
