"""Edits the decoder graph that onnxruntime-genai's builder writes, so that it suits a batching engine; weights stay untouched.

- `logits_at` (K,) int64: the positions whose logits are returned. The builder prunes the head's input to the last position.
- `last_position` (B,) int32 and `total_length` () int32: where each row ends, and the longest row's length. The builder derives
  both from an attention mask of B x T numbers, at every step.
- The rotary tables of the original context, as constants. The builder writes an If, which copies them at every step, or else the
  tables of the extended context, which this project never uses (`serve_app.engines.onnx.engine.require_context`).
"""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

_PRUNE = "/lm_head/prune/Gather"
_MASK = "/model/attn_mask_reformat/attn_mask_subgraph"
_ROW_ENDS, _LONGEST = f"{_MASK}/Sub/Cast", f"{_MASK}/Gather/Cast"
"""The builder's names of the nodes whose work the engine does."""


def adapt(file: Path) -> None:
    """Edit the graph in `file`. Raises `LookupError` when it lacks a node that the builder is known to write."""
    model = ir.load(file)
    nodes = {node.name: node for node in model.graph}
    for name in (_PRUNE, _ROW_ENDS, _LONGEST):
        if name not in nodes:
            raise LookupError(f"no node {name}")
    _choose_positions(model, nodes[_PRUNE])
    _replace(nodes[_ROW_ENDS], _add_input(model, "last_position", ir.DataType.INT32, "batch_size"))
    _replace(nodes[_LONGEST], _add_input(model, "total_length", ir.DataType.INT32))
    for choice in [node for node in nodes.values() if node.op_type == "If"]:
        _keep_original_tables(model, choice)
    RemoveUnusedNodesPass()(model)
    model.graph.inputs.remove(next(value for value in model.graph.inputs if value.name == "attention_mask"))
    ir.save(model, file)


def _add_input(model: ir.Model, name: str, kind: ir.DataType, *shape: str) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))
    model.graph.inputs.append(value)
    return value


def _replace(node: ir.Node, value: ir.Value) -> None:
    node.outputs[0].replace_all_uses_with(value)


def _choose_positions(model: ir.Model, gather: ir.Node) -> None:
    """Let an input be the indices of the head's Gather; with several of them the Unsqueeze behind it is not needed."""
    gather.replace_input_with(1, _add_input(model, "logits_at", ir.DataType.INT64, "kept"))
    for value in (gather.outputs[0], model.graph.outputs[0]):
        if value.shape is not None:
            value.shape = ir.Shape(["batch_size", "kept", value.shape[-1]])
    ((unsqueeze, _),) = gather.outputs[0].uses()
    _replace(unsqueeze, gather.outputs[0])


def _keep_original_tables(model: ir.Model, choice: ir.Node) -> None:
    """Replace the choice between the tables of the extended and of the original context by the latter."""
    original = choice.attributes["else_branch"].as_graph()
    for value, chosen in zip(choice.outputs, original.outputs, strict=True):
        table = chosen.producer()
        assert table is not None
        constant = ir.Value(name=chosen.name, const_value=table.attributes["value"].as_tensor())
        model.graph.register_initializer(constant)
        value.replace_all_uses_with(constant)
