"""Reads genai_config.json, which onnxruntime-genai's builder and our own export write beside a graph. Knows no graph."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ModelUnusable

NAME = "genai_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenaiConfig:
    """The file's description of the decoder."""

    filename: str
    """The graph's file within the folder."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary_size: int

    @classmethod
    def read(cls, folder: Path) -> "GenaiConfig":
        """Read the folder's file; raises `ModelUnusable` naming the key that is missing or of the wrong type."""
        try:
            content = json.loads((folder / NAME).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ModelUnusable(f"{NAME} is missing or is not JSON; fetch the folder again") from error
        model = _require(content, "model", dict, NAME)
        decoder = _require(model, "decoder", dict, "model")
        return cls(
            filename=_require(decoder, "filename", str, "model.decoder"),
            layers=_require(decoder, "num_hidden_layers", int, "model.decoder"),
            heads=_require(decoder, "num_attention_heads", int, "model.decoder"),
            kv_heads=_require(decoder, "num_key_value_heads", int, "model.decoder"),
            head_dim=_require(decoder, "head_size", int, "model.decoder"),
            vocabulary_size=_require(model, "vocab_size", int, "model"),
        )


def _require(content: object, key: str, kind: type, where: str) -> Any:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ModelUnusable(f"{NAME} has no usable {key} in {where}; fetch the folder again, or build it again")
    return value
