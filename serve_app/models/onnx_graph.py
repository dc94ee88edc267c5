"""Edits the decoder graph of onnxruntime-genai's builder so that it suits a batching engine; weights stay unchanged.

- `logits_at` (K,) int64: the positions whose logits are returned. The builder's graph computes all positions, or the last one only.
- `last_position` (B,) int32 and `total_length` () int32: where each row ends, and the longest row's length. The builder's graph
  derives both from an attention mask of B x T numbers at every step; in some releases the tokens' positions are another input.
- The rotary tables of the original context, as constants. The builder's graph has an If, which copies them at every step. The
  tables of the extended context are never used here (`serve_app.engines.onnx.engine.require_context`).

Nodes are found by their operator and their connections, because each release names them differently.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

_PRODUCTS = frozenset({"MatMul", "MatMulNBits"})
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Tanh", "Where", "Cast", "Identity"})
"""Operators between the head's product and the logits: bias, scale, mask, soft cap, cast."""
_ROW_ENDS, _LONGEST = 5, 6
"""Numbers of GroupQueryAttention's inputs seqlens_k and total_sequence_length."""


def adapt(file: Path) -> None:
    """Edit the graph in `file`. Raises `LookupError` as `adapt_model` does."""
    model = ir.load(file)
    adapt_model(model)
    ir.save(model, file)


def adapt_model(model: ir.Model) -> None:
    """Edit the graph in memory. Raises `LookupError` with words that follow "the graph" when it lacks a part or has another."""
    graph = model.graph
    inputs = {value.name: value for value in graph.inputs}
    if "logits_at" in inputs:
        raise LookupError("was adapted by phi-serve already, and manifest.json is missing")
    if "input_ids" not in inputs:
        raise LookupError("has no input input_ids (it was built without its embeddings)")
    _remove_unused(graph)
    graph.sort()  # some releases do not write the nodes in topological order
    attentions = find_attentions(graph)
    _name_caches(graph, attentions)
    logits = next((value for value in graph.outputs if value.name == "logits"), None)
    if logits is None:
        raise LookupError("has no output logits (it was built without its head)")
    _select_positions(graph, logits)
    last = _add_input(graph, "last_position", ir.DataType.INT32, "batch_size")
    longest = _add_input(graph, "total_length", ir.DataType.INT32)
    for attention in attentions:
        attention.replace_input_with(_ROW_ENDS, last)
        attention.replace_input_with(_LONGEST, longest)
    if "position_ids" in inputs:
        _compute_positions(graph, inputs["position_ids"], inputs["input_ids"], last)
    for choice in [node for node in graph if node.op_type == "If"]:
        _keep_original_tables(graph, choice)
    _remove_other_outputs(graph)
    _remove_unused(graph)
    _remove_unused_inputs(graph)


def find_attentions(graph: ir.Graph) -> list[ir.Node]:
    """Return the attention nodes, one per layer, first layer first; raises `LookupError` for another kind of attention."""
    found = [node for node in graph if node.op_type == "GroupQueryAttention"]
    other_kinds = {node.op_type for node in graph if "Attention" in node.op_type} - {"GroupQueryAttention"}
    if other_kinds or not found:
        kind = ", ".join(sorted(other_kinds)) or "no attention operator"
        raise LookupError(f"has {kind} in place of GroupQueryAttention (it was built for another device or precision)")
    return found


def find_head(logits: ir.Value) -> ir.Node:
    """Return the product of hidden states and head that computes `logits`; raises `LookupError` when there is none."""
    node = logits.producer()
    while node is not None and node.op_type in _ELEMENTWISE:
        computed = [value for value in node.inputs if value is not None and find_constant(value) is None]
        node = computed[0].producer() if len(computed) == 1 else None
    if node is None or node.op_type not in _PRODUCTS:
        raise LookupError("computes its logits in an unknown way: no product of hidden states and a head is found behind them")
    return node


def find_constant(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor of a constant value; None for other values."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return ir.convenience.get_const_tensor(value)


def find_rotary_tables(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield the cosines and sines of each node with rotary embedding; usually all nodes share a pair."""
    for node in graph:
        first = None
        if node.op_type == "GroupQueryAttention" and node.attributes.get_int("do_rotary", 0) == 1:
            first = 7
        elif node.op_type == "RotaryEmbedding":
            first = 2 if node.domain else 1
        if first is not None and len(node.inputs) > first + 1:
            cosines, sines = node.inputs[first], node.inputs[first + 1]
            if cosines is not None and sines is not None:
                yield cosines, sines


def _name_caches(graph: ir.Graph, attentions: list[ir.Node]) -> None:
    """Rename every layer's caches for the engine; raises `LookupError` unless they are float32 inputs and outputs."""
    for layer, node in enumerate(attentions):
        for at, what in ((0, "key"), (1, "value")):
            past, present = node.inputs[3 + at], node.outputs[1 + at] if len(node.outputs) > 1 + at else None
            if past is None or past not in graph.inputs or present is None or present not in graph.outputs:
                raise LookupError(f"keeps no cache of the {what}s of layer {layer} between calls")
            if past.dtype != ir.DataType.FLOAT:
                kind = "an unknown type" if past.dtype is None else past.dtype.name.lower()
                raise LookupError(f"keeps its caches in {kind}, and the ONNX group in float32 (it was built for a GPU)")
            past.name, present.name = f"past_key_values.{layer}.{what}", f"present.{layer}.{what}"


def _add_input(graph: ir.Graph, name: str, kind: ir.DataType, *shape: str) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))
    graph.inputs.append(value)
    return value


def _add_node(
    graph: ir.Graph, before: ir.Node, kind: str, inputs: list[ir.Value], output_kind: ir.DataType, **attributes: int
) -> ir.Value:
    """Insert a node with one output of type `output_kind`, named after the node; return the output."""
    name = f"/phi_serve/{kind}_{sum(node.op_type == kind for node in graph)}"
    output = ir.Value(name=f"{name}/output_0", type=ir.TensorType(output_kind))
    graph.insert_before(before, ir.node(kind, inputs, attributes=attributes, outputs=[output], name=name))
    return output


def _select_positions(graph: ir.Graph, logits: ir.Value) -> None:
    """Let the head compute only the positions `logits_at`, in float32."""
    head = find_head(logits)
    hidden = head.inputs[0]
    if hidden is None:
        raise LookupError("has a head without an input")
    whole = _find_unpruned(hidden)
    if whole is hidden and logits.shape is not None and len(logits.shape) == 3 and logits.shape[1] == 1:
        raise LookupError("computes the last position's logits alone, and how it selects that position is unknown")
    kind = hidden.dtype or ir.DataType.FLOAT
    kept = _add_node(graph, head, "Gather", [whole, _add_input(graph, "logits_at", ir.DataType.INT64, "kept")], kind, axis=1)
    head.replace_input_with(0, kept)
    logits.shape = ir.Shape(["batch_size", "kept", _find_vocabulary_size(head, logits)])
    if logits.dtype != ir.DataType.FLOAT:
        _cast_output(graph, logits)


def _find_unpruned(hidden: ir.Value) -> ir.Value:
    """Return the hidden states of all positions where `hidden` has the last position only; else `hidden`.

    The builder selects the last position by Gather with the index -1 and Unsqueeze, or with [-1] and no Unsqueeze.
    """
    node = hidden.producer()
    if node is not None and node.op_type in ("Unsqueeze", "Reshape") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 1:
        return hidden
    states, index = node.inputs
    number = None if index is None else find_constant(index)
    if states is None or number is None or number.numpy().reshape(-1).tolist() != [-1]:
        return hidden
    return states


def _find_vocabulary_size(head: ir.Node, logits: ir.Value) -> int:
    """Return the size of the vocabulary; raises `LookupError` when the graph does not have it."""
    weights = head.inputs[1]
    for shape in (logits.shape, None if weights is None else weights.shape):
        if shape is not None and isinstance(shape[-1], int):
            return shape[-1]
    raise LookupError("does not say how many logits it computes")


def _cast_output(graph: ir.Graph, logits: ir.Value) -> None:
    """Replace the output `logits` by a float32 copy."""
    node = logits.producer()
    assert node is not None  # `find_head` found one
    logits.name = "/phi_serve/logits"
    cast = ir.Value(name="logits", type=ir.TensorType(ir.DataType.FLOAT), shape=logits.shape)
    to = {"to": int(ir.DataType.FLOAT)}
    graph.insert_after(node, ir.node("Cast", [logits], attributes=to, outputs=[cast], name="/phi_serve/logits/Cast"))
    graph.outputs[list(graph.outputs).index(logits)] = cast


def _compute_positions(graph: ir.Graph, given: ir.Value, ids: ir.Value, last: ir.Value) -> None:
    """Compute the input `given`, the tokens' positions (B, S), from the rows' ends and the chunk's length."""
    first = next(iter(graph))
    kind = given.dtype or ir.DataType.INT64

    def add(operator: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
        return _add_node(graph, first, operator, inputs, ir.DataType.INT64, **attributes)

    def add_constant(name: str, value: int | list[int]) -> ir.Value:
        tensor = ir.tensor(value, dtype=ir.DataType.INT64, name=f"/phi_serve/{name}")
        constant = ir.Value(name=tensor.name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(np.shape(value)))
        graph.register_initializer(constant)
        return constant

    zero, one = add_constant("zero", 0), add_constant("one", 1)
    length = add("Gather", [add("Shape", [ids]), one], axis=0)
    ends = add("Add", [add("Cast", [last], to=int(ir.DataType.INT64)), one])
    starts = add("Reshape", [add("Sub", [ends, length]), add_constant("column", [-1, 1])])
    positions = add("Add", [starts, add("Range", [zero, length, one])])
    if kind != ir.DataType.INT64:
        positions = _add_node(graph, first, "Cast", [positions], kind, to=int(kind))
    given.replace_all_uses_with(positions)


def _keep_original_tables(graph: ir.Graph, choice: ir.Node) -> None:
    """Replace the choice between the extended context's tables and the original's by the original's, which are shorter."""
    branches = [choice.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    for value, *pair in zip(choice.outputs, *(branch.outputs for branch in branches), strict=True):
        tables = {tuple(table.shape.numpy()): table for table in map(find_constant, pair) if table is not None}
        if len(tables) != 2 or {len(shape) for shape in tables} != {2}:
            raise LookupError(f"has a branch ({choice.name}) that is no choice between two rotary tables")
        shape = min(tables)
        kind = ir.TensorType(tables[shape].dtype)
        kept = ir.Value(name=f"/phi_serve/{value.name}", const_value=tables[shape], type=kind, shape=ir.Shape(shape))
        graph.register_initializer(kept)
        value.replace_all_uses_with(kept)
    for node in [node for branch in branches for node in branch]:
        for at in range(len(node.inputs)):
            node.replace_input_with(at, None)  # else the branches' inputs would count as used


def _remove_other_outputs(graph: ir.Graph) -> None:
    """Remove outputs that the engine does not use, such as hidden states."""
    for value in [value for value in graph.outputs if value.name != "logits" and not str(value.name).startswith("present.")]:
        graph.outputs.remove(value)


def _remove_unused(graph: ir.Graph) -> None:
    """Remove nodes without a use, and their constants."""
    for node in reversed(graph):
        if not any(value.uses() or value in graph.outputs for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in graph.outputs:
            del graph.initializers[name]


def _remove_unused_inputs(graph: ir.Graph) -> None:
    """Remove inputs without a use; raises `LookupError` naming an input that the engine cannot provide."""
    for value in list(graph.inputs):
        consumers = [use.node for use in value.uses()]
        if not consumers:
            graph.inputs.remove(value)
        elif value.name not in _INPUTS and not str(value.name).startswith("past_key_values."):
            kind, name = consumers[0].op_type, consumers[0].name
            raise LookupError(f"needs its input {value.name} in the node {name} ({kind}), which this version cannot replace")


_INPUTS = frozenset({"input_ids", "logits_at", "last_position", "total_length"})
