"""SmolLM2-135M-Instruct as a Hugging Face folder, made from the GGUF file that `make tools` fetches.

A model that nobody here trained: a Llama of 30 layers with tied embeddings, ChatML and byte-level BPE. The file has four-bit
weights; the folder has the float32 numbers that they stand for, so engines in float32 must agree on it. Tokenizer and template are
the file's.
"""

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.files.cache import write_cached_folder
from tests.cluster.fetch_tools import SMOLLM2

FOLDER = SMOLLM2.parent / "folder-1"
"""Count up when the content changes."""
needs_smollm2 = pytest.mark.skipif(not SMOLLM2.exists(), reason="SmolLM2-135M-Instruct is not here; run `make tools`")
_CONTROL = 3
_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def smollm2_folder() -> Path:
    """Return the folder, written at the first call (540 MB, a few seconds)."""
    return write_cached_folder(FOLDER, "unpacking SmolLM2", _write)


def _write(folder: Path) -> None:
    reader = gguf.GGUFReader(SMOLLM2)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    heads, kv_heads = keys["llama.attention.head_count"], keys["llama.attention.head_count_kv"]
    ids = {f"{name}_token_id": keys[f"tokenizer.ggml.{key}_token_id"] for name, key in _SPECIAL.items() if name != "unk"}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": keys["llama.embedding_length"],
        "intermediate_size": keys["llama.feed_forward_length"],
        "max_position_embeddings": keys["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": keys["llama.block_count"],
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": round(keys["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_scaling": None,
        "rope_theta": keys["llama.rope.freq_base"],
        "tie_word_embeddings": True,  # the file has no output.weight
        "vocab_size": keys["llama.vocab_size"],
        **ids,
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    _write_tokenizer(folder, keys)
    _write_weights(folder / "model.safetensors", reader, heads, kv_heads)


_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Names of special tokens in transformers' files and in GGUF."""


def _write_tokenizer(folder: Path, keys: dict[str, Any]) -> None:
    """Write the tokenizer's files as SmolLM2's authors published them: each digit is a token, then GPT-2's byte-level BPE."""
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = {at: {"content": text, **flags} for at, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind == _CONTROL}
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    _write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": at, **entry} for at, entry in added.items()],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, levels]},
            "post_processor": None,
            "decoder": levels | {"add_prefix_space": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {text: at for at, text in enumerate(tokens)},
                "merges": keys["tokenizer.ggml.merges"],
            },
        },
    )
    special = {f"{name}_token": tokens[keys[f"tokenizer.ggml.{key}_token_id"]] for name, key in _SPECIAL.items()}
    _write_json(folder / "special_tokens_map.json", special)
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(at): entry for at, entry in added.items()},
        "additional_special_tokens": [special["bos_token"], special["eos_token"]],
        "chat_template": keys["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": keys["llama.context_length"],
        "tokenizer_class": "GPT2Tokenizer",
        **special,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_weights(file: Path, reader: gguf.GGUFReader, heads: int, kv_heads: int) -> None:
    """Write one tensor after the other, with the order of components undone in which llama.cpp keeps queries and keys."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        end = begin + 4 * math.prod(shape)
        header[_rename(tensor.name)] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor in reader.tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
                values = _split_halves(values, heads if "attn_q" in tensor.name else kv_heads)
            out.write(np.ascontiguousarray(values).tobytes())


def _split_halves(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return the rows of each head with the first components of all rotated pairs before the second ones, as transformers does."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _rename(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{_NAMES[part]}.{kind}"


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
