"""Builds an engine by its kind, importing its runtime only then.

So the ingress and the nodes of one group need none of the other groups' wheels.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.engine_config import EngineSettings
from serve_app.types import EngineKind

if TYPE_CHECKING:
    from serve_app.engines.base import Encoder, Engine

_MODULES = {
    EngineKind.VLLM: ("serve_app.engines.vllm.engine", "VllmEngine"),
    EngineKind.ONNX: ("serve_app.engines.onnx.engine", "OnnxEngine"),
    EngineKind.LLAMA_CPP: ("serve_app.engines.llama_cpp.engine", "LlamaCppEngine"),
    EngineKind.ONNX_ENCODER: ("serve_app.engines.encoder.engine", "OnnxEncoder"),
    EngineKind.FAKE: ("serve_app.engines.fake", "FakeEngine"),
}


def build_engine(settings: EngineSettings, model_dir: Path) -> "Engine | Encoder":
    """Return the engine or encoder for `settings`, not yet started, over the model in `model_dir` (Hugging Face layout)."""
    module, name = _MODULES[settings.kind]
    engine: Engine | Encoder = getattr(importlib.import_module(module), name)(settings, model_dir)
    return engine
