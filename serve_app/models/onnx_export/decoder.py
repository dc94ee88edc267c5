"""Reads a Phi-3 decoder's sizes from `config.json`, and refuses configurations that the exported graph does not support.

Knows nothing of tensors, quantization or the graph.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ModelUnusable


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary position embedding within the original context."""

    dimensions: int
    """Rotated components of a head; the rest pass unchanged."""
    theta: float
    """Base of the frequencies."""
    factors: tuple[float, ...] | None
    """LongRoPE's short factors, one for each pair of components; None: plain RoPE."""
    scale: float
    """Factor of cosine and sine: LongRoPE's correction of the attention's scale, 1 for plain RoPE."""
    positions: int
    """Length of the tables: the original context in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Shape of a causal decoder with fused projections, gated SiLU and RMS norms."""

    layers: int
    hidden: int
    """Width of the residual stream."""
    inner: int
    """Width of the feed-forward part."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    """Rows of embedding and head."""
    tied: bool
    """Whether the head is the embedding."""
    epsilon: float
    """Added to the mean square by every norm."""
    window: int | None
    """Tokens that a token attends to, itself included; None: all earlier ones."""
    context: int
    """Longest context of the model in tokens: the extended one."""
    rotary: Rotary

    @property
    def query_width(self) -> int:
        """Outputs of the query projection."""
        return self.heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        """Outputs of the fused projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


def read_decoder(model_dir: Path) -> Decoder:
    """Read `config.json`. Raises `ModelUnusable` when it is unreadable, incomplete, or not of a Phi-3 decoder."""
    try:
        config = json.loads((model_dir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelUnusable("config.json is missing or unreadable in the model's folder; fetch the model again") from error
    if not isinstance(config, dict) or config.get("model_type") != "phi3":
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise ModelUnusable(f"model_type in config.json is {kind}; the ONNX export knows phi3 only, serve it with a vllm group")
    for key, wanted in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if config.get(key, wanted) != wanted:
            raise ModelUnusable(f"{key} in config.json is {config[key]}; the ONNX export knows {json.dumps(wanted)} only")
    hidden, heads, context = (_read_count(config, key) for key in ("hidden_size", "num_attention_heads", "max_position_embeddings"))
    kv_heads = _read_count(config, "num_key_value_heads") if config.get("num_key_value_heads") is not None else heads
    head_dim = _read_count(config, "head_dim") if config.get("head_dim") is not None else hidden // heads
    if heads % kv_heads:
        raise ModelUnusable(
            f"config.json has {heads} num_attention_heads for {kv_heads} num_key_value_heads; the first must be a multiple "
            "of the second; fetch the model again"
        )
    window = config.get("sliding_window")
    return Decoder(
        layers=_read_count(config, "num_hidden_layers"),
        hidden=hidden,
        inner=_read_count(config, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=_read_count(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
        epsilon=_read_number(config, "rms_norm_eps", 1e-5),
        # A window as long as the context has no effect.
        window=_read_count(config, "sliding_window") if window is not None and window < context else None,
        context=context,
        rotary=_read_rotary(config, head_dim, context),
    )


def _read_rotary(config: Mapping[str, Any], head_dim: int, context: int) -> Rotary:
    """Read the parameters under `rope_parameters` or under the older keys."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    both = {**config, **scaling}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    dimensions = int(_read_number(both, "partial_rotary_factor", 1.0) * head_dim)
    theta = _read_number(both, "rope_theta", 10000.0)
    if kind == "default":
        return Rotary(dimensions=dimensions, theta=theta, factors=None, scale=1.0, positions=context)
    if kind != "longrope":
        raise ModelUnusable(f"config.json asks for {kind} position embeddings; the ONNX export knows default and longrope")
    original = _read_count(both, "original_max_position_embeddings")
    factors = both.get("short_factor")
    pairs = dimensions // 2
    if not isinstance(factors, list) or len(factors) != pairs or not all(isinstance(each, int | float) for each in factors):
        raise ModelUnusable(f"short_factor in config.json must be {pairs} numbers, one for each pair of rotated components")
    given = both.get("short_mscale") or 0.0
    extension = context / original
    # Equation of LongRoPE's authors for the attention's temperature; it holds for short texts as well.
    computed = math.sqrt(1 + math.log(extension) / math.log(original)) if extension > 1 else 1.0
    scale = float(given) if given > 0 else computed
    return Rotary(dimensions=dimensions, theta=theta, factors=tuple(map(float, factors)), scale=scale, positions=original)


def _read_count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelUnusable(f"{key} in config.json is {json.dumps(value)}, not a positive whole number; fetch the model again")
    return value


def _read_number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ModelUnusable(f"{key} in config.json is {json.dumps(value)}, not a number; fetch the model again")
    return float(value)
