"""Prepares a folder that onnxruntime-genai's builder wrote, such as one from the hub: checks it and adapts a copy of its graph.

The copy goes into the cache with the weights beside it, as hard links where the file system allows them and as copies elsewhere
(onnxruntime refuses data files that are symbolic links beside a graph that is not). Nothing is written to the folder. Tokenizer and
configuration, stop tokens included, come from the model's path: the builder's transformers rewrote the folder's copies. Knows no
engine.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from serve_app.chat.vocabulary import read_json
from serve_app.engine_config import OnnxSettings
from serve_app.errors import ModelUnusable
from serve_app.files import genai_config
from serve_app.files.cache import Progress, cache_dir, write_cached_folder
from serve_app.files.onnx_files import OnnxFiles, find_external_tensors, inline_small_tensors, read_array, read_files
from serve_app.models import manifest
from serve_app.models.graph_summary import GraphSummary, require_model, summarize_graph
from serve_app.models.onnx_graph import adapt_model

logger = logging.getLogger(__name__)

_FORMAT = "1"
"""Part of the cache key; change it whenever the adapted folder changes."""
_GRAPH = "model.onnx"
_BESIDE = ("config.json", "tokenizer.json", "generation_config.json")
"""Files that the engine reads beside the graph, copied from the model's path; the last need not exist."""


def prepare(model_dir: Path, folder: Path, settings: OnnxSettings, progress: Progress) -> Path:
    """Return a cached folder with the adapted graph of `folder`; write it first if needed, and report to `progress` meanwhile.

    Raises `ModelUnusable` when the graph belongs to another model than `model_dir`, has another precision or context than
    `settings`, or cannot be adapted; when its files are damaged or lie elsewhere; and when they can neither be linked nor fit the
    disk.
    """
    progress("reading the ONNX folder", 0.0)
    source = _Source.read(model_dir, folder)
    target = write_cached_folder(
        cache_dir() / "onnx" / f"{source.fingerprint()}-built",
        "adapting the graph under `exported`",
        lambda folder: _write(source, folder, progress),
        is_whole=lambda folder: manifest.is_whole(folder, _find_linked_sums(source, folder)),
    )
    _require_settings(manifest.read_about(target), source.config, settings)
    return target


@dataclass(frozen=True, slots=True)
class _Source:
    """The builder's folder and the model, read and checked before anything is written."""

    model_dir: Path
    folder: Path
    config: dict[str, Any]
    """config.json of `model_dir`."""
    files: OnnxFiles
    name: str
    """The graph's file name in genai_config.json."""
    sums: dict[str, str]
    """SHA-256 sums of the data files by their locations in the graph."""

    @classmethod
    def read(cls, model_dir: Path, folder: Path) -> "_Source":
        """Read and check the files, and sum the data files."""
        if not (folder / genai_config.NAME).exists():
            raise ModelUnusable(_explain_absence(folder))
        written = genai_config.GenaiConfig.read(folder)
        files = read_files(folder, written.filename)
        sums = {location: _sum_data_file(folder / location, stored) for location, stored in files.data.items()}
        config = _read_json(model_dir / "config.json")
        return cls(model_dir, folder, config, files, written.filename, sums)

    @property
    def names(self) -> dict[str, str]:
        """Names of the data files in the cache by location; two locations of one file share a name."""
        stored = sorted(set(self.files.data.values()))
        return {location: f"{_GRAPH}.data{stored.index(path) or ''}" for location, path in self.files.data.items()}

    def fingerprint(self) -> str:
        """Return a hash of everything that the adapted folder depends on."""
        digest = hashlib.blake2b(digest_size=8)
        beside = [self.folder / "tokenizer.json", *(self.model_dir / name for name in _BESIDE)]
        beside_sums = [manifest.sum_file(file) if file.exists() else "" for file in (self.files.graph, *beside)]
        for part in (_FORMAT, *beside_sums, *sorted(self.sums.items())):
            digest.update(f"{part};".encode())
        return digest.hexdigest()


def _explain_absence(folder: Path) -> str:
    """Return why `folder` cannot be served, and its subfolders that can: repositories have a subfolder for each device."""
    if not folder.is_dir():
        return "`exported` is no folder on this node; every node that runs the group needs it"
    below = sorted(
        file.parent.relative_to(folder).as_posix() for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{genai_config.NAME}")
    )
    hint = f"; set it to a subfolder: {', '.join(below)}" if below else ""
    return (
        f"the folder under `exported` has neither {manifest.NAME} (of `phi-serve export onnx`) nor {genai_config.NAME} (of "
        f"onnxruntime-genai's builder){hint}"
    )


def _sum_data_file(written: Path, stored: Path) -> str:
    """Return the SHA-256 sum of a data file; the hub names large files by it, which saves reading gigabytes."""
    if stored.parent.name == "blobs" and written.is_symlink() and re.fullmatch("[0-9a-f]{64}", stored.name):
        return stored.name
    return manifest.sum_file(stored)


def _find_linked_sums(source: _Source, target: Path) -> dict[str, str]:
    """Return the known SHA-256 sums of the data files in `target` that are hard links to the source's."""
    linked = {}
    for location, name in source.names.items():
        with suppress(OSError):
            if (target / name).samefile(source.files.data[location]):
                linked[name] = source.sums[location]
    return linked


def _write(source: _Source, folder: Path, progress: Progress) -> None:
    """Write the adapted graph, the files beside it and the manifest into the empty `folder`."""
    logger.info("adapting the ONNX graph under `exported`, once; later starts use the cache")
    progress("adapting the ONNX graph", 0.0)
    found = _adapt(source, folder / _GRAPH)
    require_model(found, source.config, source.name)
    _compare_tokenizers(source.model_dir, source.folder)
    _place_weights(source, folder, progress)
    for name in _BESIDE:
        if (source.model_dir / name).exists():
            shutil.copyfile(source.model_dir / name, folder / name)
    (folder / genai_config.NAME).write_text(json.dumps(_build_genai_config(found), indent=2) + "\n")
    about = {
        "format": "onnx",
        "precision": found.precisions[0],
        "block_size": str(found.block_size),
        "accuracy_level": str(found.accuracy_level),
        "rotary_positions": str(found.rotary[0].shape[0] if found.rotary else 0),
        "builder": f"{source.files.model.producer_name} {source.files.model.producer_version}".strip(),
    }
    manifest.write(folder, about, {source.names[location]: each for location, each in source.sums.items()})


def _adapt(source: _Source, target: Path) -> GraphSummary:
    """Write the adapted graph, with the data files' names in the cache, and return its summary."""
    try:
        inline_small_tensors(source.files)
        model = ir.from_proto(source.files.model)
        adapt_model(model)
        found = summarize_graph(model, partial(read_array, source.files))
        proto = ir.to_proto(model)
    except LookupError as error:
        reason = error.args[0] if type(error) is LookupError else "is malformed"
        raise ModelUnusable(f"the graph {source.name} {reason}; {_INSTEAD}") from error
    except (ValueError, TypeError, AttributeError, ir.serde.SerdeError) as error:
        logger.exception("%s cannot be read", source.name)
        raise ModelUnusable(f"the graph {source.name} is malformed; {_INSTEAD}") from error
    names = source.names
    for tensor in find_external_tensors(proto):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = names[entry.value]
    target.write_bytes(proto.SerializeToString())
    return found


_INSTEAD = "take a folder built for CPUs with onnxruntime-genai, or leave `exported` out and let the replica export the model"


def _place_weights(source: _Source, folder: Path, progress: Progress) -> None:
    """Put the data files into `folder`, as hard links where possible, else as copies; raises `ModelUnusable` unless they fit."""
    copied = []
    for stored, name in {source.files.data[location]: name for location, name in source.names.items()}.items():
        try:
            os.link(stored, folder / name)
        except OSError:  # another file system, one without hard links, or a file that may not be linked
            copied.append((stored, folder / name))
    needed, free = sum(stored.stat().st_size for stored, _ in copied), shutil.disk_usage(folder).free
    if needed + _MARGIN > free:
        raise ModelUnusable(
            f"the weights under `exported` cannot be linked into the cache, and a copy takes {needed / 2**30:.1f} GiB of the "
            f"{free / 2**30:.1f} GiB free there; set PHI_SERVE_CACHE to a folder on the weights' own file system, or make room"
        )
    done = 0
    for stored, path in copied:
        progress("copying the weights into the cache", done / needed)
        shutil.copyfile(stored, path)
        done += stored.stat().st_size


_MARGIN = 2**26
"""Bytes of disk to leave free."""


def _compare_tokenizers(model_dir: Path, folder: Path) -> None:
    """Raise `ModelUnusable` when an ordinary token has another id in the folder than in the model.

    Added tokens are not compared. Transformers may have renumbered them when it wrote the folder, but prompts use the model's ids,
    which the weights were trained with.
    """
    file = folder / "tokenizer.json"
    if not file.exists() or file.read_bytes() == (model_dir / "tokenizer.json").read_bytes():
        return
    theirs, their_added = _read_vocabulary(file, "tokenizer.json under `exported`")
    ours, our_added = _read_vocabulary(model_dir / "tokenizer.json", "tokenizer.json of the model's path")
    moved = {token for token, number in their_added.items() if our_added.get(token, number) != number}
    if moved:
        logger.warning(
            "tokenizer.json under `exported` gives %d added tokens other ids than the model's, which are used", len(moved)
        )
    for token in sorted(theirs.keys() | ours.keys()):
        if token not in their_added and token not in our_added and theirs.get(token) != ours.get(token):
            raise ModelUnusable(
                f"tokenizer.json under `exported` gives {token!r} the id {theirs.get(token)}, and that of the model's path "
                f"{ours.get(token)}: it is another model's; set the model's path to the model that the folder was built from"
            )


def _read_vocabulary(file: Path, where: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return the ids of ordinary tokens and of added tokens."""
    content = _read_json(file)
    try:
        added = {str(token["content"]): int(token["id"]) for token in content.get("added_tokens") or []}
        return {str(token): int(number) for token, number in content["model"]["vocab"].items()}, added
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelUnusable(f"{where} has no vocabulary of byte-level BPE; fetch the folder again") from error


def _read_json(file: Path) -> dict[str, Any]:
    content = read_json(file.parent, file.name)
    if content is None:
        raise ModelUnusable(f"{file.name} is missing; fetch the model again")
    return content


def _build_genai_config(found: GraphSummary) -> dict[str, Any]:
    """Return the cached folder's genai_config.json, from the graph itself."""
    decoder = {
        "filename": _GRAPH,
        "head_size": found.head_dim,
        "hidden_size": found.hidden_size,
        "num_attention_heads": found.heads,
        "num_hidden_layers": found.layers,
        "num_key_value_heads": found.kv_heads,
    }
    return {"model": {"decoder": decoder, "vocab_size": found.vocabulary_size}}


def _require_settings(about: dict[str, str], config: dict[str, Any], settings: OnnxSettings) -> None:
    """Raise `ModelUnusable` when the settings ask for another precision, or for more context than the rotary tables hold."""
    found = about["precision"]
    if settings.precision not in ((found, "int4") if found == "int4_mixed" else (found,)):
        raise ModelUnusable(
            f"the folder under `exported` holds {found} weights, but precision is {settings.precision}; set precision: {found}"
        )
    positions = int(about["rotary_positions"])
    wanted = min(settings.max_model_len, int(config.get("original_max_position_embeddings") or settings.max_model_len))
    if 0 < positions < wanted:
        raise ModelUnusable(
            f"max_model_len: {settings.max_model_len} is over the {positions} positions of the graph's rotary tables"
        )
    logger.info("the graph under `exported`: %s", ", ".join(f"{key} {value}" for key, value in about.items()))
