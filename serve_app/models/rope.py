"""Reads from config.json how rotary position embeddings are scaled. Knows no graph and no file format.

`linear` and `llama3` divide each pair's frequency by a constant. LongRoPE, which also depends on the text's length, is read where
it is used.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ModelUnusable

DEFAULT_THETA = 10000.0


def read_rope(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the kind of position embeddings, and their settings, under the new key or the older ones."""
    written = config.get("rope_parameters") or config.get("rope_scaling")
    scaling = written if isinstance(written, dict) else {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    return str(kind), {**config, **{key: value for key, value in scaling.items() if value is not None}}


def read_number(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """Return a number of config.json; raises `ModelUnusable` for anything else, and for no value without a default."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ModelUnusable(f"{key} in config.json is {json.dumps(value)}, not a number; fetch the model again")
    return float(value)


def compute_periods(theta: float, dimensions: int) -> NDArray[np.float32]:
    """Return the tokens in which each pair's angle grows by one radian, without scaling, as PyTorch rounds them."""
    exponents = np.arange(0, dimensions, 2).astype(np.float32) / np.float32(dimensions)
    return np.power(theta, exponents.astype(np.float64)).astype(np.float32)


def compute_divisors(kind: str, settings: Mapping[str, Any], dimensions: int) -> tuple[float, ...] | None:
    """Return the number by which each pair's frequency is divided; None for kinds other than linear and llama3.

    llama3 (of Llama 3.1): pairs that turn often within the original context stay, pairs that hardly turn are divided by `factor`,
    and between the two the frequency is interpolated.
    """
    if kind not in ("linear", "llama3"):
        return None
    factor = read_positive(settings, "factor")
    if kind == "linear":
        return (factor,) * (dimensions // 2)
    low, high = read_positive(settings, "low_freq_factor"), read_positive(settings, "high_freq_factor")
    original = read_positive(settings, "original_max_position_embeddings")
    if low >= high:
        raise ModelUnusable("low_freq_factor in config.json is not below high_freq_factor; fetch the model again")
    theta = read_number(settings, "rope_theta", DEFAULT_THETA)
    turns = original / (2 * math.pi * compute_periods(theta, dimensions).astype(np.float64))
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return tuple(map(float, 1.0 / ((1.0 - kept) / factor + kept)))


def read_positive(settings: Mapping[str, Any], key: str) -> float:
    """Return a number of config.json above 0; raises `ModelUnusable` for anything else."""
    value = read_number(settings, key)
    if value <= 0:
        raise ModelUnusable(f"{key} in config.json is {json.dumps(value)}, not a positive number; fetch the model again")
    return value
