"""The decoders that the exports can write, by config.json's `model_type`, and how they differ.

All have RMS norms, rotary positions, a gated SiLU and grouped queries. Knows no file format and no engine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.errors import ModelUnusable
from serve_app.models.rope import read_rope


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How a family of checkpoints differs from the others."""

    name: str
    """The model_type of config.json."""
    fused: bool = False
    """Whether queries, keys and values are one matrix of the checkpoint, and gate and up another."""
    qkv_bias: bool = False
    """Whether queries, keys and values have biases."""
    qk_norms: bool = False
    """Whether every head's queries and keys are normalized."""
    rotates_part: bool = False
    """Whether `partial_rotary_factor` has an effect."""
    gguf: str
    """llama.cpp's name of the architecture."""
    rotates_neighbours: bool = False
    """Whether llama.cpp rotates neighbouring components, so that its files have queries and keys in another order."""
    has_window: bool = False
    """Whether `sliding_window` has an effect; with Qwen's `use_sliding_window` it would, and that is refused."""
    epsilon: float = 1e-6
    """Added by norms where config.json has no `rms_norm_eps`."""
    head_dim: int | None = None
    """Width of a head where config.json has no `head_dim`; None: hidden_size by the number of heads."""


ARCHITECTURES: Mapping[str, Architecture] = {
    each.name: each
    for each in (
        Architecture(name="llama", gguf="llama", rotates_neighbours=True),
        Architecture(name="mistral", gguf="llama", rotates_neighbours=True, has_window=True),
        Architecture(name="phi3", gguf="phi3", fused=True, rotates_part=True, has_window=True, epsilon=1e-5),
        Architecture(name="qwen2", gguf="qwen2", qkv_bias=True),
        Architecture(name="qwen3", gguf="qwen3", qk_norms=True, head_dim=128),
    )
}
_SWITCHES = (
    ("hidden_act", "silu"),
    ("attention_bias", False),
    ("mlp_bias", False),
    ("use_sliding_window", False),
    ("quantization_config", None),
)
"""Keys of config.json, and the only values for which the exports are right."""
INSTEAD = "serve it with a vllm group"


def require_architecture(config: Mapping[str, Any], export: str) -> Architecture:
    """Return the architecture of `config`; raises `ModelUnusable`, in the name of `export`, for any that it cannot write."""
    kind = config.get("model_type")
    found = ARCHITECTURES.get(kind) if isinstance(kind, str) else None
    if found is None:
        known = ", ".join(ARCHITECTURES)
        raise ModelUnusable(f"model_type in config.json is {kind}; {export} knows only {known}: {INSTEAD}")
    _, settings = read_rope(config)
    for key, wanted in (*_SWITCHES, *(() if found.rotates_part else (("partial_rotary_factor", 1.0),))):
        value = settings.get(key, wanted)
        if value is not None and value != wanted:
            raise ModelUnusable(
                f"{key} in config.json is {_shorten(value)}; {export} knows {json.dumps(wanted)} only for {kind}: {INSTEAD}"
            )
    return found


def read_count(config: Mapping[str, Any], key: str) -> int:
    """Return a size of config.json; raises `ModelUnusable` for anything but a positive whole number."""
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise ModelUnusable(f"{key} in config.json is {json.dumps(value)}, not a positive whole number; fetch the model again")
    return value


def read_head_dim(config: Mapping[str, Any], architecture: Architecture) -> int:
    """Return the width of a head; raises `ModelUnusable` where config.json gives none."""
    if config.get("head_dim") is not None:
        return read_count(config, "head_dim")
    return architecture.head_dim or read_count(config, "hidden_size") // read_count(config, "num_attention_heads")


def _shorten(value: object) -> str:
    return str(value.get("quant_method", "set") if isinstance(value, dict) else value)[:40]


def has_tied_embeddings(config: Mapping[str, Any]) -> bool:
    """Return whether the head is the embedding.

    Where config.json lacks the key, transformers gives the known architectures a separate head, and ties it in all others.
    """
    return bool(config.get("tie_word_embeddings", config.get("model_type") not in ARCHITECTURES))
