"""Reads the folder of an embedding model, as the library sentence-transformers writes it: sizes, limits, pooling, normalization.

A folder without the library's files (a plain encoder) has defaults. Knows no graph, no tokenizer and no engine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.chat.vocabulary import read_json
from serve_app.errors import ModelUnusable

GRAPHS = ("model.onnx", "onnx/model.onnx")
"""Where exporters put the graph of an encoder, within the model's folder."""
COPIED = ("*.json", "*_Pooling/config.json", "*.txt")
"""Patterns of the small files that make an exported folder complete."""
_MODULES = "modules.json"
_SERVED_MODULES = ("Transformer", "Pooling", "Normalize")
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
"""Models whose first position is the one after the id of padding."""
_MODES = {"mean_tokens": "mean", "cls_token": "cls"}
_DEFAULT_POSITIONS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFolder:
    """The facts of an embedding model."""

    config: Mapping[str, Any]
    """config.json."""
    dimensions: int
    """Components of a vector."""
    vocabulary: int
    """Token ids are below it."""
    max_tokens: int
    """Most tokens of one input, special tokens included."""
    pooling: str
    """`mean`, `cls`, or the library's name of another mode, which needs a setting in its place."""
    normalized: bool
    """Whether vectors are scaled to the length 1."""
    prefix: str
    """Text that the model wants before every text."""
    lowercase: bool
    """Whether texts are lowercased before the tokenizer reads them."""

    @classmethod
    def read(cls, folder: Path) -> "EncoderFolder":
        """Read the files; raises `ModelUnusable` naming the file and the key that cannot be used."""
        config = read_json(folder, "config.json")
        if config is None:
            raise ModelUnusable("the model's folder has no config.json; give a folder in Hugging Face layout")
        modules = _read_modules(folder)
        transformer = _read_first(folder, "sentence_*_config.json")
        return cls(
            config=config,
            dimensions=read_size(config, "hidden_size", "dim"),
            vocabulary=read_size(config, "vocab_size"),
            max_tokens=_find_max_tokens(folder, config, transformer),
            pooling=_find_pooling(folder),
            normalized="Normalize" in modules if modules else True,
            prefix=_find_prefix(folder),
            lowercase=transformer.get("do_lower_case") is True,
        )


def find_graph(folder: Path) -> str | None:
    """Return where in the folder the graph of an encoder is; None without one."""
    return next((name for name in GRAPHS if (folder / name).is_file()), None)


def read_size(config: Mapping[str, Any], *names: str) -> int:
    """Return the first of the sizes of config.json that is there; raises `ModelUnusable` without a positive whole number."""
    value = next((config[name] for name in names if config.get(name) is not None), None)
    if type(value) is not int or value < 1:
        raise ModelUnusable(f"{names[0]} in config.json is not a positive whole number; fetch the model again")
    return value


def find_first_position(config: Mapping[str, Any]) -> int:
    """Return the row of the position embeddings that belongs to the first token."""
    if config.get("model_type") not in _OFFSET_POSITIONS:
        return 0
    padding = config.get("pad_token_id")
    return (padding if type(padding) is int else 1) + 1


def _find_max_tokens(folder: Path, config: Mapping[str, Any], transformer: Mapping[str, Any]) -> int:
    """Return the least of the limits that the files give."""
    limits = [transformer.get("max_seq_length"), (read_json(folder, "tokenizer_config.json") or {}).get("model_max_length")]
    positions = config.get("max_position_embeddings")
    if type(positions) is int:
        limits.append(positions - find_first_position(config))
    usable = [limit for limit in limits if type(limit) is int and limit > 0]
    return min(usable, default=_DEFAULT_POSITIONS)


def _read_modules(folder: Path) -> list[str]:
    """Return the names of the library's modules, in order; raises `ModelUnusable` for one that is not computed here."""
    file = folder / _MODULES
    if not file.exists():
        return []
    modules = _read_json_list(file)
    names = [str(each.get("type", "")).rpartition(".")[2] for each in modules if isinstance(each, dict)]
    for name in names:
        if name not in _SERVED_MODULES:
            raise ModelUnusable(
                f"{_MODULES} has a module {name[:40]!r}; an onnx_encoder group computes {', '.join(_SERVED_MODULES)} only"
            )
    return names


def _read_json_list(file: Path) -> list[Any]:
    """Return the JSON list in a file; raises `ModelUnusable` for any other content."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnusable(f"{file.name} cannot be read as JSON; fetch the model again") from error
    if not isinstance(value, list):
        raise ModelUnusable(f"{file.name} is not a JSON list; fetch the model again")
    return value


def _find_pooling(folder: Path) -> str:
    """Return the mode of the library's pooling module; several modes at once are joined by `+`."""
    config = _read_first(folder, "*_Pooling/config.json")
    named = config.get("pooling_mode")
    if isinstance(named, str):
        return _MODES.get(f"{named}_tokens", _MODES.get(f"{named}_token", named))
    modes = [name.removeprefix("pooling_mode_") for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    return "+".join(_MODES.get(mode, mode) for mode in modes) or "mean"


def _find_prefix(folder: Path) -> str:
    """Return the prompt that the library puts before every text by default."""
    settings = read_json(folder, "config_sentence_transformers.json") or {}
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    prefix = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    return prefix if isinstance(prefix, str) else ""


def _read_first(folder: Path, pattern: str) -> Mapping[str, Any]:
    """Return the object in the first file that fits; empty without one."""
    file = next(iter(sorted(folder.glob(pattern))), None)
    return {} if file is None else read_json(file.parent, file.name) or {}
