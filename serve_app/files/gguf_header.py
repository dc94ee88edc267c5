"""Reads a GGUF file's header without trusting it: every size is checked against the file's length.

llama.cpp aborts its process on some damaged files, so every file is checked first. Memory and time are bounded: all entries that
the header counts must lie in the file, and the header within its first 256 MiB.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from serve_app.errors import ModelUnusable

_MAX_NAME_BYTES = 64
"""llama.cpp's limit for tensors' names; longer ones overrun."""
_MAX_TENSORS = 1 << 16
_MAX_KEYS = 1 << 12
_MAX_ALIGNMENT = 1 << 16
_MAX_ENTRIES = 1 << 22
"""Most entries of one list; the largest known vocabularies and their merges have a tenth."""
_MAX_HEADER_BYTES = 1 << 28
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's entry."""

    shape: tuple[int, ...]
    """In the file's order: the fastest dimension first."""
    type: str
    bytes: int
    offset: int
    """First byte, counted from the beginning of the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The checked header."""

    keys: dict[str, Any]
    tensors: dict[str, TensorInfo]
    version: int
    spans: dict[str, tuple[int, int]]
    """For each key with its value, its first byte and the first byte after it."""
    entries: tuple[int, int]
    """First byte of all tensors' entries, and the first byte after them."""
    data_begin: int
    """First byte of the tensors' data, which `TensorInfo.offset` counts from."""
    alignment: int


class _HeaderError(ValueError):
    """A fault of the header; its text completes the message."""


def read_header(file: Path) -> Header:
    """Return the header of `file`; raises `ModelUnusable` naming the fault when the header is inconsistent."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _read(content)
    except _HeaderError as error:
        raise ModelUnusable(f"{file.name} is not a valid GGUF file: {error}; export or fetch it again") from error
    except (OSError, ValueError) as error:  # also an empty file, which cannot be mapped
        raise ModelUnusable(f"{file.name} cannot be read as a GGUF file; check that it exists and is not empty") from error


class _Cursor:
    """Reads values one after the other, never beyond the end."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.position = 0
        self.size = len(content)

    def require(self, count: int, what: str) -> None:
        if count > self.size - self.position:
            raise _HeaderError(f"{what} would end beyond the file's {self.size} bytes")
        if self.position + count > _MAX_HEADER_BYTES:
            raise _HeaderError(f"{what} would end beyond the {_MAX_HEADER_BYTES >> 20} MiB that a header may have")

    def read_scalar(self, form: str, what: str) -> Any:
        length = struct.calcsize(form)
        self.require(length, what)
        (value,) = struct.unpack_from(form, self.content, self.position)
        self.position += length
        return value

    def read_string(self, what: str, limit: int | None = None) -> str:
        length = self.read_scalar("<Q", what)
        if limit is not None and length > limit:
            raise _HeaderError(f"{what} has {length} bytes, over the limit of {limit}")
        self.require(length, what)
        raw = self.content[self.position : self.position + length]
        self.position += length
        return raw.decode("utf-8", "surrogateescape")

    def read_array(self, what: str) -> list[Any]:
        kind, count = self.read_scalar("<I", what), self.read_scalar("<Q", what)
        if count > _MAX_ENTRIES:
            raise _HeaderError(f"{what} is a list of {count} entries, over the limit of {_MAX_ENTRIES}")
        if kind == _STRING:
            self.require(8 * count, what)
            return [self.read_string(what) for _ in range(count)]
        if kind not in _SCALARS:
            raise _HeaderError(f"{what} is a list of an unknown type {kind}")
        form = _SCALARS[kind]
        length = count * struct.calcsize(form)
        self.require(length, what)
        values = struct.unpack_from(f"<{count}{form[1]}", self.content, self.position)
        self.position += length
        return list(values)

    def read_value(self, what: str) -> Any:
        kind = self.read_scalar("<I", what)
        if kind == _STRING:
            return self.read_string(what)
        if kind == _ARRAY:
            return self.read_array(what)
        if kind not in _SCALARS:
            raise _HeaderError(f"{what} has an unknown type {kind}")
        return self.read_scalar(_SCALARS[kind], what)


def _read(content: mmap.mmap) -> Header:
    cursor = _Cursor(content)
    cursor.require(24, "the header")
    if content[:4] != b"GGUF":
        raise _HeaderError("it does not begin with GGUF")
    cursor.position = 4
    version = cursor.read_scalar("<I", "the version")
    if version not in (2, 3):
        raise _HeaderError(f"its version is {version}, and 2 and 3 are known")
    tensor_count, key_count = cursor.read_scalar("<Q", "the number of tensors"), cursor.read_scalar("<Q", "the number of keys")
    if not 0 < tensor_count <= _MAX_TENSORS or not 0 < key_count <= _MAX_KEYS:
        raise _HeaderError(f"it claims {tensor_count} tensors and {key_count} keys")
    keys: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(key_count):
        begin = cursor.position
        name = cursor.read_string("a key", 1 << 16)
        if name in keys:
            raise _HeaderError(f"the key {name[:80]!r} is there twice")
        keys[name] = cursor.read_value(f"the value of {name[:80]!r}")
        spans[name] = (begin, cursor.position)
    begin = cursor.position
    tensors: dict[str, TensorInfo] = {}
    for _ in range(tensor_count):
        name = cursor.read_string("a tensor's name", _MAX_NAME_BYTES - 1)
        if name in tensors:
            raise _HeaderError(f"the tensor {name!r} is there twice")
        tensors[name] = _read_tensor(cursor, f"the tensor {name!r}")
    alignment = _read_alignment(keys)
    data_begin = cursor.position + -cursor.position % alignment
    _check_offsets(cursor.size, data_begin, alignment, tensors)
    return Header(
        keys=keys,
        tensors=tensors,
        version=version,
        spans=spans,
        entries=(begin, cursor.position),
        data_begin=data_begin,
        alignment=alignment,
    )


def _read_tensor(cursor: _Cursor, what: str) -> TensorInfo:
    dimensions = cursor.read_scalar("<I", what)
    if not 1 <= dimensions <= 4:
        raise _HeaderError(f"{what} has {dimensions} dimensions")
    shape = tuple(cursor.read_scalar("<Q", what) for _ in range(dimensions))
    kind, offset = cursor.read_scalar("<I", what), cursor.read_scalar("<Q", what)
    try:
        known = GGMLQuantizationType(kind)
        per_block, block_bytes = GGML_QUANT_SIZES[known]
    except (ValueError, KeyError) as error:
        raise _HeaderError(f"{what} has an unknown type {kind}") from error
    if 0 in shape or shape[0] % per_block:
        raise _HeaderError(f"{what} has a shape {shape} that its type {known.name} cannot have")
    return TensorInfo(shape, known.name, math.prod(shape) // per_block * block_bytes, offset)


def _read_alignment(keys: dict[str, Any]) -> int:
    alignment = keys.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise _HeaderError("its alignment is not a power of two between 8 and 65536")
    return alignment


def _check_offsets(size: int, begin: int, alignment: int, tensors: dict[str, TensorInfo]) -> None:
    """Check that the tensors neither overlap nor exceed the file's `size`; `begin` is the first byte of their data."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.offset % alignment or tensor.offset < end:
            raise _HeaderError(f"the tensor {name!r} lies at {tensor.offset}, inside another or not aligned")
        end = tensor.offset + tensor.bytes
        if begin + end > size:
            raise _HeaderError(f"the tensor {name!r} would end at byte {begin + end} of {size}: the file is cut short")
