"""onnxruntime-genai's builder in a process of its own: `python -m tests.contract.builder MODEL:FOLDER...`.

FOLDER's name is a precision and a block, as in int4_mixed-64; it gets what the builder writes, adapted as foreign folders are.
"""

import json
import sys
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnxruntime_genai.models.builder import create_model, parse_extra_options

from serve_app.models.onnx_graph import adapt


def build(model: Path, out: Path, precision: str, block: int) -> None:
    """Let the builder write the adapted folder `out`."""
    config = json.loads((model / "config.json").read_text())
    options = ["prune_lm_head=true", "accuracy_level=4", f"block_size={block}"]
    if config["tie_word_embeddings"]:
        options.append("shared_embeddings=true")
    structured: dict[str, Any] = {}
    if precision == "int4_mixed":
        raised = ["/lm_head/MatMul", *(f"/model/layers.{i}/mlp/down_proj/MatMul" for i in range(config["num_hidden_layers"]))]
        weights = {
            "type": "int4",
            "block_size": block,
            "accuracy_level": 4,
            "op_types": ["MatMul", "Gather"] if config["tie_word_embeddings"] else ["MatMul"],
            "overrides": [{"match": {"name": name}, "type": "int8"} for name in raised],
        }
        structured = {"builder_config_version": 2, "target_options": {"quant_config": {"weights": weights}}}
        options = [each for each in options if not each.startswith(("accuracy_level", "block_size"))]
    kind = "int4" if precision == "int4_mixed" else precision
    cache = str(out / "cache")
    extra = parse_extra_options("", str(model), str(out), kind, "cpu", cache, options, **structured)
    create_model("", str(model), str(out), kind, "cpu", cache, **extra)
    _mend_names(out / "model.onnx")
    adapt(out / "model.onnx")


def _mend_names(file: Path) -> None:
    """Let the embedding find the head's int8 weights: the builder's lookup names them otherwise than its quantizer does."""
    graph = ir.load(file)
    constants = graph.graph.initializers
    for node in graph.graph:
        for index, value in enumerate(node.inputs):
            if (
                value is None
                or value.name is None
                or value.name in constants
                or not value.name.startswith("lm_head.MatMul.weight_")
            ):
                continue
            right = "lm_head.MatMul.weight_scales" if value.name.endswith("_scale") else "lm_head.MatMul.weight_Q8"
            node.replace_input_with(index, constants[right])
    for value in [each for each in graph.graph.inputs if each.name and each.name.startswith("lm_head")]:
        graph.graph.inputs.remove(value)
    ir.save(graph, file)


if __name__ == "__main__":
    for pair in sys.argv[1:]:
        model, folder = map(Path, pair.split(":"))
        precision, block = folder.name.split("-")
        build(model, folder, precision, int(block))
