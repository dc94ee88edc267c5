"""Writes a decoder's checkpoint as a GGUF file, tensor by tensor.

Names and keys are those of llama.cpp's architectures and its own converter; see its documentation of the format.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, RopeScalingType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quantize
from numpy.typing import NDArray

from serve_app.chat.vocabulary import read_json, read_vocabulary
from serve_app.errors import ModelUnusable
from serve_app.files.gguf_vocabulary import build_gguf_vocabulary
from serve_app.models.architectures import (
    INSTEAD,
    Architecture,
    has_tied_embeddings,
    read_count,
    read_head_dim,
    require_architecture,
)
from serve_app.models.checkpoint import Checkpoint, require_rows
from serve_app.models.rope import DEFAULT_THETA, compute_divisors, read_number, read_positive, read_rope

_PIECE_WEIGHTS = 1 << 22
"""Weights in memory at once."""
_FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}

_SIZES = (
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "vocab_size",
)
"""Keys of config.json that must be positive whole numbers."""
_EXPORT = "the GGUF export"
_ROPE_KINDS = {
    "llama": ("default", "linear", "llama3"),
    "phi3": ("default", "longrope"),
    "qwen2": ("default", "linear"),
    "qwen3": ("default", "linear"),
}
"""Kinds of position embeddings by llama.cpp's architecture."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of the file and its source."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    source: str | NDArray[np.float32]
    """The tensor's name in the checkpoint, or the values."""
    head_rows: int = 0
    """Rows of a head where llama.cpp has them in another order than the checkpoint; 0: the order is the same."""

    @property
    def bytes(self) -> int:
        per_block, block_bytes = GGML_QUANT_SIZES[self.type]
        return int(math.prod(self.shape) // per_block * block_bytes)


def write_gguf(model_dir: Path, precision: str, file: Path, report: Callable[[float], None] = lambda _: None) -> None:
    """Write the checkpoint of `model_dir` to `file` with weights in `precision`: f32, f16, q8_0 or q4_0.

    `report` gets the fraction done after every piece.

    Raises `ModelUnusable` when `model_dir` is no checkpoint of a known architecture with byte-level BPE, or lacks a tensor.
    """
    config, architecture = _read_config(model_dir)
    require_rows(model_dir)
    checkpoint = Checkpoint(model_dir)
    tensors = list(_plan_tensors(config, architecture, checkpoint, precision))
    writer = GGUFWriter(file, architecture.gguf)
    _write_keys(writer, config, architecture, precision)
    _write_tokenizer(writer, config, model_dir)
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    # GGUFWriter itself takes whole tensors, and an embedding of 200,000 tokens alone is 2.4 GB in float32.
    done, total = 0, sum(math.prod(tensor.shape) for tensor in tensors)
    with file.open("ab") as out:
        for tensor in tensors:
            out.write(bytes(-out.tell() % writer.data_alignment))
            for piece in _read_pieces(tensor, checkpoint):
                out.write(quantize(piece, tensor.type).tobytes())
                done += piece.size
                report(done / total)
        out.write(bytes(-out.tell() % writer.data_alignment))


def _read_config(model_dir: Path) -> tuple[dict[str, Any], Architecture]:
    """Return config.json with the sizes checked; raises `ModelUnusable` for what llama.cpp would compute otherwise."""
    config = read_json(model_dir, "config.json") or {}
    architecture = require_architecture(config, _EXPORT)
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = config.get("num_attention_heads")
    for key in _SIZES:
        read_count(config, key)
    config["rms_norm_eps"] = read_number(config, "rms_norm_eps", architecture.epsilon)
    read_head_dim(config, architecture)
    kind, settings = read_rope(config)
    if kind == "linear":
        read_positive(settings, "factor")
    if kind not in _ROPE_KINDS[architecture.gguf]:
        known = ", ".join(_ROPE_KINDS[architecture.gguf])
        raise ModelUnusable(
            f"config.json asks for {kind} position embeddings; {_EXPORT} knows {known} for {architecture.name}: {INSTEAD}"
        )
    window = config.get("sliding_window")
    if architecture.has_window and architecture.gguf == "llama" and window and window < config["max_position_embeddings"]:
        raise ModelUnusable(
            f"sliding_window in config.json is {window}, and llama.cpp has none for {architecture.name}: serve it with an onnx or "
            "a vllm group"
        )
    return config, architecture


def _read_pieces(tensor: _Tensor, checkpoint: Checkpoint) -> Iterator[NDArray[np.float32]]:
    """Yield the tensor's rows in llama.cpp's order, whole heads where it differs."""
    if not isinstance(tensor.source, str):
        yield tensor.source
        return
    height = max(1, _PIECE_WEIGHTS // max(1, math.prod(tensor.shape[1:])))
    if tensor.head_rows:
        height = max(1, height // tensor.head_rows) * tensor.head_rows
    for start in range(0, tensor.shape[0], height):
        piece = checkpoint.read_rows(tensor.source, start, min(start + height, tensor.shape[0]))
        if tensor.head_rows:  # the checkpoint rotates component i with i + half, llama.cpp 2 i with 2 i + 1
            halves = piece.reshape(-1, 2, tensor.head_rows // 2, *piece.shape[1:])
            piece = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(piece.shape)
        yield piece


_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""The checkpoint's names by llama.cpp's."""


def _list_layer(config: dict[str, Any], architecture: Architecture) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield llama.cpp's name, the checkpoint's name and the shape of each of a layer's tensors."""
    hidden, inner, head = int(config["hidden_size"]), int(config["intermediate_size"]), read_head_dim(config, architecture)
    query, key = (int(config[name]) * head for name in ("num_attention_heads", "num_key_value_heads"))
    shapes: dict[str, tuple[int, ...]] = {"attn_norm": (hidden,)}
    if architecture.fused:
        shapes |= {"attn_qkv": (query + 2 * key, hidden)}
    else:
        shapes |= {"attn_q": (query, hidden), "attn_k": (key, hidden), "attn_v": (key, hidden)}
    if architecture.qk_norms:
        shapes |= {"attn_q_norm": (head,), "attn_k_norm": (head,)}
    shapes |= {"attn_output": (hidden, query), "ffn_norm": (hidden,)}
    if not architecture.fused:
        shapes |= {"ffn_gate": (inner, hidden)}
    shapes |= {"ffn_up": (2 * inner if architecture.fused else inner, hidden), "ffn_down": (hidden, inner)}
    for name, shape in shapes.items():
        source = "mlp.gate_up_proj" if architecture.fused and name == "ffn_up" else _LAYER[name]
        yield f"{name}.weight", f"{source}.weight", shape
        if architecture.qkv_bias and name in ("attn_q", "attn_k", "attn_v"):
            yield f"{name}.bias", f"{source}.bias", shape[:1]


def _plan_tensors(config: dict[str, Any], architecture: Architecture, checkpoint: Checkpoint, precision: str) -> Iterator[_Tensor]:
    def plan_stored(name: str, source: str, shape: tuple[int, ...], wanted: str, head_rows: int = 0) -> _Tensor:
        checkpoint.require_tensor(source, shape)
        return _Tensor(name, shape, _choose_type(shape, wanted), source, head_rows)

    hidden, head = int(config["hidden_size"]), read_head_dim(config, architecture)
    table = (int(config["vocab_size"]), hidden)
    # Tied embeddings are also the head, which four bits would make imprecise for every token.
    yield plan_stored("token_embd.weight", "model.embed_tokens.weight", table, "q8_0" if precision == "q4_0" else precision)
    if not has_tied_embeddings(config):
        yield plan_stored("output.weight", "lm_head.weight", table, "q8_0" if precision == "q4_0" else precision)
    yield plan_stored("output_norm.weight", "model.norm.weight", (hidden,), precision)
    for name, values in _list_rope_factors(config, head):
        yield _Tensor(name, values.shape, GGMLQuantizationType.F32, values)
    for layer in range(int(config["num_hidden_layers"])):
        for name, source, shape in _list_layer(config, architecture):
            rows = head if architecture.rotates_neighbours and name.startswith(("attn_q.", "attn_k.")) else 0
            yield plan_stored(f"blk.{layer}.{name}", f"model.layers.{layer}.{source}", shape, precision, rows)


def _list_rope_factors(config: dict[str, Any], head_dim: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the tensors by which llama.cpp divides the frequencies of LongRoPE and of Llama 3.1."""
    kind, settings = read_rope(config)
    if kind == "llama3":
        yield "rope_freqs.weight", np.array(compute_divisors(kind, settings, head_dim), np.float32)
        return
    for form in ("long", "short"):
        factors = settings.get(f"{form}_factor")
        if factors:
            yield f"rope_factors_{form}.weight", np.array(factors, np.float32)


def _choose_type(shape: tuple[int, ...], precision: str) -> GGMLQuantizationType:
    """Return the tensor's type: float32 for norms and for matrices whose rows are not a whole number of blocks."""
    wanted = GGMLQuantizationType[precision.upper()]
    fits = len(shape) > 1 and shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0
    return wanted if fits else GGMLQuantizationType.F32


def _write_keys(writer: GGUFWriter, config: dict[str, Any], architecture: Architecture, precision: str) -> None:
    kind, settings = read_rope(config)
    context, head = int(config["max_position_embeddings"]), read_head_dim(config, architecture)
    original = int(settings.get("original_max_position_embeddings") or context)
    share = settings.get("partial_rotary_factor") or 1.0
    writer.add_file_type(_FILE_TYPES[precision])
    writer.add_quantization_version(2)
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_context_length(context)
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_head_count(int(config["num_attention_heads"]))
    writer.add_head_count_kv(int(config["num_key_value_heads"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_dimension_count(int(share * head))
    writer.add_rope_freq_base(float(settings.get("rope_theta") or DEFAULT_THETA))
    if architecture.gguf == "phi3":
        writer.add_sliding_window(int(config.get("sliding_window") or 0))
    if head * config["num_attention_heads"] != config["hidden_size"]:
        writer.add_key_length(head)
        writer.add_value_length(head)
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(read_positive(settings, "factor"))
    if kind == "longrope" and context > original:
        # LongRoPE's correction of the attention's scale, which holds for short texts as well.
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(context / original) / math.log(original)))


def _write_tokenizer(writer: GGUFWriter, config: dict[str, Any], model_dir: Path) -> None:
    vocabulary = build_gguf_vocabulary(model_dir, int(config["vocab_size"]))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    stops, end, begin = read_vocabulary(model_dir).stop_ids, config.get("eos_token_id"), config.get("bos_token_id")
    writer.add_bos_token_id(begin if type(begin) is int else stops[0])
    writer.add_eos_token_id(end if type(end) is int else stops[0])
    writer.add_eot_token_id(vocabulary.turn_end)
    writer.add_add_bos_token(False)
    template = model_dir / "chat_template.jinja"
    settings = model_dir / "tokenizer_config.json"
    if template.exists():
        writer.add_chat_template(template.read_text())
    elif settings.exists() and json.loads(settings.read_text()).get("chat_template"):
        writer.add_chat_template(json.loads(settings.read_text())["chat_template"])
