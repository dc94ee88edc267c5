"""Graphs with something changed at random: each is served, or refused in a sentence; nothing else may happen."""

import logging
import shutil
from contextlib import suppress
from pathlib import Path
from random import Random

import onnx
import pytest

from serve_app.engine_config import OnnxSettings
from serve_app.engines.onnx.graph import Graph
from serve_app.errors import ModelUnusable
from serve_app.models.export import derive

pytestmark = pytest.mark.slow


def damage(model: onnx.ModelProto, random: Random) -> None:
    """Change one thing of the graph at random."""
    graph = model.graph
    node, weight = random.choice(graph.node), random.choice(graph.initializer)
    value = random.choice([*graph.input, *graph.output])
    kind = random.randrange(10)
    if kind == 0:
        del node.input[random.randrange(len(node.input) + 1) :]
    elif kind == 1 and node.input:
        node.input[random.randrange(len(node.input))] = random.choice(
            ["", "nothing", "attention_mask", *random.choice(graph.node).output]
        )
    elif kind == 2:
        node.op_type = random.choice(["If", "Gather", "GroupQueryAttention", "Identity", "RotaryEmbedding", "MatMul", "Unsqueeze"])
    elif kind == 3 and node.attribute:
        del node.attribute[random.randrange(len(node.attribute))]
    elif kind == 4:
        graph.node.remove(node)
    elif kind == 5:
        del node.output[random.randrange(len(node.output) + 1) :]
    elif kind == 6:
        value.type.tensor_type.elem_type = random.randrange(30)
    elif kind == 7:
        value.type.tensor_type.shape.ClearField("dim")
    elif kind == 8:
        value.name = random.choice(["", "logits", "other"])
    else:
        weight.dims[:] = [random.randrange(-1, 5) for _ in range(random.randrange(4))]


@pytest.mark.parametrize("seed", range(100))
def test_damaged_graphs_are_served_or_refused_in_a_sentence(
    built: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    monkeypatch.setenv("PHI_SERVE_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(built, tmp_path / "folder"))
    random, model = Random(seed), onnx.ModelProto()
    model.ParseFromString((folder / "model.onnx").read_bytes())
    for _ in range(random.choice([1, 1, 3])):
        damage(model, random)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    settings = OnnxSettings(precision="int4", exported=str(folder), max_model_len=256)
    caplog.set_level(logging.CRITICAL)
    with suppress(ModelUnusable):  # anything else fails the test
        Graph(derive(model_dir, settings), provider="cpu", threads=1)
