"""A Phi-3 checkpoint of a few thousand weights whose widths are no multiple of the larger blocks."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from serve_app.models.locate import EMBEDDED

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCABULARY, LAYERS = 192, 3, 1, 64, 160, 300, 2


def write_tiny(folder: Path, **changes: Any) -> Path:
    """Write the checkpoint in bf16, with `changes` of its configuration; return its folder."""
    folder.mkdir(parents=True)
    embedded = json.loads((EMBEDDED / "config.json").read_text())
    short = [1.0 + each / 7 for each in range(24)]
    config = embedded | {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "rope_scaling": {"type": "longrope", "short_factor": short, "long_factor": [2 * each for each in short]},
    }
    config |= changes
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED / name, folder / name)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.08).to(torch.bfloat16)

    tensors = {"model.embed_tokens.weight": noise(VOCABULARY, HIDDEN), "model.norm.weight": 1 + noise(HIDDEN)}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = noise(VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        tensors |= {
            f"{at}.self_attn.qkv_proj.weight": noise((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
            f"{at}.self_attn.o_proj.weight": noise(HIDDEN, HEADS * HEAD_DIM),
            f"{at}.mlp.gate_up_proj.weight": noise(2 * INNER, HIDDEN),
            f"{at}.mlp.down_proj.weight": noise(HIDDEN, INNER),
            f"{at}.input_layernorm.weight": 1 + noise(HIDDEN),
            f"{at}.post_attention_layernorm.weight": 1 + noise(HIDDEN),
        }
    # A block of zeros, which has no scale, and one whose largest weights are of either sign.
    tensors["model.layers.0.mlp.down_proj.weight"][3] = 0
    tensors["model.layers.0.self_attn.o_proj.weight"][5, :2] = torch.tensor([0.5, -0.5])
    save_file(tensors, folder / "model.safetensors")
    return folder
