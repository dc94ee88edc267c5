"""Graphs of several releases of onnxruntime-genai's builder: adapted, they compute bit by bit what they computed before."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from serve_app.config import OnnxSettings
from serve_app.engines.onnx.graph import Graph
from serve_app.engines.onnx.kv_pool import KvPool
from serve_app.errors import ModelUnusable
from serve_app.models.export import derive
from tests.contract.builders import INSTALLED, build, python_of, write_tiny_model

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Build:
    """How a graph is built."""

    release: str
    precision: str
    options: tuple[str, ...] = ()
    device: str = "cpu"
    tied: bool = True
    inputs: frozenset[str] = field(default_factory=lambda: frozenset({"input_ids", "attention_mask"}))
    """What the built graph takes besides its caches, so that a case cannot lose its point."""
    positions: int | None = None
    """Positions whose logits the built graph returns; None: all."""

    def __str__(self) -> str:
        return "-".join((self.release, self.precision, self.device, "tied" if self.tied else "untied", *self.options))


_POSITIONS = frozenset({"input_ids", "attention_mask", "position_ids"})
BUILDS = [
    Build("0.7.1", "int4", ("int4_accuracy_level=4",)),  # as Phi-4-mini-instruct-onnx is published
    Build("0.7.1", "int4", ("int4_block_size=64",), tied=False),
    Build("0.7.1", "int4", ("use_qdq=1",)),
    Build("0.7.1", "int4", ("include_hidden_states=1",)),
    Build("0.7.1", "fp32"),
    Build("0.7.1", "fp32", device="webgpu", inputs=_POSITIONS),
    Build("0.9.2", "int4", ("int4_accuracy_level=4",)),
    Build("0.9.2", "fp32", device="webgpu", inputs=_POSITIONS),
    Build("0.11.4", "int4", ("int4_accuracy_level=4", "shared_embeddings=true")),
    Build("0.11.4", "fp32", ("shared_embeddings=true",)),
    Build(INSTALLED, "int4", ("accuracy_level=4", "shared_embeddings=true")),
    Build(INSTALLED, "int4", ("accuracy_level=4", "prune_lm_head=true"), tied=False, positions=1),
    Build(INSTALLED, "int4", ("int4_algo_config=k_quant_mixed",)),
    Build(INSTALLED, "int8"),
    Build(INSTALLED, "fp32", ("prune_lm_head=true", "shared_embeddings=true"), positions=1),
    Build(INSTALLED, "fp32", tied=False),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {tied: write_tiny_model(folder / str(tied), tied=tied) for tied in (True, False)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI_SERVE_CACHE", str(tmp_path / "cache"))


def require(release: str) -> None:
    if not python_of(release).exists():
        pytest.skip(f"onnxruntime-genai {release} is not installed; `make builders` does it")


CHUNKS = (16, 17, 1, 1, 1, 4)
"""Sizes of the calls that extend one sequence, each with the logits of all its positions."""
IDS = np.random.default_rng(1).integers(2, 2000, sum(CHUNKS))


def chunks() -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each call's past and tokens."""
    past = 0
    for size in CHUNKS:
        yield past, IDS[past : past + size]
        past += size


def run_as_built(folder: Path, case: Build) -> list[NDArray[np.float32]]:
    """Return each call's logits from the graph as it was built, run by onnxruntime with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    inputs, outputs = ({value.name: value for value in values} for values in (session.get_inputs(), session.get_outputs()))
    caches = {name: np.zeros((1, inputs[name].shape[1], 0, 64), np.float32) for name in inputs if "past" in name}
    assert frozenset(inputs) - frozenset(caches) == case.inputs
    found = []
    for past, ids in chunks():
        feed = caches | {"input_ids": ids[np.newaxis], "attention_mask": np.ones((1, past + len(ids)), np.int64)}
        if "position_ids" in inputs:
            feed["position_ids"] = np.arange(past, past + len(ids))[np.newaxis]
        result = dict(zip(outputs, session.run(list(outputs), feed), strict=True))
        caches = {name.replace("present", "past_key_values"): value for name, value in result.items() if "present" in name}
        assert result["logits"].shape[1] == (case.positions or len(ids))
        found.append(result["logits"][0])
    return found


@pytest.mark.parametrize("case", BUILDS, ids=str)
def test_an_adapted_graph_computes_what_it_did(case: Build, models: dict[bool, Path], tmp_path: Path) -> None:
    require(case.release)
    folder = build(case.release, models[case.tied], tmp_path / "built", case.precision, *case.options, device=case.device)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    settings = OnnxSettings.model_validate({"precision": case.precision, "exported": str(folder), "max_model_len": 64})
    graph = Graph(derive(models[case.tied], settings), provider="cpu", threads=1)
    graph.attach(KvPool(graph.kv_shape, 3, 64))
    wanted = run_as_built(folder, case)
    assert np.std(wanted[0]) > 1
    for (past, ids), logits in zip(chunks(), wanted, strict=True):
        found = graph.extend(0, ids, past)[np.newaxis] if case.positions == 1 else graph.verify(0, ids, past)
        # The kernels get the same rows in the same order, so not even the last bit may differ.
        np.testing.assert_array_equal(found, logits)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    step = graph.advance(IDS[33:34], np.array([33]))  # the same token again, as a step of many rows would compute it
    np.testing.assert_array_equal(step, wanted[2])


@pytest.mark.parametrize(
    ("options", "device", "precision", "reason"),
    [
        (("exclude_embeds=1",), "cpu", "int4", "has no input input_ids"),
        (("exclude_lm_head=1",), "cpu", "int4", "has no output logits"),
        ((), "cuda", "int4", "keeps its caches in float16"),
        ((), "cuda", "fp32", "has MultiHeadAttention in place of GroupQueryAttention"),
    ],
)
def test_other_graphs_are_refused_with_the_reason(
    options: tuple[str, ...], device: str, precision: str, reason: str, models: dict[bool, Path], tmp_path: Path
) -> None:
    require("0.7.1")
    folder = build("0.7.1", models[True], tmp_path / "built", precision, *options, device=device)
    settings = OnnxSettings.model_validate({"precision": precision, "exported": str(folder)})
    with pytest.raises(ModelUnusable, match=rf"^the graph model\.onnx {reason}.*; take a folder built for CPUs"):
        derive(models[True], settings)
