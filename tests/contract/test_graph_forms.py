"""Graphs in forms that other exporters and releases write: each is adapted to the same computation, or refused with the reason.

The forms are made from the installed builder's graph by hand; tests/contract/test_releases.py has what real releases write.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from serve_app.engines.onnx.graph import Graph
from serve_app.engines.onnx.kv_pool import KvPool
from serve_app.files.genai_config import NAME
from serve_app.models.onnx_graph import adapt_model
from tests.contract.play import prompt


def load(built: Path) -> ir.Model:
    return ir.load(built / "model.onnx")


def find(model: ir.Model, kind: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == kind)


def given(model: ir.Model, name: str) -> ir.Value:
    return next(value for value in model.graph.inputs if value.name == name)


def logits(model: ir.Model, built: Path, folder: Path) -> NDArray[np.float32]:
    """Return what the adapted graph computes in a chunk, in a step of three rows and in a step of one."""
    folder.mkdir()
    for file in built.iterdir():
        if file.name in (NAME, "model.onnx.data"):
            (folder / file.name).hardlink_to(file)
    ir.save(model, folder / "model.onnx")
    graph = Graph(folder, provider="cpu", threads=1)
    graph.attach(KvPool(graph.kv_shape, 3, 64))
    ids = np.asarray(prompt(30))
    found = [graph.verify(row, ids[: 9 + row], 0).copy() for row in range(3)]
    found += [graph.advance(ids[:3], np.array([9, 10, 11])).copy(), graph.advance(ids[3:4], np.array([10])).copy()]
    return np.concatenate(found)


@pytest.fixture(scope="module")
def wanted(built: Path, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    model = load(built)
    adapt_model(model)
    return logits(model, built, tmp_path_factory.mktemp("wanted") / "folder")


def rename_everything(model: ir.Model) -> None:
    """Give nodes, values and caches names that mean nothing, as no two releases agree on them."""
    for number, node in enumerate(model.graph):
        node.name = f"n{number}"
        for at, value in enumerate(node.outputs):
            if value.name != "logits":
                value.name = f"v{number}_{at}"
    for number, value in enumerate(model.graph.inputs):
        if "past" in str(value.name):
            value.name = f"cache{number}"


def take_int32_mask(model: ir.Model) -> None:
    mask = given(model, "attention_mask")
    mask.type = ir.TensorType(ir.DataType.INT32)
    uses = list(mask.uses())
    wide = ir.node("Cast", [mask], attributes={"to": int(ir.DataType.INT64)}, name="wide")
    for node, at in uses:
        node.replace_input_with(at, wide.outputs[0])
    model.graph.insert_before(next(iter(model.graph)), wide)


def take_positions(model: ir.Model, kind: ir.DataType = ir.DataType.INT64) -> None:
    """Give the attention its tokens' positions by an input."""
    positions = ir.Value(name="position_ids", type=ir.TensorType(kind), shape=ir.Shape(["batch_size", "sequence_length"]))
    model.graph.inputs.append(positions)
    value = positions
    if kind != ir.DataType.INT64:
        cast = ir.node("Cast", [positions], attributes={"to": int(ir.DataType.INT64)}, name="positions")
        model.graph.insert_before(next(iter(model.graph)), cast)
        value = cast.outputs[0]
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.resize_inputs(max(10, len(node.inputs)))
            node.replace_input_with(9, value)


def take_int32_positions(model: ir.Model) -> None:
    take_positions(model, ir.DataType.INT32)


def keep_tables_outside(model: ir.Model) -> None:
    """Let the branches return initializers of the graph around them."""
    for name in ("then_branch", "else_branch"):
        branch = find(model, "If").attributes[name].as_graph()
        for at, output in enumerate(list(branch.outputs)):
            constant = output.producer()
            assert constant is not None
            table = ir.Value(name=f"{name}_{at}", const_value=constant.attributes["value"].as_tensor())
            model.graph.register_initializer(table)
            same = ir.node("Identity", [table], name=f"same_{name}_{at}")
            branch.insert_before(constant, same)
            branch.outputs[at] = same.outputs[0]
            branch.remove(constant)
            same.outputs[0].name = output.name


def swap_branches(model: ir.Model) -> None:
    """Ask whether the row is short, not whether it is long."""
    choice = find(model, "If")
    greater = choice.inputs[0].producer() if choice.inputs[0] is not None else None
    assert greater is not None
    greater.op_type = "LessOrEqual"
    then, other = (choice.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
    choice.attributes["then_branch"], choice.attributes["else_branch"] = (
        ir.AttrGraph("then_branch", other),
        ir.AttrGraph("else_branch", then),
    )


def prune(model: ir.Model, *, unsqueeze: bool) -> None:
    """Let the head compute the last position alone."""
    head = model.graph.outputs[0].producer()
    assert head is not None
    hidden = head.inputs[0]
    assert hidden is not None
    index = ir.Value(name="last", const_value=ir.tensor(np.array(-1 if unsqueeze else [-1], np.int64)))
    axis = ir.Value(name="axis", const_value=ir.tensor(np.array([1], np.int64)))
    nodes = [ir.node("Gather", [hidden, index], attributes={"axis": 1}, name="chosen")]
    model.graph.register_initializer(index)
    if unsqueeze:
        model.graph.register_initializer(axis)
        nodes.append(ir.node("Unsqueeze", [nodes[0].outputs[0], axis], name="whole"))
    model.graph.insert_before(head, nodes)
    head.replace_input_with(0, nodes[-1].outputs[0])
    model.graph.outputs[0].shape = ir.Shape(["batch_size", 1, 2048])


def prune_by_scalar(model: ir.Model) -> None:
    prune(model, unsqueeze=True)


def prune_by_list(model: ir.Model) -> None:
    prune(model, unsqueeze=False)


def return_more(model: ir.Model) -> None:
    """Return the last layer's hidden states before the logits."""
    head = model.graph.outputs[0].producer()
    assert head is not None
    hidden = head.inputs[0]
    assert hidden is not None
    hidden.name = "hidden_states"
    model.graph.outputs.insert(0, hidden)


def shuffle(model: ir.Model) -> None:
    """Write the nodes in another order than that of their computation."""
    nodes = list(model.graph)
    model.graph.remove(nodes)
    model.graph.extend(reversed(nodes))


def scale_logits(model: ir.Model) -> None:
    """Multiply by one and add zero behind the head."""
    output = model.graph.outputs[0]
    head = output.producer()
    assert head is not None
    output.name = "unscaled"
    numbers = {
        name: ir.Value(name=name, const_value=ir.tensor(np.array(value, np.float32))) for name, value in (("a", 1), ("b", 0))
    }
    for value in numbers.values():
        model.graph.register_initializer(value)
    times = ir.node("Mul", [numbers["a"], output], name="times")
    plus = ir.node("Add", [times.outputs[0], numbers["b"]], name="plus")
    plus.outputs[0].name = "logits"
    plus.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    plus.outputs[0].shape = output.shape
    model.graph.insert_after(head, [times, plus])
    model.graph.outputs[0] = plus.outputs[0]


FORMS = [
    rename_everything,
    take_int32_mask,
    take_positions,
    take_int32_positions,
    keep_tables_outside,
    swap_branches,
    prune_by_scalar,
    prune_by_list,
    return_more,
    shuffle,
    scale_logits,
]


@pytest.mark.parametrize("change", FORMS, ids=lambda change: change.__name__)
def test_other_forms_are_adapted_to_the_same(
    change: Callable[[ir.Model], None], built: Path, tmp_path: Path, wanted: NDArray[np.float32]
) -> None:
    model = load(built)
    change(model)
    adapt_model(model)
    names = {value.name for value in model.graph.inputs if not str(value.name).startswith("past_key_values.")}
    assert names == {"input_ids", "logits_at", "last_position", "total_length"}
    assert not [node for node in model.graph if node.op_type == "If"]
    np.testing.assert_array_equal(logits(model, built, tmp_path / "folder"), wanted)


@pytest.mark.parametrize(("kind", "digits"), [(ir.DataType.FLOAT16, 11), (ir.DataType.BFLOAT16, 8), (ir.DataType.DOUBLE, 24)])
def test_logits_of_other_types_are_cast(
    kind: ir.DataType, digits: int, built: Path, tmp_path: Path, wanted: NDArray[np.float32]
) -> None:
    model = load(built)
    output = model.graph.outputs[0]
    head = output.producer()
    assert head is not None
    output.name = "wide"
    cast = ir.node("Cast", [output], attributes={"to": int(kind)}, name="narrow")
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = "logits", ir.TensorType(kind), output.shape
    model.graph.insert_after(head, cast)
    model.graph.outputs[0] = cast.outputs[0]
    adapt_model(model)
    found = logits(model, built, tmp_path / "folder")
    np.testing.assert_allclose(found, wanted, rtol=2.0**-digits)  # half a unit in the last place that the type has


def keep_float16_caches(model: ir.Model) -> None:
    given(model, "past_key_values.3.value").type = ir.TensorType(ir.DataType.FLOAT16)


def use_other_attention(model: ir.Model) -> None:
    find(model, "GroupQueryAttention").op_type = "MultiHeadAttention"


def use_no_attention(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.op_type = "Fused"


def need_the_mask(model: ir.Model) -> None:
    node = find(model, "GroupQueryAttention")
    node.resize_inputs(max(11, len(node.inputs)))
    node.replace_input_with(10, given(model, "attention_mask"))
    node.name = "biased"


def need_a_new_input(model: ir.Model) -> None:
    value = ir.Value(name="images", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    model.graph.inputs.append(value)
    find(model, "Sigmoid").replace_input_with(0, value)


def choose_something_else(model: ir.Model) -> None:
    branch = find(model, "If").attributes["then_branch"].as_graph()
    node = branch.outputs[0].producer()
    assert node is not None
    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(3, np.float32)))


def prune_unseen(model: ir.Model) -> None:
    model.graph.outputs[0].shape = ir.Shape(["batch_size", 1, 2048])


def hide_the_head(model: ir.Model) -> None:
    head = model.graph.outputs[0].producer()
    assert head is not None
    head.op_type = "Secret"


def take_embeddings(model: ir.Model) -> None:
    given(model, "input_ids").name = "inputs_embeds"


def return_no_logits(model: ir.Model) -> None:
    model.graph.outputs[0].name = "hidden_states"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (keep_float16_caches, r"keeps its caches in float16, and the ONNX group in float32"),
        (use_other_attention, "has MultiHeadAttention in place of GroupQueryAttention"),
        (use_no_attention, "has no attention operator in place of GroupQueryAttention"),
        (need_the_mask, r"needs its input attention_mask in the node biased \(GroupQueryAttention\)"),
        (need_a_new_input, r"needs its input images in the node .* \(Sigmoid\)"),
        (choose_something_else, r"has a branch \(.*\) that is no choice between two rotary tables"),
        (prune_unseen, "computes the last position's logits alone, and how it selects that position is unknown"),
        (hide_the_head, "computes its logits in an unknown way"),
        (take_embeddings, "has no input input_ids"),
        (return_no_logits, "has no output logits"),
        (adapt_model, "was adapted by phi-serve already"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_adapted_is_named(change: Callable[[ir.Model], None], reason: str, built: Path) -> None:
    model = load(built)
    change(model)
    with pytest.raises(LookupError, match=f"^{reason}"):
        adapt_model(model)
