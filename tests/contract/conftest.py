"""Every engine, started once for the whole suite. A new one is enrolled in `ENGINES`, and nowhere else."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.engine_config import EngineSettings, FakeSettings, LlamaCppSettings, OnnxSettings, VllmSettings
from serve_app.engines.base import Engine
from serve_app.engines.registry import build_engine
from serve_app.models.export import derive
from tests.contract.releases import INSTALLED, build

ENGINES: dict[str, EngineSettings] = {
    "fake": FakeSettings(tokens_per_second=500, text="one two three four five six seven eight", slots=16),
    "onnx": OnnxSettings(slots=8, max_waiting=64, prefill_chunk=256),
    "llama_cpp": LlamaCppSettings(precision="f32", slots=8),
    "vllm": VllmSettings(max_num_seqs=8, kv_cache_gib=0.5),
}
"""Every engine that the contract holds for; all but the scripted one run the model."""
PRECISIONS: dict[str, EngineSettings] = {
    "onnx_int8": OnnxSettings(precision="int8"),
    "onnx_int4": OnnxSettings(precision="int4"),
    "llama_cpp_q8_0": LlamaCppSettings(precision="q8_0"),
    "llama_cpp_q4_0": LlamaCppSettings(precision="q4_0"),
}
"""Engines once more with weights that were rounded, so that their tokens differ from the others'."""
MODEL_ENGINES = {name: settings for name, settings in ENGINES.items() if not isinstance(settings, FakeSettings)}


def _fixture(name: str, settings: EngineSettings) -> Any:
    @pytest.fixture(scope="package", name=f"{name}_engine")
    async def started(model_dir: Path) -> AsyncIterator[Engine]:
        engine = build_engine(settings, derive(model_dir, settings))
        await engine.start()
        yield engine
        await engine.close()

    return started


# A test that needs one engine names it: `onnx_engine`, `vllm_engine`, `llama_cpp_q8_0_engine`.
globals().update({f"_{name}_engine": _fixture(name, settings) for name, settings in (ENGINES | PRECISIONS).items()})


@pytest.fixture(scope="session")
def built(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as the installed onnxruntime-genai's builder writes it, int4 with all logits; leave it as it is."""
    out = tmp_path_factory.mktemp("built") / "int4"
    return build(INSTALLED, model_dir, out, "int4", "accuracy_level=4", "shared_embeddings=true")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ONNX forms go in a cache of the test's own."""
    monkeypatch.setenv("PHI_SERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onnx"


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine in turn."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


@pytest.fixture(params=list(MODEL_ENGINES))
def model_engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine that runs the model."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


@pytest.fixture(params=[*MODEL_ENGINES, *PRECISIONS])
def any_precision_engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine that runs the model, and those with rounded weights."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found
