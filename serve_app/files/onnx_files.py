"""Finds the files of an ONNX graph and checks that none lies outside its folder.

onnxruntime itself opens the data files that a graph names, so every load path checks them here before it creates a session. Knows
no operator.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from serve_app.errors import ModelUnusable
from serve_app.files.inside import resolve_inside

_BITS = {
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64"), 64),
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 32),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 16),
    **dict.fromkeys(("INT8", "UINT8", "BOOL", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), 8),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("INT2", "UINT2"), 2),
    "COMPLEX128": 128,
}
"""Bits per element by the format's names for types; strings cannot be in a data file."""


@dataclass(slots=True)
class OnnxFiles:
    """A graph and its data files, all checked."""

    graph: Path
    """The graph's path, links resolved."""
    model: onnx.ModelProto
    data: dict[str, Path] = field(default_factory=dict)
    """The data files' paths, links resolved, by their locations in the graph."""


def read_files(folder: Path, name: str) -> OnnxFiles:
    """Read the graph `name` of `folder` without its weights; check that its data files are inside the folder and long enough.

    Raises `ModelUnusable` naming the tensor and its location in the graph.
    """
    files = _parse(folder, name)
    for tensor in find_external_tensors(files.model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        what = f"tensor {tensor.name or '(unnamed)'} of {name}"
        stored = files.data.get(location) or resolve_inside(folder, location, what)
        files.data[location] = stored
        offset, length = _read_extent(tensor, entries, what)
        size = stored.stat().st_size
        if offset + length > size:
            raise ModelUnusable(f"{location} has {size} bytes, but {what} ends at byte {offset + length}; fetch the folder again")
    return files


def _parse(folder: Path, name: str) -> OnnxFiles:
    graph = resolve_inside(folder, name, "the graph")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(graph.read_bytes())
    except (DecodeError, OSError, RecursionError, ValueError) as error:
        raise ModelUnusable(f"{name} is not an ONNX graph, or is cut short; fetch the folder again") from error
    if not model.graph.node:
        raise ModelUnusable(f"{name} holds no graph; fetch the folder again")
    return OnnxFiles(graph, model)


def _read_extent(tensor: onnx.TensorProto, entries: dict[str, str], what: str) -> tuple[int, int]:
    """Return the tensor's first byte and its number of bytes in the data file."""
    bits = _BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type)) if tensor.data_type in _KNOWN else None
    if bits is None or any(size < 0 for size in tensor.dims):
        raise ModelUnusable(f"{what} has an unknown type or size; fetch the folder again")
    needed = math.ceil(math.prod(tensor.dims) * bits / 8)
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or 0) or needed
    except ValueError as error:
        raise ModelUnusable(f"{what} has an offset or a length that is not a number; fetch the folder again") from error
    if offset < 0 or length != needed:
        raise ModelUnusable(f"{what} takes {needed} bytes, but the graph says {length} from byte {offset}; fetch the folder again")
    return offset, length


_KNOWN = frozenset(onnx.TensorProto.DataType.values())


def read_array(files: OnnxFiles, tensor: ir.TensorProtocol) -> NDArray[Any]:
    """Return the tensor's numbers, from the graph or from a data file.

    onnx_ir refuses data files that have a second hard link or are symbolic links, as the hub's are.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy()
    shape, kind = tensor.shape.numpy(), tensor.dtype.numpy()
    place = files.data[str(tensor.location)]
    return np.fromfile(place, kind, count=math.prod(shape), offset=tensor.offset or 0).reshape(shape)


def inline_small_tensors(files: OnnxFiles) -> None:
    """Move small tensors, such as the indices that edits of the graph need, from the data files into `files.model`."""
    for tensor in find_external_tensors(files.model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = _read_extent(tensor, entries, tensor.name)
        if length <= _SMALL_BYTES:
            with files.data[entries["location"]].open("rb") as stream:
                stream.seek(offset)
                tensor.raw_data = stream.read(length)
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT


_SMALL_BYTES = 64
"""Upper bound in bytes; axes, indices and lengths are smaller."""


def find_external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor whose data is in another file: of the graph, its branches and its functions, dense or sparse."""
    for tensor in _find_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            yield tensor


def _find_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = [model.graph]
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    nodes = [node for function in model.functions for node in function.node]
    attributes = [each for function in model.functions for each in function.attribute_proto]
    while graphs or nodes or attributes:
        for graph in graphs:
            yield from graph.initializer
            yield from _find_dense_tensors(graph.sparse_initializer)
        nodes += [node for graph in graphs for node in graph.node]
        attributes += [each for node in nodes for each in node.attribute]
        graphs, nodes = [], []
        for each in attributes:
            if each.HasField("t"):
                yield each.t
            yield from each.tensors
            yield from _find_dense_tensors(
                [*each.sparse_tensors, *([each.sparse_tensor] if each.HasField("sparse_tensor") else [])]
            )
            graphs += [*([each.g] if each.HasField("g") else []), *each.graphs]
        attributes = []


def _find_dense_tensors(tensors: "Iterator[onnx.SparseTensorProto] | list[onnx.SparseTensorProto]") -> Iterator[onnx.TensorProto]:
    for sparse in tensors:
        yield sparse.values
        yield sparse.indices
