"""The ONNX and GGUF forms: made once, of the model and precision asked for, whole or not at all."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.engine_config import EngineSettings, FakeSettings, LlamaCppSettings, OnnxSettings, VllmSettings
from serve_app.engines.onnx.graph import Graph
from serve_app.engines.registry import build_engine
from serve_app.errors import ModelUnusable
from serve_app.models import export, manifest, onnx_graph
from tests.contract.play import ask, play, prompt


def test_replicas_that_start_together_export_once(model_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    real = export._write

    def count(model: Path, form: str, precision: str, *rest: Any, **options: Any) -> None:
        built.append(precision)
        real(model, form, precision, *rest, **options)

    monkeypatch.setattr(export, "_write", count)
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: export.export_to_cache(model_dir, "onnx", "fp32"), range(3)))
    assert built == ["fp32"]
    (folder,) = folders
    assert (folder / "model.onnx").exists()
    assert export.export_to_cache(model_dir, "onnx", "fp32") == folder
    assert built == ["fp32"]


@pytest.mark.parametrize(
    ("form", "precision", "message"),
    [
        ("onnx", "fp32", r"model\.safetensors is not a safetensors file"),
        ("gguf", "q8_0", r"model\.safetensors is not a safetensors file"),
    ],
)
def test_a_failed_export_says_why_and_leaves_nothing(
    model_dir: Path, cache: Path, tmp_path: Path, form: str, precision: str, message: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelUnusable, match=message):
        export.export_to_cache(broken, form, precision)
    assert [file.suffix for file in (cache.parent / form).iterdir()] == [".lock"]


def test_another_content_is_another_folder(model_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model_dir, other)
    assert export._fingerprint(other, "onnx") == export._fingerprint(model_dir, "onnx")
    weights = (other / "model.safetensors").read_bytes()
    middle = len(weights) // 2
    (other / "model.safetensors").write_bytes(weights[:middle] + bytes([weights[middle] ^ 1]) + weights[middle + 1 :])
    assert export._fingerprint(other, "onnx") != export._fingerprint(model_dir, "onnx")


def test_only_onnx_and_llama_cpp_groups_need_a_derived_form(model_dir: Path, cache: Path) -> None:
    assert export.derive(model_dir, VllmSettings()) == export.derive(model_dir, FakeSettings()) == model_dir
    assert not cache.parent.exists()
    assert OnnxSettings().precision == "fp32"


@pytest.mark.parametrize("settings", [VllmSettings(), OnnxSettings(), LlamaCppSettings()], ids=["vllm", "onnx", "llama_cpp"])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_checkpoint_with_other_rows_than_ids_is_refused(
    model_dir: Path, cache: Path, tmp_path: Path, settings: EngineSettings, name: str
) -> None:
    other = shutil.copytree(model_dir, tmp_path / "other")
    save_file({name: torch.zeros(2040, 4)}, other / "extra.safetensors")
    message = rf"^{re.escape(name)} in extra\.safetensors has 2040 rows, but config\.json says vocab_size: 2048"
    with pytest.raises(ModelUnusable, match=message):
        export.derive(other, settings)
    assert not cache.parent.exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    target = tmp_path_factory.mktemp("export") / "int4"
    result = CliRunner().invoke(app, ["export", "onnx", "embedded", "--precision", "int4", "--out", str(target)])
    assert result.exit_code == 0, result.output
    assert str(target) in result.stdout
    return target


async def test_the_commands_folder_is_served(exported: Path, model_dir: Path) -> None:
    settings = OnnxSettings(precision="int4", exported=str(exported), slots=1, max_model_len=256)
    folder = export.derive(model_dir, settings)
    assert folder == exported
    engine = build_engine(settings, folder)
    await engine.start()
    ids, _, _ = await play(engine, ask(prompt(10)))
    assert ids
    await engine.close()


@pytest.mark.slow
async def test_more_weights_may_share_a_scale(exported: Path, model_dir: Path, cache: Path, tmp_path: Path) -> None:
    coarse = tmp_path / "coarse"
    result = CliRunner().invoke(app, ["export", "onnx", "embedded", "--block-size", "128", "--out", str(coarse)])
    assert result.exit_code == 0, result.output
    fine, coarser = (sum(file.stat().st_size for file in folder.glob("*.data")) for folder in (exported, coarse))
    assert coarser < 0.9 * fine
    settings = OnnxSettings(precision="int4", block_size=128, slots=1, max_model_len=256)
    folder = export.derive(model_dir, settings)
    assert folder.name.endswith("-int4-128")
    assert (folder / "model.onnx.data").stat().st_size == (coarse / "model.onnx.data").stat().st_size
    assert export.derive(model_dir, OnnxSettings(precision="fp32", block_size=128)).name.endswith("-fp32")
    engine = build_engine(settings, folder)
    await engine.start()
    ids, _, _ = await play(engine, ask(prompt(10)))
    assert ids
    await engine.close()


@pytest.mark.parametrize("size", ["16", "48", "512"])
def test_odd_block_sizes_are_refused(tmp_path: Path, size: str) -> None:
    result = CliRunner().invoke(app, ["export", "onnx", "embedded", "--block-size", size, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_the_command_overwrites_nothing(exported: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in exported.iterdir()}
    result = CliRunner().invoke(app, ["export", "onnx", "embedded", "--out", str(exported)])
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert {file: file.stat().st_mtime_ns for file in exported.iterdir()} == before


def test_the_command_names_a_wrong_model(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "onnx", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "the model's path is no folder" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_graph_takes_lengths_and_has_no_extended_tables(exported: Path) -> None:
    model = ir.load(exported / "model.onnx")
    assert {"input_ids", "logits_at", "last_position", "total_length"} == {
        v.name for v in model.graph.inputs if "past" not in v.name
    }
    assert not [node for node in model.graph if node.op_type == "If"]
    with pytest.raises(LookupError, match="adapted by phi-serve already"):
        onnx_graph.adapt(exported / "model.onnx")


def test_the_graph_of_another_version_is_refused(exported: Path, tmp_path: Path) -> None:
    older = shutil.copytree(exported, tmp_path / "older")
    model = ir.load(older / "model.onnx")
    next(value for value in model.graph.inputs if value.name == "total_length").name = "attention_mask"
    ir.save(model, older / "model.onnx")
    with pytest.raises(ModelUnusable, match="export it again"):
        Graph(older, provider="cpu", threads=1)


def test_another_precision_than_configured_is_refused(exported: Path, model_dir: Path) -> None:
    with pytest.raises(ModelUnusable, match="holds int4 weights, but precision is int8"):
        export.derive(model_dir, OnnxSettings(precision="int8", exported=str(exported)))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _alter(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (_truncate, "has .* bytes, not the"),
        (_alter, "has changed since it was written: its SHA-256 sum differs"),
        (Path.unlink, "is missing from the model's folder"),
    ],
)
@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_a_damaged_file_is_refused_by_name(
    exported: Path, model_dir: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], fault: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    damage(copy / name)
    with pytest.raises(ModelUnusable, match=f"^{name} {fault}"):
        export.derive(model_dir, OnnxSettings(precision="int4", exported=str(copy)))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"about": {}, "files": {"a": 1}}'])
def test_a_broken_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / manifest.NAME).write_text(content)
    with pytest.raises(ModelUnusable, match=r"manifest\.json is missing or unreadable"):
        manifest.verify(tmp_path)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    (folder / manifest.NAME).write_text(json.dumps({"about": {}, "files": {"../secret": entry}}))
    with pytest.raises(ModelUnusable, match="lies outside the model's folder"):
        manifest.verify(folder)


def test_an_export_that_cannot_fit_is_refused_with_the_arithmetic(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "read_available_bytes", lambda: 2**20)
    with pytest.raises(ModelUnusable, match=r"4 million weights to int4 needs about 0\.5 GiB of memory, and 0\.0 GiB are free"):
        export.export_to_folder(model_dir, "onnx", "int4", tmp_path / "out")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelUnusable, match=r"a\.safetensors is not a safetensors file"):
        export.export_to_folder(tmp_path / "model", "onnx", "int4", tmp_path / "out")


@pytest.mark.parametrize("settings", [OnnxSettings(), LlamaCppSettings(), VllmSettings()])
def test_files_that_contradict_each_other_reach_no_engine(model_dir: Path, tmp_path: Path, settings: Any) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    (folder / "added_tokens.json").write_text('{"<|end|>": 5}')
    with pytest.raises(ModelUnusable, match=r"gives `<\|end\|>` the id 1, but added_tokens\.json the id 5"):
        export.derive(folder, settings)
