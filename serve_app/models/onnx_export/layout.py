"""Plans the data file: its tensors, their places, and the rows of the checkpoint that each comes from.

Knows shapes and sizes; reads no weight, writes no file and knows no node of the graph.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.models.onnx_export.decoder import Decoder
from serve_app.models.onnx_export.rotary import tabulate

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
FINAL_NORM = "model.norm.weight"
QKV_BIAS = "attn.qkv_proj.Add.bias"
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
class Part:
    """Consecutive rows of one of the checkpoint's tensors."""

    source: str
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix, (N, K) with N outputs, its rows in the checkpoint, and its form in the file."""

    name: str
    """Name of the product's node in the graph, with dots: model.layers.0.attn.o_proj."""
    parts: tuple[Part, ...]
    """The rows, one part after the other: some architectures split what is one product here, others fuse two products."""
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
    """A norm's weights, biases or a constant table."""

    placed: PlacedTensor
    source: tuple[Part, ...] | NDArray[np.float32]
    """The elements in the checkpoint, one part after the other, or the values."""


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


def list_layer_matrices(decoder: Decoder, layer: int) -> dict[str, tuple[tuple[Part, ...], int]]:
    """Return rows and number of columns of a layer's products by their names in the graph."""
    attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
    if decoder.architecture.fused:
        qkv: tuple[Part, ...] = (Part(f"{attention}.qkv_proj.weight", 0, decoder.qkv_width),)
        fused = f"{mlp}.gate_up_proj.weight"
        gate, up = Part(fused, 0, decoder.inner), Part(fused, decoder.inner, decoder.inner)
    else:
        qkv = _list_split(decoder, layer, "weight")
        gate, up = Part(f"{mlp}.gate_proj.weight", 0, decoder.inner), Part(f"{mlp}.up_proj.weight", 0, decoder.inner)
    return {
        "attn.qkv_proj": (qkv, decoder.hidden),
        "attn.o_proj": ((Part(f"{attention}.o_proj.weight", 0, decoder.hidden),), decoder.query_width),
        "mlp.gate_proj": ((gate,), decoder.hidden),
        "mlp.up_proj": ((up,), decoder.hidden),
        "mlp.down_proj": ((Part(f"{mlp}.down_proj.weight", 0, decoder.hidden),), decoder.inner),
    }


def list_layer_vectors(decoder: Decoder, layer: int) -> dict[str, tuple[Part, ...]]:
    """Return the elements of a layer's norms and biases by their names in the graph; all are 1-dimensional tensors."""
    at = f"model.layers.{layer}"
    found: dict[str, tuple[Part, ...]] = {
        f"{at}.{name}.weight": (Part(f"{at}.{name}.weight", 0, decoder.hidden),)
        for name in ("input_layernorm", "post_attention_layernorm")
    }
    if decoder.architecture.qkv_bias:
        found[f"{at}.{QKV_BIAS}"] = _list_split(decoder, layer, "bias")
    if decoder.architecture.qk_norms:
        for name in ("q_norm", "k_norm"):
            found[f"{at}.attn.{name}.layernorm.weight"] = (Part(f"{at}.self_attn.{name}.weight", 0, decoder.head_dim),)
    return found


def _list_split(decoder: Decoder, layer: int, kind: str) -> tuple[Part, ...]:
    """Return queries, keys and values of a checkpoint that has a projection for each."""
    widths = {"q": decoder.query_width, "k": decoder.key_width, "v": decoder.key_width}
    return tuple(Part(f"model.layers.{layer}.self_attn.{name}_proj.{kind}", 0, width) for name, width in widths.items())


def plan_layout(decoder: Decoder, precision: str, block: int) -> Layout:
    """Plan the file for weights in `precision`: fp32, int8, int4 or int4_mixed, `block` of which share a scale."""
    planner = _Planner(block)
    cosines, sines = tabulate(decoder.rotary)
    planner.add_vector("cos_cache", cosines.shape, cosines)
    planner.add_vector("sin_cache", sines.shape, sines)
    bits = _BITS[precision]
    raised = _MIXED_BITS if precision == "int4_mixed" else bits
    for layer in range(decoder.layers):
        at = f"model.layers.{layer}"
        for name, elements in list_layer_vectors(decoder, layer).items():
            planner.add_vector(name, (sum(part.rows for part in elements),), elements)
        for name, (rows, columns) in list_layer_matrices(decoder, layer).items():
            chosen = raised if name == "mlp.down_proj" else bits
            planner.add_matrix(f"{at}.{name}", rows, columns, bits=chosen, transposed=True)
    last = (Part(FINAL_NORM, 0, decoder.hidden),)
    planner.add_vector(f"model.layers.{decoder.layers}.final_norm_layernorm.weight", (decoder.hidden,), last)
    embedding, head = (Part(f"{name}.weight", 0, decoder.vocabulary) for name in (EMBEDDING, HEAD))
    if not decoder.tied or precision == "int8":  # like the builder: with int8 weights the embedding stays in float32
        planner.add_matrix(EMBEDDING, (embedding,), decoder.hidden, bits=32, transposed=False)
    planner.add_matrix(HEAD, (embedding if decoder.tied else head,), decoder.hidden, bits=raised, transposed=False)
    return Layout(planner.vectors, planner.matrices, planner.end)


class _Planner:
    """Places tensors one after the other."""

    def __init__(self, block: int) -> None:
        self.vectors: dict[str, Vector] = {}
        self.matrices: dict[str, Matrix] = {}
        self.end = 0
        self._block = block

    def add_vector(self, name: str, shape: tuple[int, ...], source: tuple[Part, ...] | NDArray[np.float32]) -> None:
        self.vectors[name] = Vector(self._place(name, np.float32, shape), source)

    def add_matrix(self, name: str, parts: tuple[Part, ...], columns: int, *, bits: int, transposed: bool) -> None:
        rows = sum(part.rows for part in parts)
        blocks = -(-columns // self._block)
        # Names of onnxruntime's quantizer.
        base = f"{name}.weight" if name == EMBEDDING else f"{name}.MatMul.weight"
        if bits == 32:
            weight, scales = self._place(base, np.float32, (columns, rows) if transposed else (rows, columns)), None
        else:
            weight = self._place(f"{base}_Q{bits}", np.uint8, (rows, blocks, self._block * bits // 8))
            scales = self._place(f"{base}_scales", np.float32, (rows, blocks))
        self.matrices[name] = Matrix(name, parts, rows, columns, bits, self._block, transposed, weight, scales)

    def _place(self, name: str, kind: type[np.float32] | type[np.uint8], shape: tuple[int, ...]) -> PlacedTensor:
        placed = PlacedTensor(name, kind, shape, -(-self.end // _ALIGNMENT) * _ALIGNMENT)
        self.end = placed.offset + placed.bytes
        return placed
