"""Graphs of several releases of onnxruntime-genai's builder: adapted, they compute bit by bit what they computed before."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from serve_app.engine_config import OnnxSettings
from serve_app.errors import ModelUnusable
from serve_app.models.export import derive
from tests.contract.as_built import CHUNKS, require_equal, run_as_built
from tests.contract.releases import INSTALLED, build, python_of, write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cache")]


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


def require(release: str) -> None:
    if not python_of(release).exists():
        pytest.skip(f"onnxruntime-genai {release} is not installed; `make builders` does it")


@pytest.mark.parametrize("case", BUILDS, ids=str)
def test_an_adapted_graph_computes_what_it_did(case: Build, models: dict[bool, Path], tmp_path: Path) -> None:
    require(case.release)
    folder = build(case.release, models[case.tied], tmp_path / "built", case.precision, *case.options, device=case.device)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    settings = OnnxSettings.model_validate({"precision": case.precision, "exported": str(folder), "max_model_len": 64})
    inputs, wanted = run_as_built(folder)
    assert inputs == case.inputs
    assert len(wanted[0]) == (case.positions or CHUNKS[0])
    assert np.std(wanted[0]) > 1
    require_equal(derive(models[case.tied], settings), wanted)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


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
