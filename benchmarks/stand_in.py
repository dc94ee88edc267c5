"""A stand-in for Phi-4-mini-instruct: its files as published, with random weights: `python -m benchmarks.stand_in DIR`.

The tokenizer (ids with holes, merges, flags), the configuration and the layout of the files are the real model's; what it says is
noise, and what it costs is what the real model costs (`--size full`: 3.8 billion weights in bf16, 7.2 GiB; `small`: two narrow
layers, 110 MB). Options cover what differs between copies of the real files. The vocabulary's ranks come from the package
`bpe-openai`, a development dependency.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.chat.vocabulary import map_chars_to_bytes
from serve_app.models.locate import EMBEDDED

VOCAB_SIZE = 200_064
"""Rows of the embedding; ids end below it."""
RANKS = 199_998
"""Ordinary tokens, ids 0 to 199,997."""
IN_VOCABULARY = {"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018}
"""Added tokens that every copy has in `model.vocab` as well."""
ROLE_TOKENS = {"<|assistant|>": 200_019, "<|end|>": 200_020, "<|user|>": 200_021, "<|system|>": 200_022}
TOOL_TOKENS = {
    "<|tool|>": 200_023,
    "<|/tool|>": 200_024,
    "<|tool_call|>": 200_025,
    "<|/tool_call|>": 200_026,
    "<|tool_response|>": 200_027,
    "<|tag|>": 200_028,
}
_CODE = 'raise RuntimeError("the model\'s own Python files must never be run")\n'
_PIECE = 1 << 22
"""Weights in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the decoder; head_dim is hidden divided by heads, 128 in both sizes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int


SIZES = {
    "small": Shape(hidden=256, intermediate=512, layers=2, heads=2, kv_heads=1),
    "full": Shape(hidden=3072, intermediate=8192, layers=32, heads=24, kv_heads=8),
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """What differs between real copies of the tokenizer's file."""

    added_in_vocab: bool = False
    """Whether all added tokens stand in `model.vocab` too, or only the two that always do."""
    tools_special: bool = False
    """The flag `special` of the tool tokens."""
    tools_rstrip: bool = False
    """The flag `rstrip` of the tool tokens; role tokens always have it."""
    merges_as_pairs: bool = True
    """Newer versions of `tokenizers` write a merge as a list of two, older ones as one string with a space."""


def write(folder: Path, shape: Shape, form: Form = Form(), *, seed: int = 0) -> None:
    """Write the model's folder, which must not exist. Memory stays below 1 GiB whatever the shape."""
    folder.mkdir(parents=True)
    write_tokenizer(folder, form)
    _write_json(folder / "config.json", config(shape))
    _write_json(folder / "generation_config.json", _GENERATION)
    for name in ("configuration_phi3.py", "modeling_phi3.py", "sample_finetune.py"):
        (folder / name).write_text(_CODE)
    _write_weights(folder, shape, np.random.default_rng(seed))


def config(shape: Shape) -> dict[str, Any]:
    """Return config.json."""
    tail = "32.03 32.1 32.13 32.23 32.6 32.61 32.64 32.66 32.7 32.71 32.93 32.97 33.28 33.49 33.5 44.16 47.77"
    long_factor = [round(1.118320672**power, 9) for power in range(31)] + list(map(float, tail.split()))
    return {
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
            "AutoTokenizer": "Xenova/gpt-4o",
        },
        "bos_token_id": 199_999,
        "embd_pdrop": 0.0,
        "eos_token_id": 199_999,
        "full_attn_mod": 1,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": 131_072,
        "mlp_bias": False,
        "model_type": "phi3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 199_999,
        "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": long_factor, "short_factor": [1.0] * 48, "type": "longrope"},
        "rope_theta": 10000.0,
        "sliding_window": 262_144,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0",
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    }


_GENERATION = {
    "_from_model_config": True,
    "bos_token_id": 199_999,
    "eos_token_id": [200_020, 199_999],
    "pad_token_id": 199_999,
    "transformers_version": "4.45.0",
}


def write_tokenizer(folder: Path, form: Form) -> None:
    """Write tokenizer.json and the older files that say the same."""
    spelled, merges = _byte_pairs()
    vocab = {token: rank for rank, token in enumerate(spelled)} | IN_VOCABULARY
    added = [
        {
            "id": token_id,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": content in ROLE_TOKENS or (form.tools_rstrip and content in TOOL_TOKENS),
            "normalized": False,
            "special": content not in TOOL_TOKENS or form.tools_special,
        }
        for content, token_id in (IN_VOCABULARY | ROLE_TOKENS | TOOL_TOKENS).items()
    ]
    if form.added_in_vocab:
        vocab |= ROLE_TOKENS | TOOL_TOKENS
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _pattern()}, "behavior": "Removed", "invert": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in merges] if form.merges_as_pairs else [" ".join(pair) for pair in merges],
        },
    }
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    _write_json(folder / "added_tokens.json", ROLE_TOKENS | TOOL_TOKENS)
    marks = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    _write_json(folder / "special_tokens_map.json", marks)
    settings = {
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added},
        "chat_template": (EMBEDDED / "chat_template.jinja").read_text(),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131_072,
        "tokenizer_class": "GPT2Tokenizer",
        **marks,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _pattern() -> str:
    """Return the expression that cuts text before the merges: o200k_base's, which the embedded model has too."""
    own = json.loads((EMBEDDED / "tokenizer.json").read_text())
    return str(next(step["pattern"]["Regex"] for step in own["pre_tokenizer"]["pretokenizers"] if step["type"] == "Split"))


@cache
def _byte_pairs() -> tuple[list[str], list[tuple[str, str]]]:
    """Return o200k_base's tokens in the order of their ranks, and its merges, in GPT-2's spelling of bytes. Takes some seconds."""
    import bpe_openai

    encoding = bpe_openai.get_encoding("o200k_base")
    ranks = [encoding.decode_bytes([rank]) for rank in range(RANKS)]
    char_of = {byte: char for char, byte in map_chars_to_bytes().items()}

    def spell(raw: bytes) -> str:
        return "".join(map(char_of.__getitem__, raw))

    return list(map(spell, ranks)), [(spell(left), spell(right)) for left, right in _merges(ranks)]


def _merges(ranks: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pair that makes each token, in the order of the ranks: what is left of it when only lower ranks may merge."""
    rank_of = {token: rank for rank, token in enumerate(ranks)}
    for rank, token in enumerate(ranks):
        if len(token) == 1:
            continue
        parts = [token[at : at + 1] for at in range(len(token))]
        while len(parts) > 2:
            joined = [rank_of.get(left + right, rank) for left, right in pairwise(parts)]
            best = min(joined)
            at = joined.index(best)
            if best >= rank:
                raise ValueError(f"token {rank} is no merge of two lower ones")
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        yield parts[0], parts[1]


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the checkpoint's tensors, names and shapes, in the order in which they are stored."""
    width = shape.hidden // shape.heads
    yield "model.embed_tokens.weight", (VOCAB_SIZE, shape.hidden)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (shape.hidden,)
        yield f"{at}.mlp.down_proj.weight", (shape.hidden, shape.intermediate)
        yield f"{at}.mlp.gate_up_proj.weight", (2 * shape.intermediate, shape.hidden)
        yield f"{at}.post_attention_layernorm.weight", (shape.hidden,)
        yield f"{at}.self_attn.o_proj.weight", (shape.hidden, shape.heads * width)
        yield f"{at}.self_attn.qkv_proj.weight", ((shape.heads + 2 * shape.kv_heads) * width, shape.hidden)
    yield "model.norm.weight", (shape.hidden,)


def _write_weights(folder: Path, shape: Shape, draw: np.random.Generator) -> None:
    """Write two shards in bf16 and their index; norms are ones, the rest has the spread of an untrained model."""
    entries = list(tensors(shape))
    sizes = [2 * int(np.prod(dims)) for _, dims in entries]
    half = next(at for at in range(1, len(entries)) if sum(sizes[:at]) >= sum(sizes) / 2)
    half = min(half, len(entries) - 1)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((entries[:half], entries[half:]), start=1):
        name = f"model-{number:05}-of-00002.safetensors"
        _write_shard(folder / name, part, draw)
        weight_map |= {tensor: name for tensor, _ in part}
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_shard(file: Path, entries: list[tuple[str, tuple[int, ...]]], draw: np.random.Generator) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dims in entries:
        begin, end = end, end + 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for _, dims in entries:
            count = int(np.prod(dims))
            for start in range(0, count, _PIECE):
                size = min(_PIECE, count - start)
                values = np.ones(size, np.float32) if len(dims) == 1 else draw.standard_normal(size, np.float32) * np.float32(0.02)
                out.write(_as_bf16(values).tobytes())


def _as_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper halves of the numbers, rounded to the nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--layers", type=int, help="another number of layers than the size has")
    parser.add_argument("--added-in-vocab", action="store_true", help="all added tokens stand in model.vocab too")
    parser.add_argument("--tools-special", action="store_true", help="the tool tokens have special: true")
    parser.add_argument("--tools-rstrip", action="store_true", help="the tool tokens have rstrip: true")
    parser.add_argument("--merges-as-strings", action="store_true", help="merges in the older form")
    options = parser.parse_args()
    shape = SIZES[options.size]
    if options.layers is not None:
        shape = Shape(**(vars(shape) | {"layers": options.layers}))
    form = Form(
        added_in_vocab=options.added_in_vocab,
        tools_special=options.tools_special,
        tools_rstrip=options.tools_rstrip,
        merges_as_pairs=not options.merges_as_strings,
    )
    write(options.folder, shape, form)
    print(f"{options.folder}: {sum(file.stat().st_size for file in options.folder.iterdir()) / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
