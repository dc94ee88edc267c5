"""Reads a folder's safetensors files piece by piece, with only one piece in memory.

Knows the file format; knows nothing of the tensors' meaning.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.chat.vocabulary import read_json
from serve_app.errors import ModelUnusable
from serve_app.files.encoder_folder import find_graph

_INDEX = "model.safetensors.index.json"
_BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")
"""Tensors with one row for each token id."""
_TYPES: dict[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The place and shape of one tensor."""

    file: Path
    type: str
    """The number format: F32, F16, BF16 or F64."""
    shape: tuple[int, ...]
    begin: int
    """First byte in the file."""


class Checkpoint:
    """The tensors of a folder by name."""

    def __init__(self, folder: Path) -> None:
        """Read the headers; raises `ModelUnusable` naming a damaged file, and for a folder without safetensors files."""
        self.tensors: dict[str, StoredTensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            self.tensors |= _read_header(file)
        if not self.tensors:
            raise ModelUnusable("the model's folder has no *.safetensors file; fetch the model again")

    def require_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `ModelUnusable` naming the tensor when it is missing, has another shape or an unknown number format."""
        stored = self.tensors.get(name)
        if stored is None:
            raise ModelUnusable(f"the checkpoint has no tensor {name}; it is not of the architecture that its config.json names")
        if stored.shape != shape:
            raise ModelUnusable(f"the checkpoint's tensor {name} has the shape {stored.shape}, but config.json asks for {shape}")
        if stored.type not in _TYPES:
            raise ModelUnusable(f"the checkpoint's tensor {name} is stored as {stored.type}; convert it to BF16, F16 or F32")

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows `start` to `stop` along the first axis in float32; raises `ModelUnusable` when there is no such tensor."""
        stored = self.tensors.get(name)
        if stored is None:
            raise ModelUnusable(f"the checkpoint has no tensor {name}; it is not of the architecture that its config.json names")
        width = math.prod(stored.shape[1:])
        kind = np.dtype(_TYPES[stored.type])
        with stored.file.open("rb") as stream:
            stream.seek(stored.begin + start * width * kind.itemsize)
            raw = np.frombuffer(stream.read((stop - start) * width * kind.itemsize), kind)
        if stored.type == "BF16":  # the upper half of a float32
            raw = (raw.astype("<u4") << 16).view("<f4")
        return raw.astype(np.float32, copy=False).reshape(stop - start, *stored.shape[1:])


def count_weights(folder: Path) -> int:
    """Return the number of weights, from the headers alone."""
    return sum(math.prod(stored.shape) for file in folder.glob("*.safetensors") for stored in _read_header(file).values())


def find_missing_files(folder: Path, *, weights: bool) -> list[str]:
    """Return the names of the files that a model's folder lacks; a dangling link counts as lacking.

    With `weights` the parts that an index names are required too, and without an index any file of weights or a graph.
    """
    wanted = ["config.json", "tokenizer.json"]
    if weights:
        index = read_json(folder, _INDEX) or {}
        parts = set(map(str, index["weight_map"].values())) if isinstance(index.get("weight_map"), dict) else set()
        wanted += sorted(parts) or [file.name for file in folder.glob("*.safetensors")]
        if len(wanted) == 2 and not any(folder.glob("*.bin")) and find_graph(folder) is None:
            wanted.append("model.safetensors")
    return [name for name in wanted if not (folder / name).is_file()]


def require_rows(folder: Path) -> None:
    """Raise `ModelUnusable` unless embedding and head have as many rows as config.json's vocab_size; reads headers only."""
    size = (read_json(folder, "config.json") or {}).get("vocab_size")
    for file in sorted(folder.glob("*.safetensors")):
        for name, stored in _read_header(file).items():
            if name in _BY_TOKEN and size is not None and stored.shape[:1] != (size,):
                rows = stored.shape[0] if stored.shape else 0
                raise ModelUnusable(
                    f"{name} in {file.name} has {rows} rows, but config.json says vocab_size: {size}; fetch the model again"
                )


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """Read the header: eight bytes of length, then JSON with type, shape and place of every tensor."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > size:
                raise ValueError
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        found = {}
        for name, tensor in header.items():
            shape, (begin, end) = tuple(map(int, tensor["shape"])), tensor["data_offsets"]
            if tensor["dtype"] in _TYPES and end - begin != math.prod(shape) * np.dtype(_TYPES[tensor["dtype"]]).itemsize:
                raise ValueError
            if not 0 <= begin <= end <= size - 8 - length:
                raise ValueError
            found[name] = StoredTensor(file, tensor["dtype"], shape, 8 + length + begin)
    except OSError as error:
        raise ModelUnusable(f"{file.name} cannot be read; fetch the model again") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ModelUnusable(f"{file.name} is not a safetensors file; fetch the model again") from error
    return found
