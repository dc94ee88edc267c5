"""The exported decoder as two calls: extend one slot by a chunk, extend many slots by one token each.

Binds the KV pool's memory in place (past and present are the same buffer). Knows nothing of requests or sampling.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from serve_app.engines.onnx.kv_pool import KvPool, KvShape
from serve_app.errors import EngineDead

Logits = NDArray[np.float32]


@dataclass(slots=True)
class _Bound:
    """An io-binding whose KV and logits pointers stay the same from call to call."""

    binding: ort.IOBinding
    logits: Logits


class Graph:
    """A causal decoder made by onnxruntime-genai's model builder with `prune_lm_head`.

    Inputs input_ids (B, S) and attention_mask (B, T) int64, past_key_values.N.{key,value} (B, kv_heads, max_len, head_dim);
    outputs logits (B, 1, V) and present.N.{key,value}.
    """

    def __init__(self, model_dir: Path, *, provider: str, threads: int) -> None:
        """Load the graph that `genai_config.json` in `model_dir` names; raises `EngineDead` when the provider is not installed."""
        name = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[provider]
        if name not in ort.get_available_providers():
            have = ", ".join(ort.get_available_providers())
            raise EngineDead(f"onnxruntime has no {name} (it has {have}). Install the gpu extra or set provider: cpu.")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Replicas share cores; a spinning thread takes the neighbour's time slice.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = json.loads((model_dir / "genai_config.json").read_text())["model"]
        decoder, stops = model["decoder"], model["eos_token_id"]
        self.stop_ids: tuple[int, ...] = tuple(stops) if isinstance(stops, list) else (stops,)
        self._session = ort.InferenceSession(str(model_dir / decoder["filename"]), options, providers=[name])
        self.kv_shape = KvShape(
            layers=decoder["num_hidden_layers"], kv_heads=decoder["num_key_value_heads"], head_dim=decoder["head_size"]
        )
        self.vocabulary_size = int(self._session.get_outputs()[0].shape[-1])
        self._pool: KvPool | None = None
        self._bound: dict[tuple[int, int], _Bound] = {}

    def attach(self, pool: KvPool) -> None:
        """Use `pool` for every call from now on."""
        self._pool = pool
        self._bound.clear()

    def extend(self, slot: int, ids: NDArray[np.int64], past: int) -> Logits:
        """Compute `ids` (S,) after `past` cached tokens of one slot; return the last position's logits (V,)."""
        mask = np.ones((1, past + len(ids)), np.int64)
        logits: Logits = self._run(slot, slot + 1, ids[np.newaxis, :], mask)[0]
        return logits

    def advance(self, ids: NDArray[np.int64], pasts: NDArray[np.int64]) -> Logits:
        """Compute one token for each of slots 0 to B-1, given ids (B,) and cached lengths (B,); return logits (B, V).

        The array is reused by the next call of the same size.
        """
        mask = (np.arange(int(pasts.max()) + 1)[np.newaxis, :] <= pasts[:, np.newaxis]).astype(np.int64)
        return self._run(0, len(ids), ids[:, np.newaxis], mask)

    def _run(self, low: int, high: int, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Logits:
        bound = self._bound.get((low, high)) or self._bind(low, high)
        bound.binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids))
        bound.binding.bind_cpu_input("attention_mask", mask)
        self._session.run_with_iobinding(bound.binding)
        return bound.logits[:, 0]

    def _bind(self, low: int, high: int) -> _Bound:
        assert self._pool is not None, "attach() comes first"
        binding = self._session.io_binding()
        rows = high - low
        for layer, pair in enumerate(self._pool.layers):
            for name, array in zip(("key", "value"), pair, strict=True):
                shape, pointer = (rows, *array.shape[1:]), array[low:high].ctypes.data
                binding.bind_input(f"past_key_values.{layer}.{name}", "cpu", 0, np.float32, shape, pointer)
                binding.bind_output(f"present.{layer}.{name}", "cpu", 0, np.float32, shape, pointer)
        logits = np.empty((rows, 1, self.vocabulary_size), np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        bound = self._bound[low, high] = _Bound(binding, logits)
        return bound
