"""Builds the graph of an encoder: input_ids and attention_mask (B, S) int64 in, last_hidden_state (B, S, hidden) out.

Attention is onnxruntime's own operator, with the three projections as one matrix. Positions and token type are one table, added to
the words. Knows no pooling: the engine does it, for graphs of other exporters too.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from serve_app.models.encoder_export.architecture import RELATIVE_BIAS, EncoderCheckpoint, EncoderShape, find_layer

GRAPH_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
_OPSET, _IR_VERSION = 22, 10
_CONTRIB = "com.microsoft"
_BATCH, _LENGTH = "batch_size", "sequence_length"
_MAX_DISTANCE = 128
"""MPNet's distances above this share a bucket."""


def save_graph(
    folder: Path, shape: EncoderShape, checkpoint: EncoderCheckpoint, version: str, report: Callable[[float], None]
) -> None:
    """Write graph and data file into `folder`; `report` gets the fraction of the weights that are written."""
    graph = _GraphBuilder(shape, checkpoint, report).build()
    model = ir.Model(graph, ir_version=_IR_VERSION, producer_name="phi-serve", producer_version=version)
    ir.save(model, folder / GRAPH_FILE, external_data=DATA_FILE, size_threshold_bytes=1024)


class _GraphBuilder:
    """Builds the graph node by node."""

    def __init__(self, shape: EncoderShape, checkpoint: EncoderCheckpoint, report: Callable[[float], None]) -> None:
        self._shape = shape
        self._checkpoint = checkpoint
        self._report = report
        self._nodes: list[ir.Node] = []
        self._constants: dict[str, ir.Value] = {}
        self._written = 0

    def build(self) -> ir.Graph:
        """Assemble all nodes."""
        shape = self._shape
        ids, mask = (
            ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([_BATCH, _LENGTH]))
            for name in ("input_ids", "attention_mask")
        )
        length = self._add("Gather", "length", [self._add("Shape", "shape", [ids]), self._integers("one", 1)])
        narrow_mask = self._add("Cast", "mask", [mask], to=int(ir.DataType.INT32))
        bias = self._add_distance_bias(length) if shape.buckets else None
        stream = self._add_embeddings(ids, length)
        for layer in range(shape.layers):
            stream = self._add_layer(layer, stream, narrow_mask, bias)
        stream.name, stream.type = "last_hidden_state", ir.TensorType(ir.DataType.FLOAT)
        stream.shape = ir.Shape([_BATCH, _LENGTH, shape.hidden])
        return ir.Graph(
            [ids, mask],
            [stream],
            nodes=self._nodes,
            initializers=list(self._constants.values()),
            opset_imports={"": _OPSET, _CONTRIB: 1},
            name="encoder",
        )

    def _add_embeddings(self, ids: ir.Value, length: ir.Value) -> ir.Value:
        shape, read = self._shape, self._checkpoint.read
        positions = shape.positions - shape.first_position

        def read_positions() -> NDArray[np.float32]:
            table: NDArray[np.float32] = read("embeddings.position_embeddings.weight")[shape.first_position :]
            return table + read("embeddings.token_type_embeddings.weight")[0] if shape.token_types else table

        words = self._weights("words", (shape.vocabulary, shape.hidden), lambda: read("embeddings.word_embeddings.weight"))
        table = self._weights("positions", (positions, shape.hidden), read_positions)
        looked_up = self._add("Gather", "embeddings/words", [words, ids])
        first, axis = self._integers("zero", 0), self._integers("axis", 0)
        placed = self._add("Slice", "embeddings/positions", [table, first, length, axis])
        total = self._add("Add", "embeddings/sum", [looked_up, placed])
        norm = [self._vector(f"embeddings.LayerNorm.{part}") for part in ("weight", "bias")]
        return self._add("LayerNormalization", "embeddings/norm", [total, *norm], axis=-1, epsilon=shape.epsilon)

    def _add_layer(self, layer: int, stream: ir.Value, mask: ir.Value, bias: ir.Value | None) -> ir.Value:
        """Add one layer: attention and feed-forward, each added to the stream and normalized."""
        names, at, shape, read = find_layer(self._shape, layer), f"layers.{layer}", self._shape, self._checkpoint.read
        parts = (names.query, names.key, names.value)
        hidden = shape.hidden
        projections = self._weights(
            f"{at}/qkv", (hidden, 3 * hidden), lambda: np.concatenate([read(f"{each}.weight") for each in parts]).T
        )
        biases = self._weights(f"{at}/qkv_bias", (3 * hidden,), lambda: np.concatenate([read(f"{each}.bias") for each in parts]))
        inputs = [stream, projections, biases, mask, *([None, bias] if bias is not None else [])]
        attended = self._add("Attention", f"{at}/attention", inputs, _CONTRIB, num_heads=shape.heads)
        stream = self._add_residual(f"{at}/attended", attended, stream, names.attended, names.attention_norm)
        product = self._add("MatMul", f"{at}/up", [stream, self._matrix(names.up, hidden, shape.inner)])
        wide = self._add_activation(f"{at}/up", product, self._vector(f"{names.up}.bias"))
        return self._add_residual(f"{at}/down", wide, stream, names.down, names.output_norm)

    def _add_activation(self, at: str, product: ir.Value, bias: ir.Value) -> ir.Value:
        if self._shape.activation == "gelu":
            return self._add("BiasGelu", f"{at}/gelu", [product, bias], _CONTRIB)
        total = self._add("Add", f"{at}/bias", [product, bias])
        if self._shape.activation == "relu":
            return self._add("Relu", f"{at}/relu", [total])
        return self._add("Gelu", f"{at}/gelu", [total], approximate="tanh")

    def _add_residual(self, at: str, value: ir.Value, stream: ir.Value, dense: str, norm: str) -> ir.Value:
        """Multiply by a dense matrix, add the stream and the matrix's bias, and normalize."""
        rows = self._shape.inner if at.endswith("down") else self._shape.hidden
        product = self._add("MatMul", f"{at}/product", [value, self._matrix(dense, rows, self._shape.hidden)])
        vectors = [self._vector(name) for name in (f"{norm}.weight", f"{norm}.bias", f"{dense}.bias")]
        return self._add("SkipLayerNormalization", f"{at}/norm", [product, stream, *vectors], _CONTRIB, epsilon=self._shape.epsilon)

    def _add_distance_bias(self, length: ir.Value) -> ir.Value:
        """Add attention's bias by distance: (1, heads, S, S)."""
        shape = self._shape
        most = shape.positions - shape.first_position
        table = self._weights(
            "distances",
            (2 * most - 1, shape.heads),
            lambda: self._checkpoint.read(RELATIVE_BIAS)[find_buckets(np.arange(1 - most, most), shape.buckets)],
        )
        zero, one, last = (self._scalar(name, value) for name, value in (("start", 0), ("step", 1), ("most", most - 1)))
        size = self._add("Squeeze", "distances/size", [length])
        steps = self._add("Range", "distances/range", [zero, size, one])
        keys = self._add("Unsqueeze", "distances/keys", [steps, self._integers("axis", 0)])
        queries = self._add("Unsqueeze", "distances/queries", [steps, self._integers("one", 1)])
        shifted = self._add("Add", "distances/shift", [self._add("Sub", "distances/difference", [keys, queries]), last])
        picked = self._add("Gather", "distances/gather", [table, shifted])
        turned = self._add("Transpose", "distances/transpose", [picked], perm=[2, 0, 1])
        return self._add("Unsqueeze", "distances/bias", [turned, self._integers("axis", 0)])

    def _add(
        self,
        operator: str,
        name: str,
        inputs: Sequence[ir.Value | None],
        domain: str = "",
        **attributes: int | float | str | Sequence[int],
    ) -> ir.Value:
        """Append a node and return its output."""
        result = ir.Value(name=f"/{name}/output")
        self._nodes.append(ir.node(operator, inputs, attributes, domain=domain, outputs=[result], name=f"/{name}"))
        return result

    def _weights(self, name: str, shape: tuple[int, ...], read: Callable[[], NDArray[np.float32]]) -> ir.Value:
        """Return a constant whose content is read only when it is written."""

        def load() -> ir.TensorProtocol:
            values = np.ascontiguousarray(read(), np.float32)
            self._written += values.size
            self._report(min(1.0, self._written / self._shape.weights))
            return ir.Tensor(values, name=name)

        tensor = ir.LazyTensor(load, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name, cache=False)
        return self._keep(name, tensor)

    def _vector(self, name: str) -> ir.Value:
        size = self._shape.inner if name.endswith((".intermediate.dense.bias", ".ffn.lin1.bias")) else self._shape.hidden
        return self._weights(name, (size,), lambda: self._checkpoint.read(name))

    def _matrix(self, name: str, rows: int, columns: int) -> ir.Value:
        """Return a dense matrix (rows, columns), the transpose of the checkpoint's."""
        return self._weights(f"{name}.weight", (rows, columns), lambda: self._checkpoint.read(f"{name}.weight").T)

    def _integers(self, name: str, *values: int) -> ir.Value:
        return self._keep(name, ir.tensor(np.asarray(values, np.int64), name=name))

    def _scalar(self, name: str, value: int) -> ir.Value:
        return self._keep(name, ir.tensor(np.asarray(value, np.int64), name=name))

    def _keep(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self._constants:
            shape = ir.Shape(tensor.shape.numpy())
            self._constants[name] = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        return self._constants[name]


def find_buckets(distances: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    """Return MPNet's bucket of each distance from query to key: T5's rule, half of the buckets for each direction."""
    half = buckets // 2
    exact = half // 2
    away = np.abs(distances)
    with np.errstate(divide="ignore"):
        far = exact + (np.log(away.astype(np.float32) / exact) / np.log(_MAX_DISTANCE / exact) * (half - exact))
    bucket = np.where(away < exact, away, np.minimum(np.where(away < exact, 0, far).astype(np.int64), half - 1))
    found: NDArray[np.int64] = bucket + np.where(distances > 0, half, 0)
    return found
