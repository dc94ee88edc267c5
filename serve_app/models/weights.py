"""A served model's architecture, size and identity, read from its files. Knows no engine and no dialect."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ModelUnusable
from serve_app.models.architectures import ARCHITECTURES, has_tied_embeddings

_BYTES = {
    **dict.fromkeys(("float32", "fp32", "f32"), 4.0),
    **dict.fromkeys(("float16", "bfloat16", "fp16", "f16", "bf16"), 2.0),
    "int8": 1.0,
    "int4": 0.5,
    "q8_0": 34 / 32,  # a block of 32 weights has a scale of two bytes
    "q4_0": 18 / 32,
    "q4_1": 20 / 32,
    "q5_0": 22 / 32,
    "q5_1": 24 / 32,
    "q2_k": 84 / 256,  # the K types: blocks of 256 with scales of their parts
    "q3_k": 110 / 256,
    "q4_k": 144 / 256,
    "q5_k": 176 / 256,
    "q6_k": 210 / 256,
    "iq4_nl": 18 / 32,
    "iq4_xs": 136 / 256,
}
"""Bytes per weight, by the engines' names of precisions."""
_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A model in Hugging Face layout, described by its configuration."""

    config: Mapping[str, Any]
    """config.json."""
    identity: str
    """SHA-256 over configuration and tokenizer: equal on every node."""
    parameters: int
    """Number of weights, computed from the configuration's shapes; shared embeddings count once."""

    @classmethod
    def read(cls, folder: Path) -> "Weights":
        """Read the folder's configuration; it need not hold the weights themselves.

        Raises `ModelUnusable` when config.json gives no sizes.
        """
        try:
            config, identity = _read_identity(folder)
            parameters = count_decoder_weights(config)
        except (OSError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise ModelUnusable("config.json does not give the sizes of a decoder; fetch the model again") from error
        return cls(config=config, identity=identity, parameters=parameters)

    @classmethod
    def read_encoder(cls, folder: Path, parameters: int) -> "Weights":
        """Read the folder of an embedding model with so many weights; raises `ModelUnusable` where a file cannot be read."""
        try:
            config, identity = _read_identity(folder)
        except (OSError, ValueError) as error:
            raise ModelUnusable("config.json or tokenizer.json cannot be read; fetch the model again") from error
        return cls(config=config, identity=identity, parameters=parameters)

    @property
    def family(self) -> str:
        """The architecture's short name, such as phi3."""
        return str(self.config.get("model_type", "unknown"))

    @property
    def stored_precision(self) -> str:
        """The checkpoint's own number format, as Ollama writes it."""
        kind = str(self.config.get("torch_dtype") or self.config.get("dtype") or "float32")
        return _NAMES.get(kind, kind.upper())

    @property
    def stored_bytes(self) -> int:
        """Size of the checkpoint's weights."""
        kind = str(self.config.get("torch_dtype") or self.config.get("dtype") or "float32")
        return int(self.parameters * _BYTES.get(kind, 4.0))

    def loaded_bytes(self, precision: str) -> int:
        """Return the bytes of the weights in an engine's precision; 0 for engines without weights."""
        if precision == "int4_mixed":
            finer = _count_finer_weights(self.config)
            return int((self.parameters - finer) * _BYTES["int4"] + finer * _BYTES["int8"])
        return int(self.parameters * _BYTES.get(precision, 0.0))

    def gpu_bytes(self, precision: str, layers: int | None) -> int:
        """Return the bytes of the weights on a GPU that has `layers`; of all for None or for more layers than the model has."""
        count = int(self.config.get("num_hidden_layers", 0))
        if layers is None or layers > count:
            return self.loaded_bytes(precision)
        return int(layers * _count_layer_weights(self.config) * _BYTES.get(precision, 0.0))

    @property
    def parameter_size(self) -> str:
        """Number of weights with a unit, as in 3.8B."""
        for unit, factor in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
            if self.parameters >= factor:
                return f"{self.parameters / factor:.1f}{unit}"
        return str(self.parameters)


def _read_identity(folder: Path) -> tuple[dict[str, Any], str]:
    """Return config.json, and the SHA-256 sum over it and the tokenizer."""
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        digest.update((folder / name).read_bytes())
    return json.loads((folder / "config.json").read_text()), digest.hexdigest()


def count_decoder_weights(config: Mapping[str, Any]) -> int:
    """Return the number of weights of a decoder: embeddings, layers and a last norm."""
    hidden, layers = int(config.get("hidden_size", 0)), int(config.get("num_hidden_layers", 0))
    embeddings = int(config.get("vocab_size", 0)) * hidden * (1 if has_tied_embeddings(config) else 2)
    return embeddings + layers * _count_layer_weights(config) + hidden


def _count_finer_weights(config: Mapping[str, Any]) -> int:
    """Return the number of weights that `int4_mixed` keeps in int8: the last matrix of every layer, and the head."""
    hidden, layers = int(config.get("hidden_size", 0)), int(config.get("num_hidden_layers", 0))
    return hidden * (layers * int(config.get("intermediate_size", 0)) + int(config.get("vocab_size", 0)))


def _count_layer_weights(config: Mapping[str, Any]) -> int:
    """Return the number of weights of one layer: projections of attention and MLP, norms, and biases where there are any."""
    hidden, inner = int(config.get("hidden_size", 0)), int(config.get("intermediate_size", 0))
    heads = int(config.get("num_attention_heads", 1))
    kv_heads = int(config.get("num_key_value_heads") or heads)
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    head = int(config.get("head_dim") or (architecture and architecture.head_dim) or hidden // heads)
    attention = hidden * head * (heads + 2 * kv_heads) + heads * head * hidden
    extra = 2 * head if architecture and architecture.qk_norms else 0
    if architecture and architecture.qkv_bias:
        extra += head * (heads + 2 * kv_heads)
    if config.get("attention_bias"):
        extra += head * (heads + 2 * kv_heads) + hidden
    if config.get("mlp_bias"):
        extra += 2 * inner + hidden
    return attention + 3 * hidden * inner + 2 * hidden + extra
