"""Writes and reads the model folder: config, weights in bf16, tokenizer; the form transformers, vLLM and others load.

Files are written beside the old ones and moved over them, so that a reader never sees half a file.
"""

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Phi3ForCausalLM

from training.embedded.model import config_file
from training.embedded.tokenizer import END, END_OF_TEXT, save_tokenizer


def save_folder(model: Phi3ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model folder; each file is replaced in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_file(layers=model.config.num_hidden_layers, intermediate=model.config.intermediate_size)
    generation = {"bos_token_id": END_OF_TEXT, "eos_token_id": [END_OF_TEXT, END], "pad_token_id": END_OF_TEXT}
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        draft = Path(name)
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (draft / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
        save_tokenizer(tokenizer, draft, config["max_position_embeddings"])
        # Named parameters come once: the head is the embedding.
        weights = {key: value.detach().to("cpu", torch.bfloat16).contiguous() for key, value in model.named_parameters()}
        save_file(weights, draft / "model.safetensors", metadata={"format": "pt"})
        (draft / "model.safetensors").chmod(0o644)
        for path in sorted(draft.iterdir()):
            os.replace(path, folder / path.name)


def load_folder(folder: Path) -> tuple[Phi3ForCausalLM, Tokenizer]:
    """Read a folder written by `save_folder`; weights become float32."""
    return Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32), Tokenizer.from_file(str(folder / "tokenizer.json"))
