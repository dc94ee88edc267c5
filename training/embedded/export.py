"""Writes and reads the model folder: config, weights in bf16, tokenizer; the form transformers, vLLM and others load.

Files are written beside the old ones and moved over them, so that a reader never sees half a file.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from training.embedded.model import CausalModel, Shape
from training.embedded.tokenizer import END, END_OF_TEXT, save_tokenizer

_SHAPE = {
    "vocab_size": "vocabulary",
    "hidden_size": "hidden",
    "intermediate_size": "intermediate",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "max_position_embeddings": "context",
    "original_max_position_embeddings": "original_context",
    "rms_norm_eps": "eps",
    "rope_theta": "theta",
}
"""Keys of config.json and the fields of `Shape`."""


def model_config(shape: Shape) -> dict[str, Any]:
    """Return config.json in the form Phi-4-mini's own has; what is null in `files/config.json` follows from the shape."""
    config: dict[str, Any] = json.loads(Path(__file__).with_name("files").joinpath("config.json").read_text())
    rope = {"type": "longrope", "short_factor": shape.short_factors, "long_factor": shape.long_factors}
    config |= {key: getattr(shape, name) for key, name in _SHAPE.items()}
    return config | {"partial_rotary_factor": shape.rotary_dim / shape.head_dim, "rope_scaling": rope}


def save_folder(model: CausalModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model folder; each file is replaced in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    generation = {"bos_token_id": END_OF_TEXT, "eos_token_id": [END_OF_TEXT, END], "pad_token_id": END_OF_TEXT}
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        draft = Path(name)
        (draft / "config.json").write_text(json.dumps(model_config(model.shape), indent=2) + "\n")
        (draft / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
        save_tokenizer(tokenizer, draft, model.shape.context)
        weights = {key: value.detach().to("cpu", torch.bfloat16).contiguous() for key, value in model.state_dict().items()}
        save_file(weights, draft / "model.safetensors", metadata={"format": "pt"})
        (draft / "model.safetensors").chmod(0o644)
        for path in sorted(draft.iterdir()):
            os.replace(path, folder / path.name)


def load_folder(folder: Path) -> tuple[CausalModel, Tokenizer]:
    """Read a folder written by `save_folder`; weights become float32."""
    config = json.loads((folder / "config.json").read_text())
    shape = Shape(**{name: config[key] for key, name in _SHAPE.items()})
    model = CausalModel(shape)
    model.load_state_dict({key: value.float() for key, value in load_file(folder / "model.safetensors").items()})
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
