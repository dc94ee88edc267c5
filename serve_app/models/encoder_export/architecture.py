"""The encoders that the export can write, by config.json's `model_type`, and the names of their tensors. Knows no graph."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import ModelUnusable
from serve_app.files.encoder_folder import find_first_position, read_size
from serve_app.models.checkpoint import Checkpoint

_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
_INSTEAD = "give a folder with model.onnx, as `optimum-cli export onnx` writes it"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNames:
    """The tensors of one layer, by the beginning of their names; each has `.weight` and `.bias`."""

    query: str
    key: str
    value: str
    attended: str
    """The matrix after attention."""
    attention_norm: str
    up: str
    down: str
    output_norm: str


_BERT = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attended="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
_DISTILBERT = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attended="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
)
_MPNET = LayerNames(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attended="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
_LAYERS = {
    "bert": ("encoder.layer", _BERT),
    "roberta": ("encoder.layer", _BERT),
    "xlm-roberta": ("encoder.layer", _BERT),
    "camembert": ("encoder.layer", _BERT),
    "distilbert": ("transformer.layer", _DISTILBERT),
    "mpnet": ("encoder.layer", _MPNET),
}
"""Where the layers are, and the names within one, by model_type."""
RELATIVE_BIAS = "encoder.relative_attention_bias.weight"
"""MPNet's bias of attention by distance (buckets, heads)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """The sizes of an encoder, and where its tensors are."""

    kind: str
    """The model_type."""
    hidden: int
    heads: int
    layers: int
    inner: int
    vocabulary: int
    positions: int
    """Rows of the position embeddings."""
    first_position: int
    """Row of the first token."""
    token_types: int
    """Rows of the token types' embeddings; 0: it has none."""
    buckets: int
    """Rows of the relative attention bias; 0: it has none."""
    epsilon: float
    """Added by the norms."""
    activation: str

    @property
    def weights(self) -> int:
        """Number of weights that an embedding is computed from."""
        layer = 4 * self.hidden * (self.hidden + 1) + 2 * self.hidden * self.inner + self.inner + self.hidden + 4 * self.hidden
        rows = self.vocabulary + self.positions + self.token_types + 2
        return rows * self.hidden + self.layers * layer + self.buckets * self.heads


def read_shape(config: Mapping[str, Any]) -> EncoderShape:
    """Return the shape that config.json describes; raises `ModelUnusable` for an encoder that the export cannot write."""
    kind = config.get("model_type")
    if kind not in _LAYERS:
        raise ModelUnusable(f"model_type in config.json is {_show(kind)}; the export knows only {', '.join(_LAYERS)}: {_INSTEAD}")
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            raise ModelUnusable(f"{key} in config.json is {_show(config[key])}; the export writes encoders only: {_INSTEAD}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelUnusable(
            f"position_embedding_type in config.json is {_show(config['position_embedding_type'])}; the export knows absolute "
            f"only: {_INSTEAD}"
        )
    activation = config.get("activation" if kind == "distilbert" else "hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise ModelUnusable(f"hidden_act in config.json is {_show(activation)}; the export knows {', '.join(_ACTIVATIONS)}")
    hidden, heads = read_size(config, "hidden_size", "dim"), read_size(config, "num_attention_heads", "n_heads")
    if hidden % heads:
        raise ModelUnusable(f"hidden_size {hidden} in config.json is no multiple of num_attention_heads {heads}")
    return EncoderShape(
        kind=kind,
        hidden=hidden,
        heads=heads,
        layers=read_size(config, "num_hidden_layers", "n_layers"),
        inner=read_size(config, "intermediate_size", "hidden_dim"),
        vocabulary=read_size(config, "vocab_size"),
        positions=read_size(config, "max_position_embeddings"),
        first_position=find_first_position(config),
        token_types=int(config.get("type_vocab_size", 2)) if kind not in ("distilbert", "mpnet") else 0,
        buckets=int(config.get("relative_attention_num_buckets", 32)) if kind == "mpnet" else 0,
        epsilon=_read_epsilon(config, kind),
        activation=activation,
    )


def _read_epsilon(config: Mapping[str, Any], kind: str) -> float:
    value = config.get("layer_norm_eps", 1e-12)
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise ModelUnusable(f"layer_norm_eps in config.json is {_show(value)}, not a small number above 0; fetch the model again")
    return 1e-12 if kind == "distilbert" else float(value)


def _show(value: object) -> str:
    return json.dumps(value, default=str)[:40]  # text within a sentence, where NaN may stand


class EncoderCheckpoint:
    """The tensors of an encoder, by names without the checkpoint's own prefix."""

    def __init__(self, folder: Path, shape: EncoderShape) -> None:
        """Read the headers; raises `ModelUnusable` where a tensor is missing or has another shape than config.json says."""
        self._tensors = Checkpoint(folder)
        word = "embeddings.word_embeddings.weight"
        found = next((name for name in self._tensors.tensors if name == word or name.endswith("." + word)), word)
        self._prefix = found.removesuffix(word)
        self._shapes = dict(_list_shapes(shape))
        for name, wanted in self._shapes.items():
            self._tensors.require_tensor(self._prefix + name, wanted)

    def read(self, name: str) -> Any:
        """Return a tensor in float32; raises `ModelUnusable` for values that are not finite."""
        values = self._tensors.read_rows(self._prefix + name, 0, self._shapes[name][0])
        if not math.isfinite(float(values.sum(dtype="float64"))):
            raise ModelUnusable(
                f"the checkpoint's tensor {self._prefix}{name} has values that are not finite; fetch the model again"
            )
        return values


def find_layer(shape: EncoderShape, layer: int) -> LayerNames:
    """Return the names of the tensors of one layer."""
    root, names = _LAYERS[shape.kind]
    return LayerNames(**{part: f"{root}.{layer}.{getattr(names, part)}" for part in LayerNames.__dataclass_fields__})


def _list_shapes(shape: EncoderShape) -> list[tuple[str, tuple[int, ...]]]:
    """Return every tensor that the export reads, with its shape."""
    hidden, inner = shape.hidden, shape.inner
    tables = {"word": shape.vocabulary, "position": shape.positions} | (
        {"token_type": shape.token_types} if shape.token_types else {}
    )
    found: list[tuple[str, tuple[int, ...]]] = [
        (f"embeddings.{each}_embeddings.weight", (rows, hidden)) for each, rows in tables.items()
    ]
    vectors = ["embeddings.LayerNorm"]
    if shape.buckets:
        found.append((RELATIVE_BIAS, (shape.buckets, shape.heads)))
    for layer in range(shape.layers):
        names = find_layer(shape, layer)
        vectors += [names.attention_norm, names.output_norm]
        for name in (names.query, names.key, names.value, names.attended):
            found += [(f"{name}.weight", (hidden, hidden)), (f"{name}.bias", (hidden,))]
        found += [(f"{names.up}.weight", (inner, hidden)), (f"{names.up}.bias", (inner,))]
        found += [(f"{names.down}.weight", (hidden, inner)), (f"{names.down}.bias", (hidden,))]
    return found + [(f"{name}.{part}", (hidden,)) for name in vectors for part in ("weight", "bias")]
