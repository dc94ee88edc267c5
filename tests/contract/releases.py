"""`make builders`: onnxruntime-genai's builder in several releases, each in an environment of its own under .cache/tools/builders.

About a minute and 1 GB in all: torch and what else no release minds the version of come from .venv through a path file. The newest
release is .venv's own. What cannot be had is reported, and its tests are skipped. Also writes the small model that the tests build.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from serve_app.models.locate import EMBEDDED

ENVIRONMENTS = Path(__file__).parents[2] / ".cache" / "tools" / "builders"
INSTALLED = version("onnxruntime-genai")
PINS: dict[str, tuple[str, ...]] = {
    "0.7.1": ("onnxruntime==1.21.1", "onnx==1.17.0", "transformers==4.49.0", "tokenizers==0.21.4"),
    "0.9.2": ("onnxruntime==1.22.1", "onnx==1.18.0", "onnx-ir==0.1.9", "transformers==4.53.3", "tokenizers==0.21.4"),
    "0.11.4": ("onnxruntime==1.23.2", "onnx==1.19.1", "onnx-ir==0.1.12", "transformers==4.57.3", "tokenizers==0.22.2"),
}
"""By release, what its builder needs in another version than .venv has. 0.7 is of the months in which Phi-4-mini was published."""
_ALL = ("huggingface-hub==0.36.2", "protobuf==6.33.2")


def python_of(release: str) -> Path:
    """Return the interpreter that has the release; it need not exist."""
    return Path(sys.executable) if release == INSTALLED else ENVIRONMENTS / release / "bin" / "python"


def build(release: str, model: Path, out: Path, precision: str, *options: str, device: str = "cpu") -> Path:
    """Run the release's builder on the model and return the folder it wrote, `out`; `options` are its extra_options."""
    with tempfile.TemporaryDirectory() as cache:
        command = [str(python_of(release)), "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-o", str(out)]
        command += ["-p", precision, "-e", device, "-c", cache, *(("--extra_options", *options) if options else ())]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    return out


def write_tiny_model(folder: Path, *, tied: bool = True, sizes: int = 128) -> Path:
    """Write a Phi-3 with random weights, LongRoPE and partial rotary embedding, whose half width must be a multiple of 8."""
    layers, heads, kv_heads, head, inner, words = 2, 2, 1, 64, 2 * sizes, 2048
    random = np.random.default_rng(5)
    shapes = {"model.embed_tokens.weight": (words, sizes), "model.norm.weight": (sizes,)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        shapes[f"{name}.self_attn.qkv_proj.weight"] = ((heads + 2 * kv_heads) * head, sizes)
        shapes[f"{name}.self_attn.o_proj.weight"] = (sizes, heads * head)
        shapes[f"{name}.mlp.gate_up_proj.weight"] = (2 * inner, sizes)
        shapes[f"{name}.mlp.down_proj.weight"] = (sizes, inner)
        shapes |= {f"{name}.{norm}.weight": (sizes,) for norm in ("input_layernorm", "post_attention_layernorm")}
    if not tied:
        shapes["lm_head.weight"] = (words, sizes)
    weights = {
        name: random.normal(1.0 if len(shape) == 1 else 0.0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((EMBEDDED / "config.json").read_text())
    config |= {"hidden_size": sizes, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": words}
    config |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head}
    config |= {"tie_word_embeddings": tied, "torch_dtype": "float32", "sliding_window": 262144}
    config["rope_scaling"] = {
        "type": "longrope",
        "short_factor": [1 + index / 24 for index in range(24)],
        "long_factor": [1 + index * 0.7 for index in range(24)],
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED / name, folder)
    return folder


def install(release: str) -> None:
    """Create the release's environment, whole or not at all."""
    target = ENVIRONMENTS / release
    scratch = target.with_name(f".{release}")
    shutil.rmtree(scratch, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(scratch)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(scratch / "bin" / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, f"onnxruntime-genai=={release}", *PINS[release], *_ALL], check=True, timeout=600)
    (packages,) = scratch.glob("lib/python*/site-packages")
    (packages / "of_the_project.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    scratch.rename(target)


def main() -> None:
    """Create what is missing."""
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    for release in PINS:
        if python_of(release).exists():
            continue
        try:
            install(release)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"onnxruntime-genai {release} cannot be had here ({type(error).__name__}); its tests will be skipped")
            continue
        print(f"installed onnxruntime-genai {release}")


if __name__ == "__main__":
    main()
