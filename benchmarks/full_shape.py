"""Phi-4-mini's shape with random weights, to measure speed and memory with: `python -m benchmarks.full_shape DIR`.

3.8 billion weights of random values in bf16 (7.1 GiB), one shard a layer, Phi-4-mini's configuration, the embedded model's
tokenizer. What it says is noise; what it costs is what the real model costs. Export it with
`phi-serve export onnx DIR --precision int4 --out OUT`.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from serve_app.models.catalog import EMBEDDED

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 3072, 8192, 32, 24, 8, 128, 200_064
ROTARY_DIM = 96


def config(layers: int) -> dict[str, object]:
    """Return config.json: Phi-4-mini's shape; the rotary factors are neutral, which costs the same."""
    embedded = json.loads((EMBEDDED / "config.json").read_text())
    half = ROTARY_DIM // 2
    return embedded | {
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "partial_rotary_factor": ROTARY_DIM / HEAD_DIM,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * half, "long_factor": [1.0] * half},
    }


def write(folder: Path, layers: int = LAYERS) -> None:
    """Write the folder; memory stays below two gigabytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(layers), indent=2) + "\n")
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED / name, folder / name)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.02).to(torch.bfloat16)

    def ones() -> torch.Tensor:
        return torch.ones(HIDDEN, dtype=torch.bfloat16)

    place: dict[str, str] = {}

    def save(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        place.update(dict.fromkeys(tensors, name))

    save("model-embedding.safetensors", {"model.embed_tokens.weight": noise(VOCABULARY, HIDDEN), "model.norm.weight": ones()})
    for layer in range(layers):
        at = f"model.layers.{layer}"
        save(
            f"model-layer-{layer:02}.safetensors",
            {
                f"{at}.self_attn.qkv_proj.weight": noise((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
                f"{at}.self_attn.o_proj.weight": noise(HIDDEN, HEADS * HEAD_DIM),
                f"{at}.mlp.gate_up_proj.weight": noise(2 * INTERMEDIATE, HIDDEN),
                f"{at}.mlp.down_proj.weight": noise(HIDDEN, INTERMEDIATE),
                f"{at}.input_layernorm.weight": ones(),
                f"{at}.post_attention_layernorm.weight": ones(),
            },
        )
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS)
    options = parser.parse_args()
    write(options.folder, options.layers)
    print(f"{options.folder}: {sum(file.stat().st_size for file in options.folder.iterdir()) / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
