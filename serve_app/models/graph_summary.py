"""Reads a decoder graph's sizes, number formats and rotary tables, and compares them with config.json.

Reads a graph as a builder wrote it or as `onnx_graph.adapt_model` edited it. Only the tables are read from the data files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from serve_app.errors import ModelUnusable
from serve_app.models.onnx_graph import find_attentions, find_constant, find_head, find_rotary_tables
from serve_app.models.rope import DEFAULT_THETA, compute_divisors, read_rope

_STORED_BITS = {ir.DataType.INT4: 4, ir.DataType.UINT4: 4, ir.DataType.INT8: 8, ir.DataType.UINT8: 8}
_ANGLE_TOLERANCE = 2e-3
"""Radians; float16 tables differ by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSummary:
    """The model's sizes and number formats, from its graph."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocabulary_size: int
    bits: frozenset[int]
    """Bits of the quantized weights; empty when there are none."""
    block_size: int
    """Weights that share a scale; 0 without quantized weights."""
    accuracy_level: int
    """Accuracy level of the quantized products: 4 computes in int8, 0 and 1 in float32."""
    rotary: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    """Cosines and sines (positions, half of the rotated width); None when the graph has no such tables."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """The settings' names for these weights, the best match first."""
        if self.bits == {4, 8}:
            return ("int4_mixed", "int4")
        return ("fp32",) if not self.bits else tuple(f"int{bits}" for bits in self.bits)


def summarize_graph(model: ir.Model, read: Callable[[ir.TensorProtocol], NDArray[Any]]) -> GraphSummary:
    """Summarize an adapted graph; `read` returns the tables' numbers. Raises `LookupError` with words that follow "the graph"."""
    graph = model.graph
    attentions = find_attentions(graph)
    logits = next(value for value in graph.outputs if value.name == "logits")
    vocabulary_size = logits.shape[-1] if logits.shape is not None else None
    assert isinstance(vocabulary_size, int)  # an adapted graph has it
    head = find_head(logits)
    query = attentions[0].attributes
    heads, kv_heads = query.get_int("num_heads", 0), query.get_int("kv_num_heads", 0)
    bits, blocks, levels = _find_quantization(graph)
    tables = {(id(cosines), id(sines)): (cosines, sines) for cosines, sines in find_rotary_tables(graph)}
    if len(tables) > 1:
        raise LookupError("has several rotary tables, and a model of this family has one")
    return GraphSummary(
        layers=len(attentions),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_find_head_dim(attentions[0]),
        hidden_size=_find_hidden_size(head),
        vocabulary_size=vocabulary_size,
        bits=frozenset(bits),
        block_size=max(blocks, default=0),
        accuracy_level=max(levels, default=0),
        rotary=_read_tables(*next(iter(tables.values())), read) if tables else None,
    )


def _find_head_dim(attention: ir.Node) -> int:
    """Return the width of one head, from the cache, or else from the query, which may be fused with keys and values."""
    past, query = attention.inputs[3], attention.inputs[0]
    if past is not None and past.shape is not None and isinstance(past.shape[-1], int):
        return past.shape[-1]
    heads, kv_heads = (attention.attributes.get_int(name, 0) for name in ("num_heads", "kv_num_heads"))
    together = heads if attention.inputs[1] is not None else heads + 2 * kv_heads
    if query is None or query.shape is None or not isinstance(query.shape[-1], int) or not together:
        raise LookupError("does not say how wide its heads are")
    return query.shape[-1] // together


def _find_hidden_size(head: ir.Node) -> int:
    """Return the width of the hidden states that the head takes."""
    width = head.attributes.get_int("K", 0)
    weights = head.inputs[1]
    node = None if weights is None else weights.producer()
    if node is not None and node.op_type == "DequantizeLinear":
        weights = node.inputs[0]
    if not width and weights is not None and weights.shape is not None and isinstance(weights.shape[0], int):
        width = weights.shape[0]
    if not width:
        raise LookupError("does not say how wide its hidden states are")
    return width


def _find_quantization(graph: ir.Graph) -> tuple[set[int], set[int], set[int]]:
    """Return the bits, block sizes and accuracy levels of the quantized weights; embeddings do not count."""
    bits, blocks, levels = set(), set(), set()
    for node in graph:
        if node.op_type == "MatMulNBits":
            bits.add(node.attributes.get_int("bits", 4))
            blocks.add(node.attributes.get_int("block_size", 0))
            levels.add(node.attributes.get_int("accuracy_level", 0))
        elif node.op_type == "DequantizeLinear" and node.inputs[0] is not None and node.inputs[0].dtype in _STORED_BITS:
            bits.add(_STORED_BITS[node.inputs[0].dtype])
            blocks.add(node.attributes.get_int("block_size", 0))
    return bits, blocks, levels


def _read_tables(
    cosines: ir.Value, sines: ir.Value, read: Callable[[ir.TensorProtocol], NDArray[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    tensors = find_constant(cosines), find_constant(sines)
    if tensors[0] is None or tensors[1] is None:
        return None
    first, second = (read(tensor).astype(np.float32) for tensor in tensors if tensor is not None)
    return (first, second) if first.ndim == 2 and first.shape == second.shape else None


def require_model(found: GraphSummary, config: Mapping[str, Any], file: str) -> None:
    """Raise `ModelUnusable`, naming the difference, when the graph in `file` does not match `config`."""
    heads = int(config.get("num_attention_heads", 0))
    hidden = int(config.get("hidden_size", 0))
    for what, actual, wanted in (
        ("layers", found.layers, config.get("num_hidden_layers")),
        ("attention heads", found.heads, heads),
        ("key and value heads", found.kv_heads, config.get("num_key_value_heads") or heads),
        ("dimensions of a head (head_dim)", found.head_dim, config.get("head_dim") or hidden // max(heads, 1)),
        ("dimensions of a hidden state (hidden_size)", found.hidden_size, hidden),
        ("tokens in its vocabulary", found.vocabulary_size, config.get("vocab_size")),
    ):
        if actual != wanted:
            raise ModelUnusable(f"{file} has {actual} {what}, but config.json of the model's path says {wanted}: {_FIX}")
    _require_tables(found, config, file)


_FIX = "it is another model's graph; set the model's path to its model, or `exported` to a folder built from the model's path"


def _require_tables(found: GraphSummary, config: Mapping[str, Any], file: str) -> None:
    """Compare the angles at one position with those of the configuration; unknown kinds of scaling are not compared."""
    kind, rope = read_rope(config)
    if found.rotary is None or kind not in ("default", "linear", "llama3", "longrope"):
        return
    cosines, sines = (table[min(64, len(table) - 1)].astype(np.float64) for table in found.rotary)
    half = len(cosines)
    base = float(rope.get("rope_theta") or DEFAULT_THETA)
    frequencies = base ** -(np.arange(half) / half)
    position = min(64, len(found.rotary[0]) - 1)

    def matches(factors: object) -> bool:
        scale = np.asarray(1.0 if factors is None else factors, np.float64)
        if scale.ndim and len(scale) != half:
            return False
        angles = position * frequencies / scale
        off = np.abs(sines * np.cos(angles) - cosines * np.sin(angles)) / np.hypot(sines, cosines)
        return bool(np.all(off < _ANGLE_TOLERANCE))

    if matches(rope.get("short_factor", ()) if kind == "longrope" else compute_divisors(kind, rope, 2 * half)):
        return
    if kind == "longrope" and matches(rope.get("long_factor", ())):
        raise ModelUnusable(
            f"{file} has only the rotary tables of the extended context, which are wrong for prompts within the original context; "
            "build it again with a release that writes both, or with `phi-serve export onnx`"
        )
    raise ModelUnusable(f"{file} has rotary tables that do not match config.json of the model's path: {_FIX}")
