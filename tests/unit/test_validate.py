"""`phi-serve validate`: the mistakes of people who write a configuration, each caught with its line and what to write."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.validation.agreement import Machine
from serve_app.validation.check import validate
from serve_app.validation.findings import Finding

SHIPPED = Path("serve_config.yaml").read_text()
LARGE = Machine(cpus=8, memory_bytes=64 << 30, gpus=0)

_LLAMA = "          max_model_len: 4096\n          slots: 4"
_CODER = "          task: coding\n"
_THREE = "        max_attempts: 3"
_FOUR = "        max_attempts: 4"
_ONNX_CPUS = "ray_actor_options: {num_cpus: 0.15}"
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    "a typo in args": (_THREE, "        max_atempts: 3", "max_atempts", "did you mean 'max_attempts'?"),
    "a typo in a group": ("          slots: 4\n", "          slotz: 4\n", "slotz", "did you mean 'slots'?"),
    "a typo at the root of args": ("      limits:", "      limit:", "limit", "did you mean 'limits'?"),
    "a typo in deployments": ("max_surge_percent: 50", "max_surge_procent: 50", "max_surge_procent", "max_surge_percent"),
    "a typo in options": (_ONNX_CPUS, "ray_actor_options: {num_cpu: 0.15}", "num_cpu", "'num_cpus'"),
    "a typo at the root": ("proxy_location:", "proxy_locatoin:", "proxy_locatoin", "did you mean 'proxy_location'?"),
    "a wrong type": (_THREE, "        max_attempts: three", "max_attempts", "three"),
    "a wrong type in Serve's half": ("max_replicas: 2", "max_replicas: two", "two", "write a number"),
    "an unknown kind": ("          kind: onnx\n", "          kind: onx\n", "unknown kind 'onx'", "did you mean 'onnx'?"),
    "no deployment": ("- name: llama_cpp", "- name: lama_cpp", "'llama_cpp' has no deployment", "lama_cpp"),
    "no group": ("- name: llama_cpp", "- name: lama_cpp", "'lama_cpp' is neither", "did you mean 'llama_cpp'?"),
    "min over max": ("min_replicas: 2", "min_replicas: 5", "min_replicas (5) is above max_replicas (2)", "raise"),
    "too many cores": (_ONNX_CPUS, "ray_actor_options: {num_cpus: 64}", "wants 64 cores", "never starts"),
    "too many GPUs": (_ONNX_CPUS, "ray_actor_options: {num_gpus: 1}", "wants 1 GPUs", "never starts"),
    "a missing path": ("path: embedded", "path: /no/such/folder", "there is no folder", "hub id"),
    "a hub id offline": ("path: embedded", "path: someone/some-model", "cannot be reached", "hf download"),
    "a context too long": (_LLAMA, _LLAMA.replace("4096", "400000"), "400000", "or less"),
    "a bad template": (_CODER, _CODER + '          template: "{{ if .System }}"\n', "template", "correct it"),
    "an unknown parent": ("from: phi4-mini\n" + _CODER, "from: nobody\n" + _CODER, "nobody", ""),
    "wrong indentation": ("        onnx:\n", "        onnx:\n         slots: 1\n", "not YAML", "indentation"),
    "a duplicate key": (_THREE, f"{_THREE}\n{_FOUR}", "'max_attempts' stands here", "remove one"),
    "a tab": (_THREE, "\tmax_attempts: 3", "tab", "spaces"),
    "an alias twice": ("aliases: [microsoft", "aliases: [phi4-mini-coder, microsoft", "phi4-mini-coder", ""),
}


def _check(text: str, machine: Machine = LARGE) -> list[Finding]:
    return validate(text, machine, probes_ports=False)


def test_the_shipped_configuration_has_none() -> None:
    assert _check(SHIPPED, Machine(cpus=2, memory_bytes=8 << 30, gpus=0)) == []


@pytest.mark.parametrize("named", MISTAKES)
def test_a_mistake_is_told_with_its_line(named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    before, after, problem, fix = MISTAKES[named]
    assert SHIPPED.count(before) >= 1, before
    text = SHIPPED.replace(before, after, 1)
    found = _check(text)
    fitting = [each for each in found if problem in f"{each.place} {each.problem}" and fix in each.fix + each.problem]
    assert fitting, found
    changed = next(at for at, (old, new) in enumerate(zip(SHIPPED.splitlines(), text.splitlines(), strict=False), 1) if old != new)
    assert any(abs(each.line - changed) <= 2 or each.place.startswith("applications.0.args") for each in fitting), (
        changed,
        fitting,
    )


def test_all_are_told_at_once() -> None:
    text = SHIPPED.replace("max_attempts: 3", "max_atempts: 3").replace("max_surge_percent: 50", "max_surge_procent: 50")
    problems = [each.problem for each in _check(text)]
    assert len(problems) == 2


def test_an_exported_folder_of_another_precision(tmp_path: Path) -> None:
    from serve_app.models import manifest

    (tmp_path / "model.onnx").write_bytes(b"x")
    manifest.write(tmp_path, {"format": "onnx", "precision": "int4", "writer": "test"})
    text = SHIPPED.replace("          precision: fp32 ", f"          exported: {tmp_path}\n          precision: fp32 ", 1)
    (found,) = _check(text)
    assert "holds int4 weights" in found.problem
    (missing,) = _check(SHIPPED.replace("          precision: fp32 ", "          exported: /none\n          precision: fp32 ", 1))
    assert "there is no folder" in missing.problem


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = SHIPPED.replace("port: 8000", f"port: {taken.getsockname()[1]}")
        found = validate(text, LARGE)
    assert [each.place for each in found] == ["http_options.port"]


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(SHIPPED.replace("max_attempts: 3", "max_atempts: 3"))
    shown = CliRunner().invoke(app, ["validate", str(file), "--no-ports", "--cpus", "8"])
    assert shown.exit_code == 2
    assert "did you mean 'max_attempts'?" in shown.output
    listed: Any = json.loads(CliRunner().invoke(app, ["validate", str(file), "--no-ports", "--json", "--cpus", "8"]).output)
    assert listed["findings"][0]["place"] == "applications.0.args.routing.max_atempts"
    file.write_text(SHIPPED)
    assert CliRunner().invoke(app, ["validate", str(file), "--no-ports", "--cpus", "8"]).exit_code == 0
    assert CliRunner().invoke(app, ["validate", str(tmp_path / "none.yaml")]).exit_code == 2


ODD = (
    "", "3", "[]", "applications: 3", "applications: [3]", "applications: [{}]", "applications: [{args: 3}]",
    "applications: [{args: {engines: 3}, deployments: 4}]", "a: &a [*a]", "? [1]\n: 2", "{[]: 1}",
)  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_any_text_is_answered(text: str) -> None:
    assert _check(text)


def test_profiles_have_none() -> None:
    for file in sorted(Path("cluster/profiles").glob("*.yaml")):
        found = _check(file.read_text(), Machine(cpus=64, memory_bytes=512 << 30, gpus=8))
        assert [each for each in found if "cannot be reached" not in each.problem] == [], file
