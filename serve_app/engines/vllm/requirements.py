"""Checks that the settings of a vLLM group can run on this machine and checkpoint. Imports nothing of vLLM."""

import json
from pathlib import Path
from typing import Any

from serve_app.engine_config import VllmSettings
from serve_app.errors import ModelUnusable

_CPU_QUANTIZATION = {"compressed-tensors": "", "awq": "avx512f", "gptq": "avx512f"}
"""Methods with CPU kernels, and the processor flag they need."""


def require_device(asked: str, built_for: str) -> None:
    """Raise `ModelUnusable` when the installed vLLM runs on another device than `device` says."""
    if asked != built_for:
        have = built_for or "no device it can see"
        extra = "gpu" if asked == "cuda" else "cpu"
        raise ModelUnusable(
            f"device: {asked} is set, but the installed vLLM runs on {have}; "
            f"set device: {built_for or 'cpu'}, or install the {extra} extra on a machine with that device"
        )


def require_runnable(settings: VllmSettings, model_dir: Path, cpu_flags: frozenset[str]) -> None:
    """Raise `ModelUnusable` with the reason and the alternatives when `settings` cannot run on this checkpoint and device."""
    quantized = json.loads((model_dir / "config.json").read_text()).get("quantization_config") or {}
    stored = quantized.get("quant_method")
    asked = settings.quantization
    if asked and asked != "fp8" and not stored:
        raise ModelUnusable(
            f"quantization: {asked} is set, but the checkpoint is not quantized; "
            f"remove the line or point the model's path at a checkpoint quantized with {asked}"
        )
    if asked and stored and not stored.startswith(asked.split("_")[0]):
        raise ModelUnusable(
            f"quantization: {asked} is set, but the checkpoint is quantized with {stored}; set quantization: {stored}"
        )
    method = asked or stored
    if settings.device == "cpu" and method:
        needed = "avx512f" if _find_weight_bits(quantized) < 8 else _CPU_QUANTIZATION.get(method)
        if needed is None or (needed and needed not in cpu_flags):
            why = "has no CPU kernel" if needed is None else f"needs the processor feature {needed}, which this one lacks"
            raise ModelUnusable(
                f"quantization: {method} {why}. Alternatives: the unquantized checkpoint with dtype float32, an int8 W8A8 "
                "(compressed-tensors) checkpoint, or the onnx group with precision int4."
            )


def _find_weight_bits(quantized: dict[str, Any]) -> int:
    """Return the narrowest weights of a compressed-tensors checkpoint, 8 for other methods."""
    groups = (quantized.get("config_groups") or {}).values()
    return min((int((group.get("weights") or {}).get("num_bits") or 8) for group in groups), default=8)


def read_cpu_flags() -> frozenset[str]:
    """Return the processor's features, from /proc/cpuinfo; empty where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())
