"""An exported ONNX decoder made deeper: a middle layer is repeated, each copy with weights of its own in the file.

The checkpoint of 32 layers takes 7 GB of disk, that of three a quarter of it, and what is slow about the deeper graph is the same.
`python -m benchmarks.stacked EXPORTED DIR --layers 32` makes one.
"""

import argparse
import json
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import BinaryIO

import onnx

from serve_app.models import manifest

MIDDLE = 1
"""The layer that is repeated; the graph needs one before and one after it."""
_DATA = "model.onnx.data"
_LAYER = re.compile(r"(layers|past_key_values|present)\.(\d+)(?=\.|/)")


def stack(exported: Path, target: Path, layers: int) -> None:
    """Write the folder `target`: the decoder of `exported` with `layers` layers, manifest included."""
    model = onnx.load(str(exported / "model.onnx"), load_external_data=False)
    had = json.loads((exported / "config.json").read_text())["num_hidden_layers"]
    assert 3 <= had <= layers, "the graph needs a layer before and one after the repeated one"
    target.mkdir(parents=True)
    graph = model.graph
    del graph.value_info[:]
    for values in (graph.node, graph.input, graph.output):
        _repeat(values, layers, had)
    with (exported / _DATA).open("rb") as source, (target / _DATA).open("wb") as data:
        weights = list(graph.initializer)
        _repeat(graph.initializer, layers, had)
        assert len(graph.initializer) > len(weights)
        for weight in graph.initializer:
            _move(weight, source, data)
    onnx.save(model, str(target / "model.onnx"))
    for name in ("config.json", "genai_config.json"):
        text = (exported / name).read_text()
        (target / name).write_text(re.sub(r'("num_hidden_layers":\s*)\d+', rf"\g<1>{layers}", text))
    for name in ("tokenizer.json", "generation_config.json"):
        if (exported / name).exists():
            shutil.copy(exported / name, target)
    manifest.write(target, json.loads((exported / manifest.NAME).read_text())["about"])


def _repeat(values: object, layers: int, had: int) -> None:
    """Replace the middle layer's entries by those of `layers - had + 1` copies, and count the layers after it on."""
    added = layers - had
    kept = []
    for value in values:  # type: ignore[attr-defined]
        own = _LAYER.search(value.name)
        if own is not None and int(own[2]) == MIDDLE:
            kept += [_renamed(value, lambda at, by=by: at + by) for by in range(added + 1)]
        else:
            kept.append(_renamed(value, lambda at: at + added if at >= MIDDLE else at))
    kept.sort(key=_depth)  # stable: what belongs to no layer keeps its place before or behind them
    del values[:]  # type: ignore[attr-defined]
    values.extend(kept)  # type: ignore[attr-defined]


def _depth(value: object) -> tuple[int, int]:
    name = value.name  # type: ignore[attr-defined]
    own = _LAYER.search(name)
    if own is not None:
        return 1, int(own[2])
    return (2, 0) if name.startswith(("/lm_head", "logits", "/model/constant_nodes/INT64/-1")) else (0, 0)


def _renamed(value: object, moved: Callable[[int], int]) -> object:
    copy = deepcopy(value)

    def rename(text: str) -> str:
        return _LAYER.sub(lambda found: f"{found[1]}.{moved(int(found[2]))}", text)

    copy.name = rename(copy.name)  # type: ignore[attr-defined]
    if isinstance(copy, onnx.NodeProto):
        for names in (copy.input, copy.output):
            names[:] = [rename(name) for name in names]
    return copy


def _move(weight: onnx.TensorProto, source: BinaryIO, data: BinaryIO) -> None:
    """Copy the weight's bytes to the end of `data` and point it there."""
    places = {entry.key: entry for entry in weight.external_data}
    if not places:
        return
    source.seek(int(places["offset"].value))
    raw = source.read(int(places["length"].value))
    data.seek(-data.tell() % 4096, 1)
    places["offset"].value = str(data.tell())
    places["location"].value = _DATA
    data.write(raw)


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exported", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    stack(options.exported, options.folder, options.layers)
    print(f"{options.folder}: {(options.folder / _DATA).stat().st_size / 2**30:.1f} GiB of weights")


if __name__ == "__main__":
    main()
