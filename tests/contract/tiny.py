"""Checkpoints of a few thousand weights whose widths are no multiple of the larger blocks: a Phi-3, and other architectures."""

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
    return _write(folder, config | changes)


CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""transformers' classes by model_type."""
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


def write_other(folder: Path, kind: str, **changes: Any) -> Path:
    """Write a checkpoint of another architecture, with the embedded model's tokenizer; return its folder."""
    folder.mkdir(parents=True)
    config = {
        "architectures": [CLASSES[kind]],
        "bos_token_id": 0,
        "dtype": "bfloat16",
        "eos_token_id": 0,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "max_position_embeddings": 512,
        "model_type": kind,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": 2048,
    }
    return _write(folder, config | changes)


def _write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED / name, folder / name)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.08).to(torch.bfloat16)

    rows, heads, kv_heads, head = config["vocab_size"], config["num_attention_heads"], config["num_key_value_heads"], HEAD_DIM
    tensors = {"model.embed_tokens.weight": noise(rows, HIDDEN), "model.norm.weight": 1 + noise(HIDDEN)}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = noise(rows, HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        if config["model_type"] == "phi3":
            tensors[f"{at}.self_attn.qkv_proj.weight"] = noise((heads + 2 * kv_heads) * head, HIDDEN)
        else:
            for part, width in (("q", heads * head), ("k", kv_heads * head), ("v", kv_heads * head)):
                tensors[f"{at}.self_attn.{part}_proj.weight"] = noise(width, HIDDEN)
                if config["model_type"] == "qwen2":
                    tensors[f"{at}.self_attn.{part}_proj.bias"] = noise(width)
                if config["model_type"] == "qwen3" and part != "v":
                    tensors[f"{at}.self_attn.{part}_norm.weight"] = 1 + noise(head)
        tensors[f"{at}.self_attn.o_proj.weight"] = noise(HIDDEN, heads * head)
        if config["model_type"] == "phi3":
            tensors[f"{at}.mlp.gate_up_proj.weight"] = noise(2 * INNER, HIDDEN)
        else:
            tensors |= {f"{at}.mlp.{part}_proj.weight": noise(INNER, HIDDEN) for part in ("gate", "up")}
        tensors |= {
            f"{at}.mlp.down_proj.weight": noise(HIDDEN, INNER),
            f"{at}.input_layernorm.weight": 1 + noise(HIDDEN),
            f"{at}.post_attention_layernorm.weight": 1 + noise(HIDDEN),
        }
    # A block of zeros, which has no scale, and one whose largest weights are of either sign.
    tensors["model.layers.0.mlp.down_proj.weight"][3] = 0
    tensors["model.layers.0.self_attn.o_proj.weight"][5, :2] = torch.tensor([0.5, -0.5])
    save_file(tensors, folder / "model.safetensors")
    return folder
