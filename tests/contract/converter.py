"""Writes a GGUF file as llama.cpp's own converter does: its spelling of the vocabulary, and what its versions differ in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from serve_app.files.gguf_header import read_header

UNUSED, CONTROL, USER_DEFINED = 5, 3, 4
EOT = "tokenizer.ggml.eot_token_id"


@dataclass(frozen=True, kw_only=True)
class Form:
    """What differs between the converter's versions, and between the folders that it was given."""

    pads: int | None = UNUSED
    """The type of ids that are no token; None: the list ends with the last token."""
    tools: int = CONTROL
    """The type of the tool tokens."""
    renamed: Mapping[int, str] = field(default_factory=dict)
    """Other texts, by id."""
    keys: Mapping[str, Any] = field(default_factory=dict)
    """More keys, or other values."""
    split: bool = False
    """Whether queries, keys and values are tensors of their own."""


def convert(own: Path, model_dir: Path, target: Path, form: Form = Form()) -> Path:
    """Write `own`, a file in our spelling, to `target` as the converter spells the tokenizer of `model_dir`; return `target`."""
    header, content = read_header(own), np.memmap(own, mode="r")
    writer = gguf.GGUFWriter(target, "phi3")
    tokens, types = _vocabulary(model_dir, len(header.keys["tokenizer.ggml.tokens"]), form)
    values = header.keys | {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    for name, value in values.items():
        if name in (EOT, "general.architecture") or name in form.keys:
            continue
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            at = header.spans[name][0] + 8 + len(name)
            writer.add_key_value(name, value, gguf.GGUFValueType(int(content[at])))
    for name, value in form.keys.items():
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            kinds = {bool: gguf.GGUFValueType.BOOL, int: gguf.GGUFValueType.UINT32, str: gguf.GGUFValueType.STRING}
            writer.add_key_value(name, value, kinds[type(value)])
    heads = tuple(int(header.keys[f"phi3.attention.head_count{kind}"]) for kind in ("", "_kv"))
    for name, tensor in header.tensors.items():
        begin = header.data_begin + tensor.offset
        data = content[begin : begin + tensor.bytes].reshape(*tensor.shape[:0:-1], -1)
        parts = _split(data, *heads) if form.split and "attn_qkv" in name else {"attn_qkv": data}
        for part, rows in parts.items():
            kind = gguf.GGMLQuantizationType[tensor.type]
            rows = rows.view(np.float32) if kind is gguf.GGMLQuantizationType.F32 else rows
            writer.add_tensor(name.replace("attn_qkv", part), rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _vocabulary(model_dir: Path, count: int, form: Form) -> tuple[list[str], list[int]]:
    file = json.loads((model_dir / "tokenizer.json").read_text())
    added = {int(entry["id"]): str(entry["content"]) for entry in file["added_tokens"]}
    known = {token_id: text for text, token_id in file["model"]["vocab"].items()} | added
    if form.pads is None:
        count = max(known) + 1
    tokens = [form.renamed.get(at, known.get(at, f"[PAD{at}]")) for at in range(count)]
    types = [form.pads or UNUSED if at not in known else 1 for at in range(count)]
    for at, text in added.items():
        types[at] = form.tools if "tool" in text else CONTROL
    return tokens, types


def _split(data: Any, heads: int, kv_heads: int) -> dict[str, Any]:
    head = data.shape[0] // (heads + 2 * kv_heads)
    query, key = heads * head, (heads + kv_heads) * head
    return {"attn_q": data[:query], "attn_k": data[query:key], "attn_v": data[key:]}
