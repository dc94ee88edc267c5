"""Writes the data file of a planned graph, a few rows of the checkpoint at a time. Knows no node of the graph."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ModelUnusable
from serve_app.models.checkpoint import Checkpoint
from serve_app.models.onnx_export.decoder import Decoder
from serve_app.models.onnx_export.layout import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    Layout,
    Matrix,
    PlacedTensor,
    Vector,
    list_layer_matrices,
    list_layer_vectors,
)
from serve_app.models.onnx_export.quantize import quantize_rows

PIECE_WEIGHTS = 1 << 20
"""Weights in memory at once. Smaller pieces cost more calls; larger ones hold Python's global lock for longer (15 ms a piece)."""


def require_tensors(checkpoint: Checkpoint, decoder: Decoder) -> None:
    """Raise `ModelUnusable` naming a tensor that is missing, has another shape or type, or belongs to another architecture."""
    wanted: dict[str, tuple[int, ...]] = {f"{EMBEDDING}.weight": (decoder.vocabulary, decoder.hidden)}
    if not decoder.tied:
        wanted[f"{HEAD}.weight"] = (decoder.vocabulary, decoder.hidden)
    wanted[FINAL_NORM] = (decoder.hidden,)
    for layer in range(decoder.layers):
        for elements in list_layer_vectors(decoder, layer).values():
            wanted |= {part.source: (part.rows,) for part in elements}
        for rows, columns in list_layer_matrices(decoder, layer).values():
            wanted |= {part.source: (part.first + part.rows, columns) for part in rows}
    for name, shape in wanted.items():
        checkpoint.require_tensor(name, shape)
    for name in checkpoint.tensors:
        if name.startswith("model.") and name not in wanted and not name.endswith(".rotary_emb.inv_freq"):
            raise ModelUnusable(
                f"the checkpoint has a tensor {name}, and a {decoder.architecture.name} decoder with this config.json has none of "
                "that name"
            )


def write_data(file: Path, layout: Layout, checkpoint: Checkpoint, report: Callable[[float], None]) -> None:
    """Write `file` as planned; `report` gets the fraction done after every piece.

    Raises `ModelUnusable` naming a tensor with values that are not finite, and `OSError` when the disk is full: the whole file is
    allocated first.
    """
    total, done = layout.weights, 0
    with file.open("xb") as out:
        os.posix_fallocate(out.fileno(), 0, layout.bytes)
        for vector in layout.vectors.values():
            _write(out.fileno(), vector.placed, 0, _read_vector(vector, checkpoint))
        for matrix in layout.matrices.values():
            for count in _write_matrix(out.fileno(), matrix, checkpoint):
                done += count
                report(done / total)


def _read_vector(vector: Vector, checkpoint: Checkpoint) -> NDArray[np.float32]:
    if not isinstance(vector.source, tuple):
        return vector.source
    pieces = [
        _require_finite(checkpoint.read_rows(part.source, part.first, part.first + part.rows), part.source)
        for part in vector.source
    ]
    return np.concatenate(pieces)


def _write_matrix(file: int, matrix: Matrix, checkpoint: Checkpoint) -> Iterator[int]:
    """Write a matrix piece by piece; yield the number of weights of each."""
    height = max(1, PIECE_WEIGHTS // matrix.columns)
    transposed = np.empty(matrix.weight.shape, np.float32) if matrix.scales is None and matrix.transposed else None
    start = 0
    for piece in _read_rows(matrix, checkpoint, height):
        stop = start + len(piece)
        if matrix.scales is not None:
            codes, scales = quantize_rows(piece, matrix.bits, matrix.block)
            _write(file, matrix.weight, start, codes)
            _write(file, matrix.scales, start, scales)
        elif transposed is not None:
            transposed[:, start:stop] = piece.T
        else:
            _write(file, matrix.weight, start, piece)
        start = stop
        yield piece.size
    if transposed is not None:
        _write(file, matrix.weight, 0, transposed)


def _read_rows(matrix: Matrix, checkpoint: Checkpoint, height: int) -> Iterator[NDArray[np.float32]]:
    """Yield the matrix's rows in order, at most `height` at a time."""
    for part in matrix.parts:
        for at in range(part.first, part.first + part.rows, height):
            stop = min(at + height, part.first + part.rows)
            yield _require_finite(checkpoint.read_rows(part.source, at, stop), part.source)


def _write(file: int, placed: PlacedTensor, row: int, values: NDArray[np.float32] | NDArray[np.uint8]) -> None:
    """Write `values` to the tensor, starting at `row`."""
    rest = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    offset = placed.offset + row * (placed.bytes // placed.shape[0])
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written


def _require_finite(values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return the values; raises `ModelUnusable` unless all are finite. The sum is tested first, which is the quickest test."""
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = not np.isfinite(values.sum())
    if suspect and not np.isfinite(values).all():
        raise ModelUnusable(f"the checkpoint's tensor {name} has values that are not finite; fetch the model again")
    return values
