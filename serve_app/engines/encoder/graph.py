"""Runs the graph of an encoder over a padded batch, and makes one vector of each input's tokens.

Takes the graphs of `serve_app.models.encoder_export` and of other exporters. Knows no requests and no threads.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.encoding import Vectors
from serve_app.engines.onnx_session import open_session
from serve_app.errors import ModelUnusable
from serve_app.files.encoder_folder import EncoderFolder, find_graph

_TOKENS = ("last_hidden_state", "token_embeddings")
"""Names of the output with one vector per token."""
_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})


class EncoderGraph:
    """Inputs input_ids, attention_mask and, where the graph has it, token_type_ids (B, S) int64; output (B, S, dimensions)."""

    def __init__(self, folder: Path, about: EncoderFolder, *, pooling: str, provider: str, threads: int) -> None:
        """Load the graph; `pooling` is `mean` or `cls`. Raises `ModelUnusable` for another kind of graph."""
        name = find_graph(folder)
        if name is None:
            raise ModelUnusable("the model's folder has neither model.onnx nor onnx/model.onnx; run `phi-serve export encoder`")
        file = folder / name  # data files lie beside the graph
        self._session = open_session(file.parent, file.name, provider=provider, threads=threads)
        self._inputs = {each.name for each in self._session.get_inputs()}
        outputs = {each.name: each.shape for each in self._session.get_outputs()}
        self._output = next((each for each in _TOKENS if each in outputs), "")
        if "input_ids" not in self._inputs or self._inputs - _INPUTS or len(outputs.get(self._output, ())) != 3:
            raise ModelUnusable(
                f"{name} has the inputs {', '.join(sorted(self._inputs))} and the outputs {', '.join(outputs)}; an encoder has "
                f"input_ids and attention_mask, and {_TOKENS[0]} with one vector per token"
            )
        width = outputs[self._output][-1]
        if isinstance(width, int) and width != about.dimensions:
            raise ModelUnusable(f"{name} makes vectors of {width} numbers, but config.json says hidden_size: {about.dimensions}")
        self._pooling = pooling

    def run(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        """Return one vector per input, not normalized: (B, dimensions)."""
        lengths = np.fromiter(map(len, inputs), np.int64, len(inputs))
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.zeros(mask.shape, np.int64)
        ids[mask.astype(bool)] = np.concatenate([np.asarray(each, np.int64) for each in inputs])
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (tokens,) = self._session.run([self._output], {name: value for name, value in given.items() if name in self._inputs})
        return pool(tokens, lengths, self._pooling)


def pool(tokens: NDArray[np.float32], lengths: NDArray[np.int64], pooling: str) -> Vectors:
    """Return one vector per input (B, dimensions) from its tokens' vectors (B, S, dimensions): the first (`cls`), or their mean."""
    if pooling == "cls":
        return np.ascontiguousarray(tokens[:, 0], np.float32)
    # Row by row: the vectors of padding must not count, and the result must not depend on the length of the batch.
    return np.stack([row[:length].mean(axis=0, dtype=np.float32) for row, length in zip(tokens, lengths, strict=True)])


def finish(vectors: Vectors, *, dimensions: int | None, normalized: bool) -> Vectors:
    """Return the vectors cut to their first components, and scaled to the length 1; a vector of zeros stays as it is."""
    kept = vectors[:, :dimensions]
    if not normalized:
        return np.ascontiguousarray(kept)
    lengths = np.linalg.norm(kept.astype(np.float64), axis=1, keepdims=True)
    scaled: Vectors = (kept / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return scaled
