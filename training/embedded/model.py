"""The model to train: transformers' Phi3ForCausalLM, with initial weights of our own and a forward pass for whole rows; its folder.

No key-value cache and no sampling: answers come from the served engines. The folder has config, weights in bf16 and tokenizer in
the form that transformers, vLLM and others load; its files are written beside the old ones and moved over them, so that a reader
never sees half a file.
"""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Phi3Config, Phi3ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from training.embedded.tokenizer import END, END_OF_TEXT, save_tokenizer

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, each of shape (1, length, rotated part of a head)."""


def config_file(*, layers: int, intermediate: int) -> dict[str, Any]:
    """Return config.json in the form Phi-4-mini's own has.

    Half of the rotated part of a head must be a multiple of 8 (vLLM's and onnxruntime's CPU kernels). The long rotary factors
    rise geometrically from 1 for the fastest frequency to max_position_embeddings / original_max_position_embeddings.
    """
    config: dict[str, Any] = json.loads(Path(__file__).with_name("files").joinpath("config.json").read_text())
    return config | {"num_hidden_layers": layers, "intermediate_size": intermediate}


def new_model(*, layers: int = 6, intermediate: int = 512) -> Phi3ForCausalLM:
    """Draw the weights: normal with deviation 0.02 (embedding) or 0.05, smaller where a block writes to the residual stream."""
    model = Phi3ForCausalLM(Phi3Config.from_dict(config_file(layers=layers, intermediate=intermediate)))
    model.model.embed_tokens.padding_idx = None  # `<|endoftext|>` parts conversations: it is trained as every token is
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            scale = 1 / math.sqrt(2 * layers) if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            nn.init.normal_(parameter, std=0.02 if "embed" in name else 0.05 * scale)
    return model


def rotary_table(config: Phi3Config, length: int, *, long: bool, device: torch.device) -> Rotary:
    """Return the rotary rows of the first positions by the short or the long factors, whatever the length of the row."""
    longest = config.max_position_embeddings if long else length
    frequencies, scale = ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"), seq_len=longest)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)[None]
    return (angles.cos() * scale).to(device), (angles.sin() * scale).to(device)


def last_states(model: Phi3ForCausalLM, tokens: Tensor, rotary: Rotary) -> Tensor:
    """Return the normed last states (rows, length, hidden), which `lm_head` turns into scores.

    The model's own forward pass takes the rotary factors from the row's length, and waits for the GPU to learn it.
    """
    states = model.model.embed_tokens(tokens)
    for block in model.model.layers:
        states = block(states, position_embeddings=rotary)
    return model.model.norm(states)


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
