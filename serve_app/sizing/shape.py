"""A model's sizes, from its config.json alone. Reads no weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from serve_app.errors import ModelUnusable
from serve_app.files.encoder_folder import EncoderFolder
from serve_app.models.architectures import ARCHITECTURES
from serve_app.models.encoder_export.architecture import read_shape
from serve_app.models.weights import Weights, count_decoder_weights
from serve_app.validation.hub import find_folder

_PHI_4_MINI: Mapping[str, Any] = MappingProxyType(
    {
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "vocab_size": 200_064,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131_072,
        "original_max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    }
)
KNOWN: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {f"microsoft/phi-4-mini-{name}": _PHI_4_MINI for name in ("instruct", "reasoning")}
)
"""Sizes of models that may be planned before their files are on this machine, by hub id in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """The sizes of a model that generates."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    weights: Weights
    """Its number of weights, and their bytes in each precision."""

    @property
    def cached_numbers(self) -> int:
        """Numbers of keys and values that one token adds to the KV cache, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSizes:
    """The sizes of a model that makes embeddings."""

    parameters: int
    heads: int
    hidden: int
    inner: int
    vocabulary: int
    longest: int
    """Most tokens of an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """What is known of a model before it is loaded."""

    config: Mapping[str, Any]
    """config.json."""
    folder: Path | None
    """Where its files are on this machine; None: nowhere, and the sizes are those of `KNOWN`."""


def find_model(path: str) -> ModelFiles:
    """Return a model's configuration; raises `ModelUnusable` where there is none on this machine and it is none of `KNOWN`."""
    folder = find_folder(path)
    if folder is None:
        known = KNOWN.get(path.lower())
        if known is None:
            raise ModelUnusable(
                f"nothing of {path} is on this machine; fetch its config.json first: `hf download {path} config.json`"
            )
        return ModelFiles(config=known, folder=None)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"config.json is missing or unreadable in {folder}; fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelUnusable(f"config.json in {folder} is no object; fetch the model again")
    return ModelFiles(config=config, folder=folder)


def read_decoder_shape(config: Mapping[str, Any]) -> DecoderShape:
    """Return the sizes that a config.json gives; raises `ModelUnusable` where they are missing."""
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        architecture = ARCHITECTURES.get(str(config.get("model_type")))
        return DecoderShape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            inner=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or (architecture and architecture.head_dim) or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            weights=Weights(config=config, identity="", parameters=count_decoder_weights(config)),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelUnusable("config.json does not give the sizes of a decoder; fetch the model again") from error


def read_encoder_sizes(files: ModelFiles) -> EncoderSizes:
    """Return the sizes of an embedding model; raises `ModelUnusable` where its files do not give them."""
    if files.folder is None:
        raise ModelUnusable("the files of the embedding model are not on this machine; run `hf download` for it")
    about, shape = EncoderFolder.read(files.folder), read_shape(files.config)
    return EncoderSizes(
        parameters=shape.weights,
        heads=shape.heads,
        hidden=shape.hidden,
        inner=shape.inner,
        vocabulary=shape.vocabulary,
        longest=about.max_tokens,
    )
