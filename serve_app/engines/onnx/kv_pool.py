"""The KV cache of an exported decoder: one pool per layer, one slot per sequence.

Each layer has a key and a value array of shape (slots, kv_heads, max_len, head_dim), float32, C-contiguous. A slot range `lo:hi`
is therefore one block of memory that the graph reads as `past_key_values.N.*` and extends in place as `present.N.*`. Knows nothing
of requests; what lies beyond a sequence's length is garbage and is never attended to.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ModelUnusable


@dataclass(frozen=True, slots=True, kw_only=True)
class KvShape:
    """Dimensions of one token's cache entry, read from the graph's inputs."""

    layers: int
    kv_heads: int
    head_dim: int

    @property
    def bytes_per_token(self) -> int:
        """Bytes of key and value over all layers, float32."""
        return 2 * 4 * self.layers * self.kv_heads * self.head_dim


def plan_memory(shape: KvShape, slots: int, max_len: int, budget_bytes: int) -> str:
    """Return the pool's memory arithmetic in one line; raises `ModelUnusable` with it when the pool exceeds the budget."""
    total = shape.bytes_per_token * slots * max_len
    line = f"{shape.bytes_per_token} bytes a token x {max_len} tokens x {slots} slots = {total / 2**20:.0f} MiB at most"
    if total > budget_bytes:
        fitting = budget_bytes // (shape.bytes_per_token * max_len)
        raise ModelUnusable(
            f"the KV pool does not fit: {line}, but there are {budget_bytes / 2**20:.0f} MiB. Set slots to at most "
            f"{max(fitting - 1, 0)} (one more is the spare), or lower max_model_len."
        )
    return line


_COPY_BYTES_PER_S = 2e9
"""Assumed until copies have been measured."""


class KvPool:
    """`slots` sequences of up to `max_len` tokens. Pages are touched, and so paid for, only when written."""

    def __init__(self, shape: KvShape, slots: int, max_len: int) -> None:
        """Reserve the address range."""
        self.shape = shape
        self.slots = slots
        self.max_len = max_len
        self.copy_token_s = shape.bytes_per_token / _COPY_BYTES_PER_S
        """Seconds that copying one token takes, averaged over the last copies."""
        dims = (slots, shape.kv_heads, max_len, shape.head_dim)
        self.layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...] = tuple(
            (np.zeros(dims, np.float32), np.zeros(dims, np.float32)) for _ in range(shape.layers)
        )

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot over another's."""
        began = time.monotonic()
        for keys, values in self.layers:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]
        self.copy_token_s += 0.3 * ((time.monotonic() - began) / max(1, length) - self.copy_token_s)

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` tokens of two slots."""
        for pair in self.layers:
            for array in pair:
                kept = array[one, :, :length].copy()
                array[one, :, :length] = array[other, :, :length]
                array[other, :, :length] = kept
