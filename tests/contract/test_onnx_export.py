"""Our ONNX export against onnxruntime-genai's builder: the same weights, scales and logits, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from serve_app.engines.onnx.graph import Graph
from serve_app.engines.onnx.kv_pool import KvPool
from serve_app.models import export
from tests.contract.tiny import VOCABULARY, write_tiny

BLOCKS = (32, 64, 128, 256)
FORMS = {
    "tied": ["fp32-32", *(f"{precision}-{block}" for precision in ("int8", "int4", "int4_mixed") for block in BLOCKS)],
    "untied": ["fp32-32", "int8-64", "int4-64", "int4_mixed-64"],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints and the builder's forms of each: with LongRoPE and shared embeddings; with plain positions and a head of its
    own."""
    folder = tmp_path_factory.mktemp("builder")
    plain = {"tie_word_embeddings": False, "rope_scaling": None, "original_max_position_embeddings": 512}
    write_tiny(folder / "tied" / "model")
    write_tiny(folder / "untied" / "model", max_position_embeddings=512, **plain)
    pairs = [f"{folder / kind / 'model'}:{folder / kind / form}" for kind, forms in FORMS.items() for form in forms]
    command = [sys.executable, "-m", "tests.contract.builder", *pairs]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def read_constants(folder: Path) -> dict[str, NDArray[np.generic]]:
    found = ir.load(folder / "model.onnx").graph.initializers
    return {name: value.const_value.numpy() for name, value in found.items() if value.const_value is not None}


def read_tables(folder: Path) -> dict[str, NDArray[np.generic]]:
    """Return cosines and sines by their names in the graph."""
    attention = next(node for node in ir.load(folder / "model.onnx").graph if node.op_type == "GroupQueryAttention")
    names = [value.name for value in attention.inputs[7:9] if value is not None]
    constants = read_constants(folder)
    return {name: constants[name] for name in names if name is not None}


def bytes_equal(a: NDArray[np.generic], b: NDArray[np.generic]) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


def _compute(folder: Path) -> list[NDArray[np.float32]]:
    """Return logits and caches of a prompt, a chunk after it, and a step of two rows."""
    graph = Graph(folder, provider="cpu", threads=1)
    pool = KvPool(graph.kv_shape, 3, 64)
    for pair in pool.layers:
        for array in pair:
            array[:] = 0
    graph.attach(pool)
    draw = np.random.default_rng(1)
    found = [
        graph.verify(0, draw.integers(0, VOCABULARY, 7), 0).copy(),
        graph.extend(1, draw.integers(0, VOCABULARY, 33), 0).copy(),
    ]
    found.append(graph.verify(0, draw.integers(0, VOCABULARY, 3), 7).copy())
    found += [graph.advance(draw.integers(0, VOCABULARY, 2), np.array([10, 33])).copy() for _ in range(2)]
    return found + [array.copy() for pair in pool.layers for array in pair]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "form"), [(kind, form) for kind, forms in FORMS.items() for form in forms])
def test_weights_scales_and_logits_are_the_builders(built: Path, kind: str, form: str, tmp_path: Path) -> None:
    precision, block = form.split("-")
    ours, theirs = tmp_path / "ours", built / kind / form
    export.export_to_folder(built / kind / "model", "onnx", precision, ours, int(block))
    expected, written = read_constants(theirs), read_constants(ours)
    tables = read_tables(theirs)
    own = {name for name in written if name not in read_tables(ours) and not name.startswith(("/", "model.embed_tokens.weight_Q"))}
    assert own == {name for name in expected if name not in tables and not name.startswith("/")}
    for name, constant in expected.items():
        if name == "lm_head.MatMul.weight" and written[name].shape == constant.shape[::-1]:
            assert bytes_equal(np.ascontiguousarray(written[name].T), constant), name
        elif name not in tables and not name.startswith("/"):
            assert bytes_equal(written[name], constant), name
    graph = ir.load(ours / "model.onnx")
    for (name, mine), table in zip(read_tables(ours).items(), tables.values(), strict=True):
        # PyTorch's own tables differ by as much between processors with AVX2 and with AVX-512.
        np.testing.assert_allclose(mine, table, atol=2e-5, rtol=0)
        graph.graph.initializers[name].const_value = ir.tensor(table, name=name)
    ir.save(graph, ours / "model.onnx")
    for computed, other in zip(_compute(ours), _compute(theirs), strict=True):
        assert bytes_equal(computed, other)


@pytest.mark.parametrize("form", FORMS["tied"][1:])
def test_no_row_depends_on_how_many_there_are(built: Path, form: str) -> None:
    graph = Graph(built / "tied" / form, provider="cpu", threads=2)
    pool = KvPool(graph.kv_shape, 9, 64)
    graph.attach(pool)
    multiple = graph.ensure_row_invariance()
    ids, pasts = np.random.default_rng(3).integers(0, VOCABULARY, (12, 8)), np.zeros(8, np.int64)
    many = [graph.advance(step, pasts + at).copy() for at, step in enumerate(ids)]
    for rows in range(multiple, 8, multiple):
        for at, step in enumerate(ids):
            assert np.array_equal(graph.advance(step[:rows], pasts[:rows] + at), many[at][:rows]), f"{rows} rows, step {at}"
    whole = graph.extend(8, ids[:11, 0], 0).copy()
    for cut in range(2, 10):
        graph.extend(8, ids[:cut, 0], 0)
        assert np.array_equal(graph.extend(8, ids[cut:11, 0], cut), whole), f"cut at {cut}"


def test_a_sliding_window_is_the_references(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM  # takes seconds, and only this test needs it

    model = write_tiny(tmp_path / "model", sliding_window=8)
    export.export_to_folder(model, "onnx", "fp32", tmp_path / "ours")
    graph = Graph(tmp_path / "ours", provider="cpu", threads=1)
    graph.attach(KvPool(graph.kv_shape, 2, 64))
    ids = np.random.default_rng(4).integers(0, VOCABULARY, 30)
    cut = np.concatenate([graph.verify(0, ids[:21], 0).copy(), graph.verify(0, ids[21:29], 21).copy()])
    found = np.concatenate([cut, graph.advance(ids[29:], np.array([29]))])
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)[None]).logits[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
