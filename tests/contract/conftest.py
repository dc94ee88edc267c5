"""Every engine, started once for the whole suite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.engine_config import EngineSettings, FakeSettings, LlamaCppSettings, OnnxSettings, VllmSettings
from serve_app.engines.base import Engine
from serve_app.engines.registry import build_engine
from serve_app.models.export import derive
from tests.contract.releases import INSTALLED, build

SETTINGS: dict[str, EngineSettings] = {
    "fake": FakeSettings(tokens_per_second=500, text="one two three four five six seven eight", slots=16),
    "onnx": OnnxSettings(slots=8, max_waiting=64, prefill_chunk=256),
    "llama_cpp": LlamaCppSettings(precision="f32", slots=8),
    "vllm": VllmSettings(max_num_seqs=8, kv_cache_gib=0.5),
}


async def _started(settings: EngineSettings, model_dir: Path) -> AsyncIterator[Engine]:
    engine = build_engine(settings, derive(model_dir, settings))
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture(scope="session")
def built(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as the installed onnxruntime-genai's builder writes it, int4 with all logits; leave it as it is."""
    out = tmp_path_factory.mktemp("built") / "int4"
    return build(INSTALLED, model_dir, out, "int4", "accuracy_level=4", "shared_embeddings=true")


@pytest.fixture(scope="session")
async def fake_engine(model_dir: Path) -> AsyncIterator[Engine]:
    async for engine in _started(SETTINGS["fake"], model_dir):
        yield engine


@pytest.fixture(scope="session")
async def onnx_engine(model_dir: Path) -> AsyncIterator[Engine]:
    async for engine in _started(SETTINGS["onnx"], model_dir):
        yield engine


@pytest.fixture(scope="session")
async def onnx_int8_engine(model_dir: Path) -> AsyncIterator[Engine]:
    async for engine in _started(OnnxSettings(precision="int8"), model_dir):
        yield engine


@pytest.fixture(scope="session")
async def onnx_int4_engine(model_dir: Path) -> AsyncIterator[Engine]:
    async for engine in _started(OnnxSettings(precision="int4"), model_dir):
        yield engine


@pytest.fixture(scope="session")
async def vllm_engine(model_dir: Path) -> AsyncIterator[Engine]:
    async for engine in _started(SETTINGS["vllm"], model_dir):
        yield engine


@pytest.fixture(scope="session")
async def llama_cpp_engine(model_dir: Path) -> AsyncIterator[Engine]:
    async for engine in _started(SETTINGS["llama_cpp"], model_dir):
        yield engine


@pytest.fixture(scope="session")
async def llama_cpp_q8_0_engine(model_dir: Path) -> AsyncIterator[Engine]:
    async for engine in _started(LlamaCppSettings(precision="q8_0"), model_dir):
        yield engine


@pytest.fixture(scope="session")
async def llama_cpp_q4_0_engine(model_dir: Path) -> AsyncIterator[Engine]:
    async for engine in _started(LlamaCppSettings(precision="q4_0"), model_dir):
        yield engine


@pytest.fixture(params=list(SETTINGS))
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine in turn."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


@pytest.fixture(params=["onnx", "llama_cpp", "vllm"])
def model_engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine that runs the model."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found
