"""Exports that cannot be made, are cut off, or run side by side: a sentence, and nothing half-written."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.errors import ModelUnusable
from serve_app.files.scratch import create_scratch_folder
from serve_app.models import export, manifest
from tests.contract.tiny import HIDDEN, write_tiny

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "gemma"},
            "model_type in config.json is gemma; the ONNX export knows only llama, mistral, phi3, qwen2, qwen3: serve it with a",
        ),
        ({"hidden_act": "gelu"}, "hidden_act in config.json is gelu"),
        ({"attention_bias": True}, "attention_bias in config.json is True"),
        ({"hidden_size": None}, "hidden_size in config.json is null, not a positive whole number"),
        ({"num_key_value_heads": 2}, "3 num_attention_heads for 2 num_key_value_heads"),
        ({"rms_norm_eps": "small"}, 'rms_norm_eps in config.json is "small", not a number'),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "config.json asks for yarn position embeddings"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "short_factor in config.json must be 24 numbers"),
        ({"num_hidden_layers": 3}, r"no tensor model\.layers\.2\.input_layernorm\.weight"),
        (
            {"num_hidden_layers": 1},
            r"a tensor model\.layers\.1\.\S+, and a phi3 decoder with this config\.json has none",
        ),
        ({"vocab_size": 301}, r"model\.embed_tokens\.weight has the shape \(300, 192\), but config\.json asks for \(301, 192\)"),
        ({"tie_word_embeddings": False}, r"no tensor lm_head\.weight"),
    ],
)
def test_another_architecture_is_refused(tiny: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps(config))
    _refuse(model, tmp_path, message)


def _spoil(name: str, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[name].view(-1)[-1].fill_(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), r"no tensor model\.norm\.weight"),
        (
            _spoil("model.layers.1.mlp.gate_up_proj.weight", float("nan")),
            r"layers\.1\.mlp\.gate_up_proj\.weight has values that are not",
        ),
        (_spoil("model.embed_tokens.weight", float("inf")), r"model\.embed_tokens\.weight has values that are not finite"),
        (_spoil("model.norm.weight", float("-inf")), r"model\.norm\.weight has values that are not finite"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(HIDDEN).to(torch.float8_e4m3fn)}),
            r"model\.norm\.weight is stored as F8_E4M3; convert it",
        ),
        (
            lambda tensors: tensors.update({"model.layers.0.self_attn.qkv_proj.bias": torch.ones(3)}),
            r"a tensor model\.layers\.0\.self_attn\.qkv_proj\.bias, and a phi3 decoder",
        ),
    ],
)
def test_unusable_weights_are_refused_by_name(
    tiny: Path, tmp_path: Path, change: Callable[[Tensors], object], message: str
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors")
    _refuse(model, tmp_path, message)


def test_other_files_are_refused_by_name(tiny: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / "generation_config.json").write_text('{"eos_token_id": ["</s>"]}')
    _refuse(model, tmp_path, r'eos_token_id in generation_config\.json is \["</s>"\]')
    (model / "generation_config.json").write_text("[")
    _refuse(model, tmp_path, r"generation_config\.json is unreadable")
    shutil.copy(tiny / "generation_config.json", model)
    (model / "tokenizer.json").unlink()
    _refuse(model, tmp_path, r"tokenizer\.json is missing")
    (model / "config.json").unlink()
    _refuse(model, tmp_path, r"config\.json is missing")


def _refuse(model: Path, tmp_path: Path, message: str) -> None:
    with pytest.raises(ModelUnusable, match=message):
        export.export_to_folder(model, "onnx", "int4", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_values_beyond_the_sum_of_float32_are_no_fault(tiny: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"].fill_(3e38)
    save_file(tensors, model / "model.safetensors")
    export.export_to_folder(model, "onnx", "int4", tmp_path / "out")


@pytest.mark.parametrize("form", ["onnx", "gguf"])
def test_too_small_a_disk_is_refused_with_the_arithmetic(
    model_dir: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(ModelUnusable, match=r"4 million weights to \w+ needs about 0\.1 GiB of disk, and 0\.0 GiB are free"):
        export.export_to_folder(model_dir, form, {"onnx": "int8", "gguf": "q4_0"}[form], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_is_a_sentence_and_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ModelUnusable, match="the disk became full while exporting int4; make room"):
        export.export_to_folder(tiny, "onnx", "int4", tmp_path / "out")
    assert not list(tmp_path.iterdir())


_CUT_OFF = """
import os, signal, sys
from pathlib import Path
from serve_app.models.export import export_to_folder
def cut(what, fraction):
    if fraction > 0.3:
        os.kill(os.getpid(), signal.SIGKILL)
export_to_folder(Path(sys.argv[1]), sys.argv[3], sys.argv[4], Path(sys.argv[2]), progress=cut)
"""


@pytest.mark.parametrize(("form", "precision"), [("onnx", "int4"), ("gguf", "q8_0")])
def test_what_a_killed_exporter_left_is_removed_by_the_next(model_dir: Path, tmp_path: Path, form: str, precision: str) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", _CUT_OFF, str(model_dir), str(out), form, precision]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".phi-serve-export-")
    assert list((left / "out").iterdir())
    export.export_to_folder(model_dir, form, precision, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert manifest.verify(out)["precision"] == precision


_TERMINATED = """
import os, signal, sys
from pathlib import Path
from serve_app import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
write = cli.export_to_folder
def cut(*arguments, progress):
    def kill(what, fraction):
        os.kill(os.getpid(), int(sys.argv[3])) if fraction > 0.3 else progress(what, fraction)
    write(*arguments, progress=kill)
cli.export_to_folder = cut
cli.app(["export", "onnx", sys.argv[1], "--out", sys.argv[2]])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_cleans_up(tiny: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", _TERMINATED, str(tiny), str(tmp_path / "out"), str(int(number))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_living_exporters_folder_is_left_alone(tmp_path: Path) -> None:
    with create_scratch_folder(tmp_path) as mine:
        (mine / "half").write_text("")
        with create_scratch_folder(tmp_path) as other:
            assert mine != other
        assert (mine / "half").exists()
    assert not list(tmp_path.iterdir())


def test_who_waits_for_another_replicas_export_says_so(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI_SERVE_CACHE", str(tmp_path))
    told: list[str] = []
    waits, begun = threading.Event(), threading.Event()

    def hold(what: str, fraction: float) -> None:
        if what.startswith("exporting") and fraction > 0:
            begun.set()
            waits.wait(20)

    def hear(what: str, fraction: float) -> None:
        told.append(what)
        if what.startswith("waiting"):
            waits.set()

    first = threading.Thread(target=export.export_to_cache, args=(tiny, "onnx", "int4", 32, hold))
    first.start()
    assert begun.wait(20)
    export.export_to_cache(tiny, "onnx", "int4", 32, hear)
    first.join()
    assert list(dict.fromkeys(told)) == [
        "reading the model's files",
        "waiting for another replica's export",
        "checking the exported files",
    ]


def test_progress_covers_the_reading_of_a_folder_but_not_of_the_hubs_cache(tiny: Path, tmp_path: Path) -> None:
    told: list[float] = []
    export._fingerprint(tiny, "onnx", lambda _, fraction: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == 1.0
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in tiny.iterdir():
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(b"x")
        (snapshot / file.name).symlink_to(blob)
    known = export._fingerprint(snapshot, "onnx")
    for blob in blobs.iterdir():
        blob.write_bytes(b"y")
    assert export._fingerprint(snapshot, "onnx") == known


@pytest.mark.parametrize(("form", "precision"), [("onnx", "int4_mixed"), ("onnx", "fp32"), ("gguf", "q4_0")])
def test_progress_grows_from_nothing_to_all(model_dir: Path, tmp_path: Path, form: str, precision: str) -> None:
    told: list[tuple[str, float]] = []
    export.export_to_folder(model_dir, form, precision, tmp_path / "out", progress=lambda *news: told.append(news))
    fractions = [fraction for what, fraction in told if what == f"exporting {precision}"]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert len(set(fractions)) > 5
    assert told[-1] == ("checking the exported files", 0.0)


def test_the_command_shows_percent(tiny: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "onnx", str(tiny), "--precision", "int4_mixed", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "%" in result.stderr
    assert manifest.verify(tmp_path / "out")["precision"] == "int4_mixed"


_ALONE = """
import resource, sys
from pathlib import Path
from serve_app.models.export import export_to_folder
import onnx_ir
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export_to_folder(Path(sys.argv[1]), "onnx", sys.argv[3], Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(*({"torch", "transformers", "onnxruntime_genai"} & sys.modules.keys()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int4", "fp32"])
def test_memory_does_not_grow_with_the_vocabulary_and_neither_torch_nor_the_builder_is_needed(
    tiny: Path, tmp_path: Path, precision: str
) -> None:
    rows = 400_000
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / "config.json").write_text(json.dumps(json.loads((model / "config.json").read_text()) | {"vocab_size": rows}))
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"] = torch.ones(rows, HIDDEN, dtype=torch.bfloat16)
    save_file(tensors, model / "model.safetensors")
    command = [sys.executable, "-c", _ALONE, str(model), str(tmp_path / "out"), precision]
    grown, modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    assert int(grown) < 100 << 10, f"{int(grown) >> 10} MiB more for an embedding of {rows * HIDDEN * 4 >> 20} MiB in float32"
    assert not modules


def test_a_damaged_export_in_the_cache_is_written_anew(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI_SERVE_CACHE", str(tmp_path))
    folder = export.export_to_cache(tiny, "onnx", "int4")
    data = folder / "model.onnx.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    assert export.export_to_cache(tiny, "onnx", "int4") == folder
    assert data.read_bytes() == whole


def test_an_export_leaves_folders_of_others_alone(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / ".export-settings").mkdir()
    export.export_to_folder(tiny, "onnx", "int4", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".export-settings", "out"]


def test_a_place_that_cannot_be_written_is_a_sentence(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelUnusable, match=r"^exporting int4 failed: (File exists|Not a directory) \(file\)"):
        export.export_to_folder(tiny, "onnx", "int4", tmp_path / "file" / "out")
