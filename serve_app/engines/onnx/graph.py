"""Runs the exported decoder: extends one slot by a chunk (with the last or all logits), or many slots by one token each.

Binds the KV pool's memory in place (past and present are the same buffer). Knows nothing of requests or sampling.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from serve_app.engines.onnx.kv_pool import KvPool, KvShape
from serve_app.engines.onnx_session import open_session
from serve_app.errors import ModelUnusable
from serve_app.files.genai_config import GenaiConfig

Logits = NDArray[np.float32]


@dataclass(slots=True)
class _Binding:
    """An io-binding with fixed pointers; each call writes its values into the arrays."""

    binding: ort.IOBinding
    logits: Logits
    ids: NDArray[np.int64]
    """The next token of each row (B, 1); bound only where each row always computes one."""
    last_position: NDArray[np.int32]
    """Index of the last token of each row (B,)."""
    total_length: NDArray[np.int32]
    """Tokens of the longest row, the new ones included, ()."""


class Graph:
    """A causal decoder as `serve_app.models.export` makes it.

    Inputs input_ids (B, S) and logits_at (K,) int64, last_position (B,) and total_length () int32, past_key_values.N.{key,value}
    (B, kv_heads, max_len, head_dim); outputs logits (B, K, V) and present.N.{key,value}.
    """

    def __init__(self, model_dir: Path, *, provider: str, threads: int, spinning: bool = False) -> None:
        """Load the graph that `genai_config.json` in `model_dir` names.

        Raises `ModelUnusable` when the provider is not installed, or when the graph has other inputs than these.

        Threads wait for work busily when `spinning`.
        """
        config = GenaiConfig.read(model_dir)
        self._session = open_session(model_dir, config.filename, provider=provider, threads=threads, spinning=spinning)
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        if not {given.name for given in self._session.get_inputs()} >= _INPUTS or "logits" not in outputs:
            raise ModelUnusable("another version of phi-serve wrote this ONNX graph; export it again with `phi-serve export onnx`")
        self.kv_shape = KvShape(layers=config.layers, kv_heads=config.kv_heads, head_dim=config.head_dim)
        self.vocabulary_size = int(outputs["logits"][-1])
        self._row_multiple = 1
        self._pool: KvPool | None = None
        self._steps: dict[int, _Binding] = {}
        """Calls for one token each, by the number of slots."""
        self._chunks: dict[tuple[int, int], _Binding] = {}
        """Calls for a chunk, by slot and number of positions with logits."""

    def attach(self, pool: KvPool) -> None:
        """Use `pool` for every call from now on."""
        self._pool = pool
        self._steps.clear()
        self._chunks.clear()

    def ensure_row_invariance(self) -> int:
        """Make every row's result independent of the number of rows; return 1 or 2, of which `advance` must get a multiple.

        With quantized weights onnxruntime's kernels may take rows in pairs, and sum a last odd row in another order. It depends on
        bits, block and processor, so a few steps of one and of two rows are compared. Where they differ `extend` pads an odd chunk
        by a token. Overwrites the beginning of the first two slots.
        """
        past = np.zeros(2, np.int64)
        for pair in ([0, 1], [self.vocabulary_size // 2, 2]):
            ids = np.asarray(pair, np.int64)
            alone = self.advance(ids[:1], past[:1]).copy()
            if not np.array_equal(alone[0], self.advance(ids, past)[0]):
                self._row_multiple = 2
        return self._row_multiple

    def extend(self, slot: int, ids: NDArray[np.int64], past: int) -> Logits:
        """Compute `ids` (S,) after `past` cached tokens of one slot; return the last position's logits (V,).

        The position after them in the slot's cache may be overwritten.
        """
        assert self._pool is not None, "attach() comes first"
        spare = -len(ids) % self._row_multiple
        if past + len(ids) + spare > self._pool.max_len:
            spare = 0
        padded = np.pad(ids, (0, spare)) if spare else ids
        logits: Logits = self._run_chunk(slot, padded, past, np.arange(-self._row_multiple, 0))[-1 - spare]
        return logits

    def verify(self, slot: int, ids: NDArray[np.int64], past: int) -> Logits:
        """Compute `ids` (S,) after `past` cached tokens of one slot; return every position's logits (S, V)."""
        return self._run_chunk(slot, ids, past, np.arange(-len(ids), 0))

    def advance(self, ids: NDArray[np.int64], pasts: NDArray[np.int64]) -> Logits:
        """Compute one token for each of slots 0 to B-1, given ids (B,) and cached lengths (B,); return logits (B, V).

        The array is reused by the next call of the same size.
        """
        call = self._steps.get(len(ids)) or self._bind_step(len(ids))
        call.ids[:, 0] = ids
        call.last_position[:] = pasts
        call.total_length[()] = pasts.max() + 1
        self._session.run_with_iobinding(call.binding)
        return call.logits[:, 0]

    def _run_chunk(self, slot: int, ids: NDArray[np.int64], past: int, positions: NDArray[np.int64]) -> Logits:
        call = self._chunks.get((slot, len(positions)))
        if call is None:
            call = self._chunks[slot, len(positions)] = self._bind(slot, slot + 1, len(positions))
        call.binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids[np.newaxis, :]))
        call.last_position[0] = past + len(ids) - 1
        call.total_length[()] = past + len(ids)
        call.binding.bind_cpu_input("logits_at", positions)
        self._session.run_with_iobinding(call.binding)
        logits: Logits = call.logits[0]
        return logits

    def _bind_step(self, rows: int) -> _Binding:
        call = self._steps[rows] = self._bind(0, rows, 1)
        call.binding.bind_cpu_input("input_ids", call.ids)
        call.binding.bind_cpu_input("logits_at", _ONE)
        return call

    def _bind(self, low: int, high: int, kept: int) -> _Binding:
        assert self._pool is not None, "attach() comes first"
        binding = self._session.io_binding()
        rows = high - low
        for layer, pair in enumerate(self._pool.layers):
            for name, array in zip(("key", "value"), pair, strict=True):
                shape, pointer = (rows, *array.shape[1:]), array[low:high].ctypes.data
                binding.bind_input(f"past_key_values.{layer}.{name}", "cpu", 0, np.float32, shape, pointer)
                binding.bind_output(f"present.{layer}.{name}", "cpu", 0, np.float32, shape, pointer)
        logits = np.empty((rows, kept, self.vocabulary_size), np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        call = _Binding(binding, logits, np.zeros((rows, 1), np.int64), np.zeros(rows, np.int32), np.zeros((), np.int32))
        binding.bind_cpu_input("last_position", call.last_position)
        binding.bind_cpu_input("total_length", call.total_length)
        return call


_INPUTS = {"input_ids", "logits_at", "last_position", "total_length"}
_ONE = np.asarray([-1])
