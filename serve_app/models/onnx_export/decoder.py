"""Reads a decoder's sizes from `config.json`, and refuses configurations that the exported graph does not support.

Knows nothing of tensors, quantization or the graph.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ModelUnusable
from serve_app.models.architectures import (
    INSTEAD,
    Architecture,
    has_tied_embeddings,
    read_count,
    read_head_dim,
    require_architecture,
)
from serve_app.models.rope import DEFAULT_THETA, compute_divisors, read_number, read_rope


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary position embedding within the original context."""

    dimensions: int
    """Rotated components of a head; the rest pass unchanged."""
    theta: float
    """Base of the frequencies."""
    factors: tuple[float, ...] | None
    """Divisors of the frequencies, one for each pair of components, such as LongRoPE's short factors; None: plain RoPE."""
    scale: float
    """Factor of cosine and sine: LongRoPE's correction of the attention's scale, 1 for plain RoPE."""
    positions: int
    """Length of the tables in tokens: LongRoPE's original context, else the whole one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Shape of a causal decoder with gated SiLU and RMS norms."""

    architecture: Architecture
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
    def key_width(self) -> int:
        """Outputs of the key projection, and of the value projection."""
        return self.kv_heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        """Outputs of queries, keys and values together, which are one product of the graph."""
        return self.query_width + 2 * self.key_width


_EXPORT = "the ONNX export"


def read_decoder(model_dir: Path) -> Decoder:
    """Read `config.json`. Raises `ModelUnusable` when it is unreadable, incomplete, or not of a decoder that is known here."""
    try:
        config = json.loads((model_dir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelUnusable("config.json is missing or unreadable in the model's folder; fetch the model again") from error
    return parse_decoder(config if isinstance(config, dict) else {})


def parse_decoder(config: Mapping[str, Any]) -> Decoder:
    """Return the decoder that a config.json describes; raises as `read_decoder` does."""
    architecture = require_architecture(config, _EXPORT)
    hidden, heads, context = (read_count(config, key) for key in ("hidden_size", "num_attention_heads", "max_position_embeddings"))
    kv_heads = read_count(config, "num_key_value_heads") if config.get("num_key_value_heads") is not None else heads
    head_dim = read_head_dim(config, architecture)
    if heads % kv_heads:
        raise ModelUnusable(
            f"config.json has {heads} num_attention_heads for {kv_heads} num_key_value_heads; the first must be a multiple "
            "of the second; fetch the model again"
        )
    window = config.get("sliding_window") if architecture.has_window else None
    return Decoder(
        architecture=architecture,
        layers=read_count(config, "num_hidden_layers"),
        hidden=hidden,
        inner=read_count(config, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=read_count(config, "vocab_size"),
        tied=has_tied_embeddings(config),
        epsilon=read_number(config, "rms_norm_eps", architecture.epsilon),
        # A window as long as the context has no effect.
        window=read_count(config, "sliding_window") if window is not None and window < context else None,
        context=context,
        rotary=_read_rotary(config, head_dim, context),
    )


def _read_rotary(config: Mapping[str, Any], head_dim: int, context: int) -> Rotary:
    """Read kind and parameters of the position embeddings."""
    kind, both = read_rope(config)
    dimensions = int(read_number(both, "partial_rotary_factor", 1.0) * head_dim)
    theta = read_number(both, "rope_theta", DEFAULT_THETA)
    if kind in ("default", "linear", "llama3"):
        divisors = compute_divisors(kind, both, dimensions)
        return Rotary(dimensions=dimensions, theta=theta, factors=divisors, scale=1.0, positions=context)
    if kind != "longrope":
        raise ModelUnusable(
            f"config.json asks for {kind} position embeddings; {_EXPORT} knows default, linear, llama3 and longrope: {INSTEAD}"
        )
    original = read_count(both, "original_max_position_embeddings")
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
