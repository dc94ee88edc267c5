"""Plans the data file: its tensors, their places, and the rows of the checkpoint that each comes from.

Knows shapes and sizes; reads no weight, writes no file and knows no node of the graph.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.models.onnx_export.decoder import Decoder
from serve_app.models.onnx_export.rotary import tabulate

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
_ALIGNMENT = 4096
"""Tensors begin on a page, so that onnxruntime can map them into memory."""
_BITS = {"fp32": 32, "int8": 8, "int4": 4, "int4_mixed": 4}
_MIXED_BITS = 8
"""Bits of the matrices that four bits harm most, in `int4_mixed`: every layer's `down_proj` and the head."""


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A tensor in the data file."""

    name: str
    type: type[np.float32] | type[np.uint8]
    shape: tuple[int, ...]
    offset: int
    """First byte in the file."""

    @property
    def bytes(self) -> int:
        """Length in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.type).itemsize


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of the checkpoint, (N, K) with N outputs, and its form in the file."""

    name: str
    """Name of the product's node in the graph, with dots: model.layers.0.attn.o_proj."""
    source: str
    """The checkpoint's tensor."""
    first: int
    """First row of the matrix in the tensor: fused projections are split."""
    rows: int
    columns: int
    bits: int
    """8 or 4; 32: not quantized."""
    block: int
    """Weights of a row that share a scale."""
    transposed: bool
    """Whether unquantized weights are stored as (K, N), which MatMul expects."""
    weight: PlacedTensor
    """Unquantized (N, K) or (K, N), or whole blocks of bytes (N, blocks, bytes of a block)."""
    scales: PlacedTensor | None
    """(N, blocks); None when not quantized."""

    @property
    def blocks(self) -> int:
        """Blocks of a row; zeros fill the last one."""
        return -(-self.columns // self.block)


@dataclass(frozen=True, slots=True)
class Vector:
    """A norm's weights or a constant table."""

    placed: PlacedTensor
    source: str | NDArray[np.float32]
    """The checkpoint's tensor, or the values."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole file."""

    vectors: dict[str, Vector]
    """By the tensor's name in the graph."""
    matrices: dict[str, Matrix]
    """By name; with tied embeddings there is a separate `model.embed_tokens` only where the head's form cannot be looked up."""
    bytes: int
    """The file's size."""

    @property
    def weights(self) -> int:
        """Number of weights to convert."""
        return sum(matrix.rows * matrix.columns for matrix in self.matrices.values())

    @property
    def transposed_bytes(self) -> int:
        """Bytes of the largest matrix that must be whole in memory, because its rows are stored as columns."""
        return max((each.weight.bytes for each in self.matrices.values() if each.scales is None and each.transposed), default=0)


def list_layer_matrices(decoder: Decoder, layer: int) -> dict[str, tuple[str, int, int, int]]:
    """Return source, first row, rows and columns of a layer's products by their names in the graph."""
    source = f"model.layers.{layer}"
    return {
        "attn.qkv_proj": (f"{source}.self_attn.qkv_proj.weight", 0, decoder.qkv_width, decoder.hidden),
        "attn.o_proj": (f"{source}.self_attn.o_proj.weight", 0, decoder.hidden, decoder.query_width),
        "mlp.gate_proj": (f"{source}.mlp.gate_up_proj.weight", 0, decoder.inner, decoder.hidden),
        "mlp.up_proj": (f"{source}.mlp.gate_up_proj.weight", decoder.inner, decoder.inner, decoder.hidden),
        "mlp.down_proj": (f"{source}.mlp.down_proj.weight", 0, decoder.hidden, decoder.inner),
    }


def plan_layout(decoder: Decoder, precision: str, block: int) -> Layout:
    """Plan the file for weights in `precision`: fp32, int8, int4 or int4_mixed, `block` of which share a scale."""
    planner = _Planner(block)
    cosines, sines = tabulate(decoder.rotary)
    planner.add_vector("cos_cache", cosines.shape, cosines)
    planner.add_vector("sin_cache", sines.shape, sines)
    norm = (decoder.hidden,)
    bits = _BITS[precision]
    raised = _MIXED_BITS if precision == "int4_mixed" else bits
    for layer in range(decoder.layers):
        at = f"model.layers.{layer}"
        for part in ("input", "post_attention"):
            planner.add_vector(f"{at}.{part}_layernorm.weight", norm, f"{at}.{part}_layernorm.weight")
        for name, (source, first, rows, columns) in list_layer_matrices(decoder, layer).items():
            chosen = raised if name == "mlp.down_proj" else bits
            planner.add_matrix(f"{at}.{name}", source, (first, rows, columns), bits=chosen, transposed=True)
    planner.add_vector(f"model.layers.{decoder.layers}.final_norm_layernorm.weight", norm, "model.norm.weight")
    whole = (0, decoder.vocabulary, decoder.hidden)
    if not decoder.tied or precision == "int8":  # like the builder: with int8 weights the embedding stays in float32
        planner.add_matrix(EMBEDDING, f"{EMBEDDING}.weight", whole, bits=32, transposed=False)
    source = f"{EMBEDDING}.weight" if decoder.tied else f"{HEAD}.weight"
    planner.add_matrix(HEAD, source, whole, bits=raised, transposed=False)
    return Layout(planner.vectors, planner.matrices, planner.end)


class _Planner:
    """Places tensors one after the other."""

    def __init__(self, block: int) -> None:
        self.vectors: dict[str, Vector] = {}
        self.matrices: dict[str, Matrix] = {}
        self.end = 0
        self._block = block

    def add_vector(self, name: str, shape: tuple[int, ...], source: str | NDArray[np.float32]) -> None:
        self.vectors[name] = Vector(self._place(name, np.float32, shape), source)

    def add_matrix(self, name: str, source: str, part: tuple[int, int, int], *, bits: int, transposed: bool) -> None:
        first, rows, columns = part
        blocks = -(-columns // self._block)
        # Names of onnxruntime's quantizer.
        base = f"{name}.weight" if name == EMBEDDING else f"{name}.MatMul.weight"
        if bits == 32:
            weight, scales = self._place(base, np.float32, (columns, rows) if transposed else (rows, columns)), None
        else:
            weight = self._place(f"{base}_Q{bits}", np.uint8, (rows, blocks, self._block * bits // 8))
            scales = self._place(f"{base}_scales", np.float32, (rows, blocks))
        self.matrices[name] = Matrix(name, source, first, rows, columns, bits, self._block, transposed, weight, scales)

    def _place(self, name: str, kind: type[np.float32] | type[np.uint8], shape: tuple[int, ...]) -> PlacedTensor:
        placed = PlacedTensor(name, kind, shape, -(-self.end // _ALIGNMENT) * _ALIGNMENT)
        self.end = placed.offset + placed.bytes
        return placed
