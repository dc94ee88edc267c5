"""Exports of other architectures than Phi-3: the builder's weights bit for bit, and transformers' logits in ONNX and GGUF."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from serve_app.engine_config import EngineSettings, LlamaCppSettings, OnnxSettings
from serve_app.engines.onnx.engine import require_context
from serve_app.engines.registry import build_engine
from serve_app.errors import ModelUnusable
from serve_app.models import export
from serve_app.models.checkpoint import count_weights
from serve_app.models.weights import Weights
from tests.contract.play import ask, play
from tests.contract.releases import INSTALLED, build
from tests.contract.test_onnx_export import bytes_equal, read_constants, read_tables
from tests.contract.tiny import LLAMA3, write_other

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "llama": {"kind": "llama", "rope_scaling": LLAMA3},
    "llama-tied": {"kind": "llama", "tie_word_embeddings": True, "num_attention_heads": 2, "num_key_value_heads": 2},
    "llama-linear": {"kind": "llama", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "mistral": {"kind": "mistral"},
    "qwen2": {"kind": "qwen2", "sliding_window": 64, "use_sliding_window": False},
    "qwen3": {"kind": "qwen3", "tie_word_embeddings": True},
}
FORMS = ("fp32-32", "int8-64", "int4-32", "int4_mixed-64")
FAST = [("llama", form) for form in FORMS]
"""Checkpoints and forms that the builder writes in every run; 10 seconds."""
SLOW = [(name, form) for name in ("llama-tied", "mistral", "qwen2", "qwen3") for form in FORMS]
PROMPT = tuple(int(token) for token in np.random.default_rng(6).integers(300, 1000, 200))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: write_other(folder / name, **changes) for name, changes in CHECKPOINTS.items()}


def _build(checkpoints: dict[str, Path], forms: list[tuple[str, str]]) -> None:
    pairs = [f"{checkpoints[name]}:{_built(checkpoints, name, form)}" for name, form in forms]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-m", "tests.contract.builder", *pairs]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def _built(checkpoints: dict[str, Path], name: str, form: str) -> Path:
    return checkpoints[name].parent / f"{name}-built" / form


@pytest.fixture(scope="module")
def fast(checkpoints: dict[str, Path]) -> None:
    _build(checkpoints, FAST)


@pytest.fixture(scope="module")
def slow(checkpoints: dict[str, Path]) -> None:
    _build(checkpoints, SLOW)


def _require_the_builders(checkpoints: dict[str, Path], name: str, form: str, ours: Path) -> None:
    precision, block = form.split("-")
    theirs = _built(checkpoints, name, form)
    export.export_to_folder(checkpoints[name], "onnx", precision, ours, int(block))
    expected, written = read_constants(theirs), read_constants(ours)
    tables = read_tables(theirs)
    own = {each for each in written if each not in read_tables(ours) and not each.startswith(("/", "model.embed_tokens.weight_Q"))}
    assert own == {each for each in expected if each not in tables and not each.startswith("/")}
    for each, constant in expected.items():
        if each == "lm_head.MatMul.weight" and written[each].shape == constant.shape[::-1]:
            assert bytes_equal(np.ascontiguousarray(written[each].T), constant), each
        elif each not in tables and not each.startswith("/"):
            assert bytes_equal(written[each], constant), each
    for mine, table in zip(read_tables(ours).values(), tables.values(), strict=True):
        np.testing.assert_allclose(mine, table, atol=3e-5, rtol=0)
    kinds = [[node.op_type for node in ir.load(folder / "model.onnx").graph] for folder in (ours, theirs)]
    for operator in (
        "GroupQueryAttention",
        "MatMulNBits",
        "Split",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    ):
        assert kinds[0].count(operator) == kinds[1].count(operator), operator


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(("name", "form"), FAST)
def test_llamas_weights_and_scales_are_the_builders(checkpoints: dict[str, Path], name: str, form: str, tmp_path: Path) -> None:
    _require_the_builders(checkpoints, name, form, tmp_path / "ours")


@pytest.mark.slow
@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(("name", "form"), SLOW)
def test_weights_and_scales_are_the_builders(checkpoints: dict[str, Path], name: str, form: str, tmp_path: Path) -> None:
    _require_the_builders(checkpoints, name, form, tmp_path / "ours")


@pytest.fixture(scope="module", params=list(CHECKPOINTS))
def expected(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> tuple[Path, NDArray[np.float32]]:
    """A checkpoint, and transformers' log-probabilities of every token after `PROMPT`."""
    folder = checkpoints[request.param]
    return folder, compute_logprobs(folder)


def compute_logprobs(folder: Path) -> NDArray[np.float32]:
    from transformers import AutoModelForCausalLM  # takes seconds

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT])).logits[0, -1]
    found: NDArray[np.float32] = torch.log_softmax(logits, -1).numpy()
    return found


async def _require_logprobs(settings: EngineSettings, folder: Path, wanted: NDArray[np.float32]) -> None:
    engine = build_engine(settings, export.derive(folder, settings))
    await engine.start()
    try:
        (token,), _, (found,) = await play(engine, ask(PROMPT, max_tokens=1, logprobs=20))
    finally:
        await engine.close()
    assert token == int(wanted.argmax())
    for token_id, value in found.top:
        assert value == pytest.approx(float(wanted[token_id]), abs=2e-4)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "settings",
    [OnnxSettings(max_model_len=256, slots=1), LlamaCppSettings(max_model_len=256, slots=1, precision="f32")],
    ids=["onnx", "llama_cpp"],
)
async def test_logprobs_are_transformers(expected: tuple[Path, NDArray[np.float32]], settings: EngineSettings) -> None:
    await _require_logprobs(settings, *expected)


@pytest.mark.usefixtures("cache")
async def test_mistrals_sliding_window_is_transformers(tmp_path: Path) -> None:
    folder = write_other(tmp_path / "model", "mistral", sliding_window=32)
    await _require_logprobs(OnnxSettings(max_model_len=256, slots=1), folder, compute_logprobs(folder))


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["llama", "qwen3"])
async def test_the_builders_folder_is_served(checkpoints: dict[str, Path], name: str, tmp_path: Path) -> None:
    folder = build(INSTALLED, checkpoints[name], tmp_path / "built", "fp32")
    settings = OnnxSettings(max_model_len=256, slots=1, exported=str(folder))
    await _require_logprobs(settings, checkpoints[name], compute_logprobs(checkpoints[name]))


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_a_builders_folder_that_ignores_the_positions_scaling_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The builder knows `linear` for Mistral and Qwen, and silently ignores it for Llama."""
    folder = build(INSTALLED, checkpoints["llama-linear"], tmp_path / "built", "fp32")
    with pytest.raises(ModelUnusable, match=r"has rotary tables that do not match config\.json of the model's path"):
        export.derive(checkpoints["llama-linear"], OnnxSettings(max_model_len=256, exported=str(folder)))


def test_the_number_of_weights_is_the_checkpoints(checkpoints: dict[str, Path]) -> None:
    for name, folder in checkpoints.items():
        weights = Weights.read(folder)
        assert weights.parameters == count_weights(folder), name
        assert weights.family == CHECKPOINTS[name]["kind"]


@pytest.mark.parametrize(
    ("form", "changes", "message"),
    [
        (
            "onnx",
            {"attention_bias": True},
            "attention_bias in config.json is True; the ONNX export knows false only for llama: serve it",
        ),
        (
            "gguf",
            {"mlp_bias": True},
            "mlp_bias in config.json is True; the GGUF export knows false only for llama: serve it with a vllm",
        ),
        (
            "onnx",
            {"quantization_config": {"quant_method": "awq"}},
            "quantization_config in config.json is awq; the ONNX export knows null",
        ),
        (
            "onnx",
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            "asks for yarn position embeddings; the ONNX export knows",
        ),
        (
            "gguf",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "asks for dynamic position embeddings; the GGUF export knows",
        ),
        ("onnx", {"rope_scaling": LLAMA3 | {"factor": None}}, "factor in config.json is null, not a number"),
        ("gguf", {"rope_scaling": LLAMA3 | {"low_freq_factor": 9}}, "low_freq_factor in config.json is not below high_freq_factor"),
        (
            "gguf",
            {"model_type": "mistral", "sliding_window": 64},
            "sliding_window in config.json is 64, and llama.cpp has none for mis",
        ),
        ("onnx", {"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window in config.json is True; the ONNX export"),
        ("onnx", {"model_type": "qwen2"}, r"no tensor model\.layers\.0\.self_attn\.q_proj\.bias"),
        ("gguf", {"model_type": "qwen3", "rope_scaling": None}, r"no tensor model\.layers\.0\.self_attn\.q_norm\.weight"),
        ("gguf", {"head_dim": 32}, r"q_proj\.weight has the shape \(192, 192\), but config\.json asks for \(96, 192\)"),
        ("onnx", {"partial_rotary_factor": 0.5}, r"partial_rotary_factor in config\.json is 0\.5"),
    ],
)
def test_what_they_cannot_write_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path, form: str, changes: dict[str, Any], message: str
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in checkpoints["llama"].iterdir():
        (model / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").unlink()
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnusable, match=message):
        export.export_to_folder(model, form, {"onnx": "fp32", "gguf": "f32"}[form], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_context_beyond_the_rotary_tables_is_refused(checkpoints: dict[str, Path]) -> None:
    require_context(checkpoints["llama"], 512)
    with pytest.raises(ModelUnusable, match="max_model_len: 513 is over the model's 512 positions; set at most 512"):
        require_context(checkpoints["llama"], 513)
