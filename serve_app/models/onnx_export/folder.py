"""Writes the folder that the ONNX engine loads: graph, data file, `genai_config.json` and the tokenizer's files."""

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serve_app.errors import ModelUnusable
from serve_app.models.checkpoint import Checkpoint
from serve_app.models.onnx_export.data_file import require_tensors, write_data
from serve_app.models.onnx_export.decoder import Decoder, read_decoder
from serve_app.models.onnx_export.layout import Layout, plan_layout

ONNX_EXPORT_FORMAT = "1"
"""Part of the cache key; change it whenever graph or weights change, so that older caches are not used."""
_GRAPH_FILE, _DATA_FILE = "model.onnx", "model.onnx.data"
_COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "special_tokens_map.json")


def plan_onnx(model_dir: Path, precision: str, block: int) -> Layout:
    """Return the layout that `write_onnx` would write; raises `ModelUnusable` as it does, except for values of weights."""
    decoder = read_decoder(model_dir)
    require_tensors(Checkpoint(model_dir), decoder)
    _read_special_ids(model_dir)
    if not (model_dir / "tokenizer.json").is_file():
        raise ModelUnusable("tokenizer.json is missing from the model's folder; fetch the model again")
    return plan_layout(decoder, precision, block)


def write_onnx(model_dir: Path, precision: str, block: int, folder: Path, report: Callable[[float], None]) -> None:
    """Write the form into the empty `folder`; `report` gets the fraction done.

    `precision` is fp32, int8, int4 or int4_mixed; `block` weights share a scale. Raises `ModelUnusable` naming the file, the key or
    the tensor that the export cannot use, and `OSError` when the disk is full.
    """
    from serve_app.models.onnx_export.graph import save_graph  # takes half a second, needed only for an export

    layout = plan_onnx(model_dir, precision, block)
    decoder = read_decoder(model_dir)
    save_graph(folder / _GRAPH_FILE, decoder, layout, _DATA_FILE, version("phi-serve"))
    (folder / "genai_config.json").write_text(json.dumps(_build_genai_config(decoder, model_dir), indent=4) + "\n")
    for name in _COPIED:
        if (model_dir / name).exists():
            shutil.copyfile(model_dir / name, folder / name)
    write_data(folder / _DATA_FILE, layout, Checkpoint(model_dir), report)


def _build_genai_config(decoder: Decoder, model_dir: Path) -> dict[str, Any]:
    """Return `genai_config.json` with the keys of onnxruntime-genai's builder; our engine reads shapes from it."""
    ids = _read_special_ids(model_dir)
    return {
        "model": {
            "bos_token_id": ids["bos_token_id"],
            "context_length": decoder.context,
            "decoder": {
                "filename": _GRAPH_FILE,
                "head_size": decoder.head_dim,
                "hidden_size": decoder.hidden,
                "inputs": {
                    "input_ids": "input_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": decoder.heads,
                "num_hidden_layers": decoder.layers,
                "num_key_value_heads": decoder.kv_heads,
            },
            "eos_token_id": ids["eos_token_id"],
            "pad_token_id": ids["pad_token_id"],
            "type": decoder.architecture.name,
            "vocab_size": decoder.vocabulary,
        }
    }


def _read_special_ids(model_dir: Path) -> dict[str, Any]:
    """Return the special ids of `generation_config.json`, else of `config.json`; raises `ModelUnusable` without an end token."""
    found: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    for name in ("config.json", "generation_config.json"):
        if not (model_dir / name).exists():
            continue
        try:
            content = json.loads((model_dir / name).read_text())
            found |= {key: content[key] for key in found if content.get(key) is not None}
        except (OSError, ValueError, AttributeError) as error:
            raise ModelUnusable(f"{name} is unreadable in the model's folder; fetch the model again") from error
    ends = found["eos_token_id"]
    if not all(isinstance(each, int) for each in (ends if isinstance(ends, list) and ends else [ends])):
        raise ModelUnusable(f"eos_token_id in generation_config.json is {json.dumps(ends)}, not one or more token ids")
    return found
