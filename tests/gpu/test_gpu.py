"""The vLLM and ONNX groups on a real GPU. Skipped, with the reason, where there is none: CI has no GPU."""

from pathlib import Path

import pytest

from serve_app.engine_config import EngineSettings, OnnxSettings, VllmSettings
from serve_app.engines.registry import build_engine
from serve_app.models.export import derive
from tests.contract.play import ask, play, prompt


def _require_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine (torch.cuda.is_available() is false)")


@pytest.mark.parametrize(
    "settings",
    [VllmSettings(device="cuda", dtype="float32", gpu_memory_utilization=0.3), OnnxSettings(provider="cuda")],
    ids=["vllm", "onnx"],
)
async def test_a_gpu_engine_generates_reproducibly(settings: EngineSettings, model_dir: Path) -> None:
    _require_gpu()
    engine = build_engine(settings, derive(model_dir, settings))
    await engine.start()
    first = await play(engine, ask(prompt(40)))
    assert (await play(engine, ask(prompt(40))))[0] == first[0]
    await engine.close()
