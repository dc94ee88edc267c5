"""The reference for adapted graphs: the graph as its builder wrote it, run by onnxruntime alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from serve_app.engines.onnx.graph import Graph
from serve_app.engines.onnx.kv_pool import KvPool

CHUNKS = (16, 17, 1, 1, 1, 4)
"""Sizes of the calls that extend one sequence, each with the logits of all its positions."""
IDS = np.random.default_rng(1).integers(2, 2000, sum(CHUNKS))


def chunks() -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each call's past and tokens."""
    past = 0
    for size in CHUNKS:
        yield past, IDS[past : past + size]
        past += size


def run_as_built(folder: Path) -> tuple[frozenset[str], list[NDArray[np.float32]]]:
    """Return the inputs besides caches, and each call's logits, of the graph as it was built, run with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    inputs, outputs = ({value.name: value for value in values} for values in (session.get_inputs(), session.get_outputs()))
    caches = {name: np.zeros((1, inputs[name].shape[1], 0, 64), np.float32) for name in inputs if "past" in name}
    besides = frozenset(inputs) - frozenset(caches)
    found = []
    for past, ids in chunks():
        feed = caches | {"input_ids": ids[np.newaxis], "attention_mask": np.ones((1, past + len(ids)), np.int64)}
        if "position_ids" in inputs:
            feed["position_ids"] = np.arange(past, past + len(ids))[np.newaxis]
        result = dict(zip(outputs, session.run(list(outputs), feed), strict=True))
        caches = {name.replace("present", "past_key_values"): value for name, value in result.items() if "present" in name}
        found.append(result["logits"][0])
    return besides, found


def require_equal(adapted: Path, wanted: list[NDArray[np.float32]]) -> None:
    """Fail unless the adapted graph's logits are `wanted` to the last bit: the kernels get the same rows in the same order."""
    graph = Graph(adapted, provider="cpu", threads=1)
    graph.attach(KvPool(graph.kv_shape, 3, 64))
    for (past, ids), logits in zip(chunks(), wanted, strict=True):
        found = graph.verify(0, ids, past) if len(logits) == len(ids) else graph.extend(0, ids, past)[np.newaxis]
        np.testing.assert_array_equal(found, logits)
    step = graph.advance(IDS[33:34], np.array([33]))  # the same token again, as a step of many rows would compute it
    np.testing.assert_array_equal(step, wanted[2])
