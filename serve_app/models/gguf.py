"""Writes a Phi-3 checkpoint as a GGUF file, tensor by tensor.

Names and keys are those of llama.cpp's architecture `phi3`; see its documentation of the format.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quantize
from numpy.typing import NDArray

from serve_app.chat.vocabulary import read_json, read_vocabulary
from serve_app.errors import ModelUnusable
from serve_app.files.gguf_vocabulary import build_gguf_vocabulary
from serve_app.models.checkpoint import Checkpoint, require_rows

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


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of the file and its source."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    source: str | NDArray[np.float32]
    """The tensor's name in the checkpoint, or the values."""

    @property
    def bytes(self) -> int:
        per_block, block_bytes = GGML_QUANT_SIZES[self.type]
        return int(math.prod(self.shape) // per_block * block_bytes)


def write_gguf(model_dir: Path, precision: str, file: Path, report: Callable[[float], None] = lambda _: None) -> None:
    """Write the checkpoint of `model_dir` to `file` with weights in `precision`: f32, f16, q8_0 or q4_0.

    `report` gets the fraction done after every piece.

    Raises `ModelUnusable` when `model_dir` is not a Phi-3 checkpoint with byte-level BPE or lacks a tensor.
    """
    config = _read_config(model_dir)
    if config.get("model_type") != "phi3":
        raise ModelUnusable(f"model_type is {config.get('model_type')}; the GGUF export knows phi3 only")
    require_rows(model_dir)
    checkpoint = Checkpoint(model_dir)
    tensors = list(_plan_tensors(config, checkpoint, precision))
    writer = GGUFWriter(file, "phi3")
    _write_keys(writer, config, precision)
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


def _read_config(model_dir: Path) -> dict[str, Any]:
    config = read_json(model_dir, "config.json") or {}
    for key in _SIZES:
        if type(config.get(key)) is not int or config[key] < 1:
            raise ModelUnusable(f"{key} in config.json is {config.get(key)}, not a positive whole number; fetch the model again")
    if not isinstance(config.get("rms_norm_eps"), int | float):
        raise ModelUnusable(f"rms_norm_eps in config.json is {config.get('rms_norm_eps')}, not a number; fetch the model again")
    return config


def _read_pieces(tensor: _Tensor, checkpoint: Checkpoint) -> Iterator[NDArray[np.float32]]:
    if not isinstance(tensor.source, str):
        yield tensor.source
        return
    height = max(1, _PIECE_WEIGHTS // max(1, math.prod(tensor.shape[1:])))
    for start in range(0, tensor.shape[0], height):
        yield checkpoint.read_rows(tensor.source, start, min(start + height, tensor.shape[0]))


_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}


def _plan_tensors(config: dict[str, Any], checkpoint: Checkpoint, precision: str) -> Iterator[_Tensor]:
    def plan_stored(name: str, source: str, wanted: str) -> _Tensor:
        found = checkpoint.tensors.get(source)
        if found is None:
            raise ModelUnusable(f"the checkpoint has no tensor {source}; it is not of the architecture that its config.json names")
        return _Tensor(name, found.shape, _choose_type(found.shape, wanted), source)

    # Tied embeddings are also the head, which four bits would make imprecise for every token.
    yield plan_stored("token_embd.weight", "model.embed_tokens.weight", "q8_0" if precision == "q4_0" else precision)
    if not config.get("tie_word_embeddings"):
        yield plan_stored("output.weight", "lm_head.weight", "q8_0" if precision == "q4_0" else precision)
    yield plan_stored("output_norm.weight", "model.norm.weight", precision)
    for form, key in (("long", "long_factor"), ("short", "short_factor")):
        factors = _rope_scaling(config).get(key)
        if factors:
            values = np.array(factors, np.float32)
            yield _Tensor(f"rope_factors_{form}.weight", values.shape, GGMLQuantizationType.F32, values)
    for layer in range(int(config["num_hidden_layers"])):
        for name, source in _LAYER.items():
            yield plan_stored(f"blk.{layer}.{name}.weight", f"model.layers.{layer}.{source}.weight", precision)


def _choose_type(shape: tuple[int, ...], precision: str) -> GGMLQuantizationType:
    """Return the tensor's type: float32 for norms and for matrices whose rows are not a whole number of blocks."""
    wanted = GGMLQuantizationType[precision.upper()]
    fits = len(shape) > 1 and shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0
    return wanted if fits else GGMLQuantizationType.F32


def _rope_scaling(config: dict[str, Any]) -> dict[str, Any]:
    """Return LongRoPE's parameters, under their old key or the new one."""
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _write_keys(writer: GGUFWriter, config: dict[str, Any], precision: str) -> None:
    scaling = _rope_scaling(config)
    heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
    context = int(config["max_position_embeddings"])
    original = int(scaling.get("original_max_position_embeddings") or config.get("original_max_position_embeddings") or context)
    share = scaling.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    writer.add_file_type(_FILE_TYPES[precision])
    writer.add_quantization_version(2)
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_context_length(context)
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config["num_key_value_heads"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_dimension_count(int(share * width // heads))
    writer.add_rope_freq_base(float(config.get("rope_theta") or scaling.get("rope_theta") or 10000.0))
    writer.add_sliding_window(int(config.get("sliding_window") or 0))
    if "longrope" in (scaling.get("type"), scaling.get("rope_type")) and context > original:
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
