"""Builds an engine by its kind, importing its runtime only then.

So the ingress and the nodes of one group need none of the other groups' wheels. Says which wheels a kind needs and does not have.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.engine_config import EngineSettings, count_gpu_layers
from serve_app.errors import ModelUnusable
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
_ONNX = ("onnx", ("onnxruntime", "onnx", "onnx_ir"))
_NEEDS: dict[EngineKind, tuple[str, tuple[str, ...]]] = {
    EngineKind.VLLM: ("vllm", ("vllm",)),
    EngineKind.ONNX: _ONNX,
    EngineKind.ONNX_ENCODER: _ONNX,
    EngineKind.LLAMA_CPP: ("llama-cpp", ("xllamacpp", "gguf")),
}
"""The extra of pyproject.toml that installs a kind, and the modules it must bring."""


def explain_missing(group: str, settings: EngineSettings) -> str:
    """Return in a sentence which packages of a group's engine are not installed, and how to install them; empty: none is missing.

    Looks for the packages without importing them.
    """
    extra, modules = _NEEDS.get(settings.kind, ("", ()))
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    if extra != "llama-cpp" and count_gpu_layers(settings) != 0:
        extra = "gpu"
    return (
        f"the group '{group}' is of kind {settings.kind}, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not "
        f"installed here: pip install 'phi-serve[{extra}]', or remove the group"
    )


def require_installed(group: str, settings: EngineSettings) -> None:
    """Raise `ModelUnusable` when packages of a group's engine are not installed."""
    if missing := explain_missing(group, settings):
        raise ModelUnusable(missing)


def build_engine(settings: EngineSettings, model_dir: Path) -> "Engine | Encoder":
    """Return the engine or encoder for `settings`, not yet started, over the model in `model_dir` (Hugging Face layout)."""
    module, name = _MODULES[settings.kind]
    engine: Engine | Encoder = getattr(importlib.import_module(module), name)(settings, model_dir)
    return engine
