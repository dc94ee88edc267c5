"""The GGUF form: what the command writes, what stands in the file, and that a damaged one is refused."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from serve_app.chat.tokenizer import Tokenizer
from serve_app.cli import app
from serve_app.engine_config import LlamaCppSettings
from serve_app.engines.registry import build_engine
from serve_app.errors import ModelUnusable
from serve_app.files.gguf_header import read_header
from serve_app.models import export
from serve_app.models.gguf import write_gguf
from serve_app.models.weights import Weights
from tests.contract.play import ask, play, prompt

TYPES = ("f32", "f16", "q8_0", "q4_0")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    target = tmp_path_factory.mktemp("export") / "q8"
    result = CliRunner().invoke(app, ["export", "gguf", "embedded", "--type", "q8_0", "--out", str(target)])
    assert result.exit_code == 0, result.output
    assert str(target) in result.stdout
    return target


async def test_the_commands_folder_is_served(exported: Path, model_dir: Path) -> None:
    settings = LlamaCppSettings(precision="q8_0", exported=str(exported), slots=1, max_model_len=256)
    folder = export.derive(model_dir, settings)
    assert folder == exported
    engine = build_engine(settings, folder)
    await engine.start()
    ids, _, _ = await play(engine, ask(prompt(10)))
    assert ids
    await engine.close()


def test_the_command_overwrites_nothing(exported: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in exported.iterdir()}
    result = CliRunner().invoke(app, ["export", "gguf", "embedded", "--out", str(exported)])
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert {file: file.stat().st_mtime_ns for file in exported.iterdir()} == before


def test_another_type_or_form_than_configured_is_refused(exported: Path, model_dir: Path) -> None:
    with pytest.raises(ModelUnusable, match="holds q8_0 weights, but precision is f16"):
        export.derive(model_dir, LlamaCppSettings(precision="f16", exported=str(exported)))


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
def test_a_damaged_file_is_refused_by_name(
    exported: Path, model_dir: Path, tmp_path: Path, damage: Callable[[Path], None], fault: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    damage(copy / "model.gguf")
    with pytest.raises(ModelUnusable, match=rf"^model\.gguf {fault}"):
        export.derive(model_dir, LlamaCppSettings(exported=str(copy)))


@pytest.mark.parametrize("precision", TYPES)
def test_weights_are_the_checkpoints_within_the_types_rounding(model_dir: Path, tmp_path: Path, precision: str) -> None:
    write_gguf(model_dir, precision, tmp_path / "a.gguf")
    assert read_header(tmp_path / "a.gguf").tensors.keys() == {
        tensor.name for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors
    }
    stored = load_file(model_dir / "model.safetensors")
    tolerance = {"f32": 0.0, "f16": 1e-3, "q8_0": 1e-2, "q4_0": 0.15}[precision]
    names = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "blk.3.attn_qkv": "model.layers.3.self_attn.qkv_proj",
        "blk.5.ffn_down": "model.layers.5.mlp.down_proj",
    }
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert read_header(tmp_path / "a.gguf").tensors.keys() == tensors.keys()
    assert "output.weight" not in tensors, "tied embeddings are stored once"
    for name, source in names.items():
        tensor = tensors[f"{name}.weight"]
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        wanted = stored[f"{source}.weight"].float().numpy()
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max(), name


def test_the_file_describes_model_and_tokenizer(exported: Path, model_dir: Path, tokenizer: Tokenizer) -> None:
    header = read_header(exported / "model.gguf")
    config = json.loads((model_dir / "config.json").read_text())
    assert header.keys["general.architecture"] == "phi3"
    assert header.keys["phi3.rope.scaling.original_context_length"] == 4096
    assert header.keys["phi3.rope.scaling.attn_factor"] == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))
    assert header.keys["phi3.rope.dimension_count"] == 48
    assert header.keys["tokenizer.ggml.pre"] == "gpt-4o"
    assert header.keys["tokenizer.ggml.eos_token_id"] == 0
    assert header.keys["tokenizer.ggml.eot_token_id"] == tokenizer.token_id("<|end|>")
    assert header.keys["tokenizer.chat_template"] == (model_dir / "chat_template.jinja").read_text()
    tokens = header.keys["tokenizer.ggml.tokens"]
    assert len(set(tokens)) == len(tokens) == config["vocab_size"]
    factors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(exported / "model.gguf").tensors if "rope" in tensor.name}
    for form in ("long", "short"):
        assert factors[f"rope_factors_{form}.weight"].tolist() == pytest.approx(config["rope_scaling"][f"{form}_factor"])


def test_every_type_of_published_files_has_its_size(model_dir: Path) -> None:
    weights = Weights.read(model_dir)
    for kind in (
        "F32",
        "F16",
        "BF16",
        "Q4_0",
        "Q4_1",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "IQ4_NL",
        "IQ4_XS",
    ):
        weights_in, bytes_of = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        assert weights.loaded_bytes(kind.lower()) == int(weights.parameters * bytes_of / weights_in), kind


def _copy(model_dir: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(model_dir, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


async def test_an_untied_head_and_a_padded_vocabulary_are_served(model_dir: Path, tmp_path: Path) -> None:
    model = _copy(model_dir, tmp_path / "untied", tie_word_embeddings=False, vocab_size=2080)
    weights = load_file(model / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    padded = torch.cat([embedding, torch.zeros(32, embedding.shape[1], dtype=embedding.dtype)])
    weights |= {"model.embed_tokens.weight": padded, "lm_head.weight": padded.flip(1).contiguous()}
    save_file(weights, model / "model.safetensors")
    folder = export.export_to_cache(model, "gguf", "f32")
    header = read_header(folder / "model.gguf")
    assert header.tensors["output.weight"].shape == (256, 2080)
    engine = build_engine(LlamaCppSettings(precision="f32", max_model_len=256), folder)
    await engine.start()
    assert len((await play(engine, ask(prompt(10), max_tokens=5)))[0]) == 5
    await engine.close()
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "model_type in config.json is gemma; the GGUF export knows only llama, mistral, phi3"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "asks for yarn position embeddings; the GGUF export knows default, lon",
        ),
        ({"num_hidden_layers": 7}, "no tensor model.layers.6"),
        ({"hidden_size": None}, "hidden_size in config.json is null, not a positive whole number"),
        (
            {"vocab_size": 100},
            r"model\.embed_tokens\.weight in model\.safetensors has 2048 rows, but config\.json says vocab_size: 100",
        ),
    ],
)
def test_what_it_cannot_write_is_refused(model_dir: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelUnusable, match=message):
        export.export_to_folder(_copy(model_dir, tmp_path / "other", **changes), "gguf", "f32", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


_WRITE = """
import resource, sys
from pathlib import Path
from serve_app.models.gguf import write_gguf
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_gguf(Path(sys.argv[1]), "q8_0", Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_model(model_dir: Path, tmp_path: Path) -> None:
    rows = 400_000
    model = _copy(model_dir, tmp_path / "wide", vocab_size=rows)
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"] = torch.zeros(rows, 256, dtype=torch.float32)
    save_file(weights, model / "model.safetensors")
    command = [sys.executable, "-c", _WRITE, str(model), str(tmp_path / "a.gguf")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown << 10 < rows * 256 * 4 / 2, f"{grown >> 10} MiB more for an embedding of {rows * 256 * 4 >> 20} MiB"
