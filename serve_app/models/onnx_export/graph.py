"""Builds the decoder's graph in the form that `serve_app.engines.onnx.graph` runs.

Node names are those of onnxruntime-genai's builder, so that profiles of both can be compared. Knows the data file's layout, not its
content.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from serve_app.models.onnx_export.decoder import Decoder
from serve_app.models.onnx_export.layout import EMBEDDING, HEAD, QKV_BIAS, Layout, Matrix, PlacedTensor

_TYPES = {np.float32: ir.DataType.FLOAT, np.uint8: ir.DataType.UINT8}
_OPSET, _IR_VERSION = 22, 10
_CONTRIB = "com.microsoft"
_ACCURACY = 4
"""MatMulNBits rounds its input to int8 too and multiplies integers: the fastest level on CPUs, and usual in published models."""
_BATCH, _NEW = "batch_size", "sequence_length"


def save_graph(file: Path, decoder: Decoder, layout: Layout, data_file: str, version: str) -> None:
    """Write the graph to `file`; its weights are in `data_file` beside it."""
    graph = _GraphBuilder(decoder, layout, data_file).build()
    ir.save(ir.Model(graph, ir_version=_IR_VERSION, producer_name="phi-serve", producer_version=version), file)


class _GraphBuilder:
    """Builds the graph node by node."""

    def __init__(self, decoder: Decoder, layout: Layout, data_file: str) -> None:
        self._decoder = decoder
        self._layout = layout
        self._data_file = data_file
        self._nodes: list[ir.Node] = []
        self._constants: dict[str, ir.Value] = {}
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []

    def build(self) -> ir.Graph:
        """Assemble all nodes from the token ids to logits and caches."""
        decoder = self._decoder
        ids = self._add_input("input_ids", ir.DataType.INT64, _BATCH, _NEW)
        logits_at = self._add_input("logits_at", ir.DataType.INT64, "kept")
        last_position = self._add_input("last_position", ir.DataType.INT32, _BATCH)
        total_length = self._add_input("total_length", ir.DataType.INT32)
        ends = (last_position, total_length, self._reference_vector("cos_cache"), self._reference_vector("sin_cache"))
        stream, residual = self._add_embedding(ids), None
        for layer in range(decoder.layers):
            at = f"layers.{layer}"
            normed, stream = self._add_norm(f"{at}.input_layernorm", stream, residual)
            attended = self._add_attention(layer, self._add_queries_keys_values(f"model.{at}", normed), ends)
            residual = self._add_product(f"model.{at}.attn.o_proj", attended)
            normed, stream = self._add_norm(f"{at}.post_attention_layernorm", stream, residual)
            residual = self._add_feed_forward(f"model.{at}.mlp", normed)
        normed, _ = self._add_norm(f"layers.{decoder.layers}.final_norm_layernorm", stream, residual, last=True)
        kept = self._add_node("Gather", "/lm_head/prune/Gather", [normed, logits_at], axis=1)
        logits = self._add_product(HEAD, kept)
        logits.name, logits.type = "logits", ir.TensorType(ir.DataType.FLOAT)
        logits.shape = ir.Shape([_BATCH, "kept", decoder.vocabulary])
        return ir.Graph(
            self._inputs,
            [logits, *self._outputs],
            nodes=self._nodes,
            initializers=list(self._constants.values()),
            opset_imports={"": _OPSET, _CONTRIB: 1},
            name="decoder",
        )

    def _add_input(self, name: str, kind: ir.DataType, *shape: str | int) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))
        self._inputs.append(value)
        return value

    def _add_node(
        self,
        operator: str,
        name: str,
        inputs: Sequence[ir.Value | None],
        domain: str = "",
        outputs: int = 1,
        **attributes: int | float | Sequence[int],
    ) -> ir.Value:
        """Append a node; return its first output. The names of all outputs end with their number."""
        results = [ir.Value(name=f"{name}/output_{index}") for index in range(outputs)]
        self._nodes.append(ir.node(operator, inputs, attributes, domain=domain, outputs=results, name=name))
        return results[0]

    def _reference(self, placed: PlacedTensor, name: str | None = None, shape: tuple[int, ...] | None = None) -> ir.Value:
        """Return the constant in the data file, under another name or shape than planned where given."""
        name, shape = name or placed.name, shape or placed.shape
        if name not in self._constants:
            tensor = ir.ExternalTensor(
                self._data_file, placed.offset, placed.bytes, _TYPES[placed.type], shape=ir.Shape(shape), name=name
            )
            self._constants[name] = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(shape), const_value=tensor)
        return self._constants[name]

    def _add_integers(self, *values: int) -> ir.Value:
        name = f"/model/constants/INT64/{list(values)}"
        if name not in self._constants:
            tensor = ir.tensor(np.asarray(values, np.int64), name=name)
            self._constants[name] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(values)]), const_value=tensor
            )
        return self._constants[name]

    def _reference_vector(self, name: str) -> ir.Value:
        return self._reference(self._layout.vectors[name].placed)

    def _add_embedding(self, ids: ir.Value) -> ir.Value:
        """Look up token ids, in the head's weights where the head is quantized and tied."""
        table = self._layout.matrices.get(EMBEDDING, self._layout.matrices[HEAD])
        if table.scales is None:
            return self._add_node("Gather", "/model/embed_tokens/Gather", [self._reference(table.weight), ids])
        # The same bytes under a second name and shape: a Reshape would be computed at start and keep a copy.
        width = table.blocks * table.block
        codes = self._reference(table.weight, f"{EMBEDDING}.weight_Q{table.bits}", (table.rows, width * table.bits // 8))
        rows = self._add_node(
            "GatherBlockQuantized",
            "/model/embed_tokens/GatherBlockQuantized",
            [codes, ids, self._reference(table.scales)],
            _CONTRIB,
            bits=table.bits,
            block_size=table.block,
            gather_axis=0,
            quantize_axis=1,
        )
        if width == table.columns:
            return rows
        cut = [self._add_integers(0), self._add_integers(table.columns), self._add_integers(-1)]
        return self._add_node("Slice", "/model/embed_tokens/Slice", [rows, *cut])

    def _add_norm(self, name: str, stream: ir.Value, residual: ir.Value | None, last: bool = False) -> tuple[ir.Value, ir.Value]:
        """Add a layer's output, `residual`, to the stream and normalize it; return the result and the stream."""
        weight = self._reference_vector(f"model.{name}.weight")
        at = _node_name(f"model.{name}")
        epsilon = self._decoder.epsilon
        if residual is None:
            plain = "SimplifiedLayerNormalization"
            return self._add_node(plain, f"{at}/LayerNorm", [stream, weight], epsilon=epsilon, axis=-1, stash_type=1), stream
        outputs = 1 if last else 4
        both = "SkipSimplifiedLayerNormalization"
        normed = self._add_node(both, f"{at}/SkipLayerNorm", [stream, residual, weight], _CONTRIB, outputs, epsilon=epsilon)
        if last:
            return normed, stream
        _, mean, deviation, total = self._nodes[-1].outputs
        mean.name = deviation.name = ""  # unused outputs
        return normed, total

    def _add_product(self, name: str, value: ir.Value) -> ir.Value:
        """Multiply by the matrix `name` of the layout."""
        matrix = self._layout.matrices[name]
        at = f"{_node_name(name)}/MatMul"
        if matrix.scales is not None:
            return self._add_block_product(at, matrix, matrix.scales, value)
        weight = self._reference(matrix.weight)
        if matrix.transposed:
            return self._add_node("MatMul", at, [value, weight])
        # The head is stored like the embedding: a Transpose would be computed at start and keep a copy.
        return self._add_node("FusedMatMul", at, [value, weight], _CONTRIB, transB=1)

    def _add_block_product(self, name: str, matrix: Matrix, scales: PlacedTensor, value: ir.Value) -> ir.Value:
        return self._add_node(
            "MatMulNBits",
            f"{name}_Q{matrix.bits}",
            [value, self._reference(matrix.weight), self._reference(scales)],
            _CONTRIB,
            accuracy_level=_ACCURACY,
            bits=matrix.bits,
            block_size=matrix.block,
            K=matrix.columns,
            N=matrix.rows,
        )

    def _add_queries_keys_values(self, name: str, normed: ir.Value) -> tuple[ir.Value | None, ...]:
        """Project a layer's input; return queries, keys and values together, or one by one where the first two are normalized."""
        decoder, at = self._decoder, f"{_node_name(name)}/attn"
        together = self._add_product(f"{name}.attn.qkv_proj", normed)
        if decoder.architecture.qkv_bias:
            together = self._add_node("Add", f"{at}/qkv_proj/Add", [together, self._reference_vector(f"{name}.{QKV_BIAS}")])
        if not decoder.architecture.qk_norms:
            return together, None, None
        widths = (decoder.query_width, decoder.key_width, decoder.key_width)
        self._add_node("Split", f"{at}/qkv_proj/Split", [together, self._add_integers(*widths)], outputs=3, axis=-1)
        queries, keys, values = self._nodes[-1].outputs
        return (*(self._add_head_norm(name, part, value) for part, value in (("q_norm", queries), ("k_norm", keys))), values)

    def _add_head_norm(self, name: str, part: str, value: ir.Value) -> ir.Value:
        """Normalize every head's queries or keys."""
        decoder, at = self._decoder, f"{_node_name(name)}/attn/{part}"
        width = decoder.query_width if part == "q_norm" else decoder.key_width
        split = self._add_node("Reshape", f"{at}/Reshape_1", [value, self._add_integers(0, -1, decoder.head_dim)])
        normed = self._add_node(
            "SimplifiedLayerNormalization",
            f"{at}/SimplifiedLayerNormalization",
            [split, self._reference_vector(f"{name}.attn.{part}.layernorm.weight")],
            epsilon=decoder.epsilon,
            axis=-1,
            stash_type=1,
        )
        return self._add_node("Reshape", f"{at}/Reshape_2", [normed, self._add_integers(0, -1, width)])

    def _add_attention(self, layer: int, qkv: Sequence[ir.Value | None], ends: Sequence[ir.Value]) -> ir.Value:
        """Rotate, append keys and values to the layer's cache, attend."""
        decoder = self._decoder
        shape = (_BATCH, decoder.kv_heads, "past_sequence_length", decoder.head_dim)
        past = [self._add_input(f"past_key_values.{layer}.{part}", ir.DataType.FLOAT, *shape) for part in ("key", "value")]
        attended = self._add_node(
            "GroupQueryAttention",
            f"/model/layers.{layer}/attn/GroupQueryAttention",
            [*qkv, *past, *ends],
            _CONTRIB,
            outputs=3,
            num_heads=decoder.heads,
            kv_num_heads=decoder.kv_heads,
            scale=float(1 / np.sqrt(decoder.head_dim)),
            local_window_size=decoder.window or -1,
            softcap=0.0,
            do_rotary=1,
            rotary_interleaved=0,
        )
        for value, part in zip(self._nodes[-1].outputs[1:], ("key", "value"), strict=True):
            value.name, value.type = f"present.{layer}.{part}", ir.TensorType(ir.DataType.FLOAT)
            value.shape = ir.Shape((_BATCH, decoder.kv_heads, "total_sequence_length", decoder.head_dim))
            self._outputs.append(value)
        return attended

    def _add_feed_forward(self, name: str, value: ir.Value) -> ir.Value:
        """Apply the gated SiLU."""
        at = _node_name(name)
        gate, up = self._add_product(f"{name}.gate_proj", value), self._add_product(f"{name}.up_proj", value)
        swish = self._add_node("Mul", f"{at}/act_fn/Mul", [gate, self._add_node("Sigmoid", f"{at}/act_fn/Sigmoid", [gate])])
        return self._add_product(f"{name}.down_proj", self._add_node("Mul", f"{at}/Mul", [swish, up]))


def _node_name(name: str) -> str:
    """Return the node's name for a tensor's name: model.layers.0.mlp becomes /model/layers.0/mlp."""
    return "/" + re.sub(r"\.(?!\d)", "/", name)
