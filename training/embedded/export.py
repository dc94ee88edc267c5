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


def model_config(shape: Shape) -> dict[str, Any]:
    """Return config.json in the form Phi-4-mini's own has."""
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": END_OF_TEXT,
        "embd_pdrop": 0.0,
        "eos_token_id": END_OF_TEXT,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "original_max_position_embeddings": shape.original_context,
        "pad_token_id": END_OF_TEXT,
        "partial_rotary_factor": shape.rotary_dim / shape.head_dim,
        "resid_pdrop": 0.0,
        "rms_norm_eps": shape.eps,
        "rope_scaling": {"type": "longrope", "short_factor": shape.short_factors, "long_factor": shape.long_factors},
        "rope_theta": shape.theta,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }


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
    shape = Shape(
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
    )
    model = CausalModel(shape)
    model.load_state_dict({key: value.float() for key, value in load_file(folder / "model.safetensors").items()})
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
