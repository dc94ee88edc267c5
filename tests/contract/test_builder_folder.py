"""A folder of onnxruntime-genai's builder under `exported`: checked, adapted once beside its weights, served as our export is."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from serve_app.chat.tokenizer import Tokenizer
from serve_app.engine_config import OnnxSettings
from serve_app.engines.onnx.engine import OnnxEngine
from serve_app.engines.onnx.graph import Graph
from serve_app.engines.onnx.kv_pool import KvPool
from serve_app.errors import ModelUnusable
from serve_app.models import builder_folder, manifest
from serve_app.models.export import derive
from serve_app.models.onnx_graph import _keep_original_tables
from serve_app.types import JsonSchema
from tests.contract.as_built import require_equal, run_as_built
from tests.contract.play import ask, play, prompt
from tests.contract.test_graph_forms import prune_by_scalar


@pytest.fixture
def folder(built: Path, cache: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(built, tmp_path / "folder"))


def use(folder: Path, **changes: Any) -> OnnxSettings:
    return OnnxSettings.model_validate({"precision": "int4", "exported": str(folder), "slots": 2, "max_model_len": 256} | changes)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.iterdir()}


def logits(folder: Path) -> NDArray[np.float32]:
    """Return what the graph of a derived folder computes for one prompt in three calls."""
    graph = Graph(folder, provider="cpu", threads=1)
    graph.attach(KvPool(graph.kv_shape, 2, 64))
    ids = np.asarray(prompt(40))
    chunks = [graph.verify(0, ids[:20], 0), graph.verify(0, ids[20:39], 20)]
    return np.concatenate([*chunks, graph.advance(ids[39:], np.array([39]))])


_SCHEMA = JsonSchema(
    '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false}'
)


def with_tables_of(theirs: Path, ours: Path, folder: Path) -> Path:
    """Return a copy of our export with the builder's rotary tables: all else must be equal, and the tables up to the last bit."""
    shutil.copytree(ours, folder)
    tables = {}
    for value in ir.load(theirs / "model.onnx").graph.initializers.values():
        if value.name is not None and value.name.endswith(("cos_cache", "sin_cache")):
            tables[value.name.rpartition("/")[2]] = value.const_value
    model = ir.load(folder / "model.onnx")
    for name, table in tables.items():
        assert table is not None
        own = model.graph.initializers[name].const_value
        assert own is not None
        np.testing.assert_allclose(own.numpy(), table.numpy(), atol=2e-7)
        model.graph.initializers[name].const_value = table
    assert len(tables) == 2
    ir.save(model, folder / "model.onnx")
    return folder


async def test_it_answers_as_our_own_export_does(
    built: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = derive(model_dir, OnnxSettings(precision="int4"))  # from the cache of the suite's other engines
    monkeypatch.setenv("PHI_SERVE_CACHE", str(tmp_path / "cache"))
    theirs = derive(model_dir, use(built))
    ours = with_tables_of(theirs, ours, tmp_path / "ours")
    np.testing.assert_array_equal(logits(theirs), logits(ours))
    answers = []
    for folder in (ours, theirs):
        engine = OnnxEngine(use(folder), folder)
        await engine.start()
        plain, _, _ = await play(engine, ask(prompt(30), max_tokens=40))
        guided, end, _ = await play(engine, replace(ask(prompt(12), max_tokens=60, stop_token_ids=(0, 1)), constraint=_SCHEMA))
        answers.append((plain, guided, end.reason))
        await engine.close()
    assert answers[0] == answers[1]
    plain, guided, _ = answers[1]
    assert len(plain) > 1
    assert Tokenizer.load(model_dir).raw(guided[0]).lstrip().startswith(b"{")


def test_it_computes_what_it_did_as_built(built: Path, model_dir: Path, cache: Path) -> None:
    require_equal(derive(model_dir, use(built)), run_as_built(built)[1])


def test_weights_are_linked_and_the_folder_is_left_alone(folder: Path, model_dir: Path, cache: Path) -> None:
    before = state(folder)
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    target = derive(model_dir, use(folder))
    assert target.parent == cache
    assert state(folder) == before
    assert (target / "model.onnx.data").samefile(folder / "model.onnx.data")
    assert not (target / "model.onnx").samefile(folder / "model.onnx")
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        assert (target / name).read_bytes() == (model_dir / name).read_bytes()
    written = state(target)
    assert derive(model_dir, use(folder)) == target
    assert state(target) == written
    assert sorted(file.suffix for file in cache.iterdir()) == ["", ".lock"]


def test_replicas_that_start_together_adapt_once(
    folder: Path, model_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = builder_folder.adapt_model
    monkeypatch.setattr(builder_folder, "adapt_model", lambda model: (calls.append(1), real(model)))
    with ThreadPoolExecutor(4) as pool:
        targets = set(pool.map(lambda _: derive(model_dir, use(folder)), range(4)))
    assert len(targets) == len(calls) == 1


@pytest.fixture
def other_file_system(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache to which nothing here can be linked."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    with tempfile.TemporaryDirectory(dir=shared) as cache:
        monkeypatch.setenv("PHI_SERVE_CACHE", cache)
        yield Path(cache)


def test_weights_on_another_file_system_are_copied_and_mended(folder: Path, model_dir: Path, other_file_system: Path) -> None:
    wanted = logits(derive(model_dir, use(folder)))
    (target,) = (other_file_system / "onnx").glob("*-built")
    copy = target / "model.onnx.data"
    assert copy.read_bytes() == (folder / "model.onnx.data").read_bytes()
    content = copy.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1]):
        copy.write_bytes(damaged)
        assert derive(model_dir, use(folder)) == target
        assert copy.read_bytes() == content
    np.testing.assert_array_equal(logits(target), wanted)


def test_a_copy_that_does_not_fit_is_refused_with_the_arithmetic(
    folder: Path, model_dir: Path, other_file_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder_folder, "_MARGIN", 2**60)
    with pytest.raises(
        ModelUnusable, match=r"a copy takes 0\.0 GiB of the \d+\.\d GiB free there; set PHI_SERVE_CACHE to a folder"
    ):
        derive(model_dir, use(folder))
    assert [file.suffix for file in (other_file_system / "onnx").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_said(folder: Path, model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ModelUnusable, match=r"^adapting the graph under `exported` failed: .*; set PHI_SERVE_CACHE"):
        derive(model_dir, use(folder))


def test_changed_weights_are_another_folder(folder: Path, model_dir: Path, cache: Path) -> None:
    first = derive(model_dir, use(folder))
    with (folder / "model.onnx.data").open("r+b") as stream:  # in place, so that the cache's link changes too
        stream.seek(1000)
        stream.write(b"\1\2\3\4")
    second = derive(model_dir, use(folder))
    assert first != second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int8"}, "holds int4 weights, but precision is int8; set precision: int4$"),
        ({"precision": "fp32"}, "holds int4 weights, but precision is fp32; set precision: int4$"),
    ],
)
def test_other_settings_than_the_graphs_are_refused(
    built: Path, model_dir: Path, cache: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelUnusable, match=message):
        derive(model_dir, use(built, **changes))


async def test_the_extended_context_stays_refused(built: Path, model_dir: Path, cache: Path) -> None:
    settings = use(built, max_model_len=4097)
    engine = OnnxEngine(settings, derive(model_dir, settings))
    with pytest.raises(ModelUnusable, match="is over the 4096 tokens of the model's original context"):
        await engine.start()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_hidden_layers": 7},
            r"^model\.onnx has 6 layers, but config\.json of the model's path says 7: it is another model's graph",
        ),
        ({"num_attention_heads": 8}, "has 4 attention heads, but .* says 8"),
        ({"num_key_value_heads": 4}, "has 2 key and value heads, but .* says 4"),
        ({"head_dim": 32}, r"has 64 dimensions of a head \(head_dim\), but .* says 32"),
        ({"hidden_size": 512, "head_dim": 64}, r"has 256 dimensions of a hidden state \(hidden_size\), but .* says 512"),
        ({"vocab_size": 4096}, "has 2048 tokens in its vocabulary, but .* says 4096"),
        ({"rope_theta": 500000.0}, r"has rotary tables that do not match config\.json"),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [2.0] * 24, "long_factor": [1.0] * 24}},
            "has only the rotary tables",
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [2.0] * 8, "long_factor": [1.0] * 9}},
            "has rotary tables that do not",
        ),
    ],
)
def test_another_models_graph_is_refused(
    built: Path, model_dir: Path, cache: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    other = Path(shutil.copytree(model_dir, tmp_path / "other"))
    edit(other / "config.json", **changes)
    with pytest.raises(ModelUnusable, match=message):
        derive(other, use(built))
    assert not list(cache.glob("*-built"))


def test_ids_are_the_models_own(folder: Path, model_dir: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers may number added tokens anew when it writes the folder."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"][-1]["id"] += 1
    edit(folder / "tokenizer.json", **tokenizer)
    with caplog.at_level(logging.WARNING):
        target = derive(model_dir, use(folder))
    assert "gives 1 added tokens other ids than the model's" in caplog.text
    assert (target / "tokenizer.json").read_bytes() == (model_dir / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").unlink()
    assert (derive(model_dir, use(folder)) / "tokenizer.json").read_bytes() == (model_dir / "tokenizer.json").read_bytes()


def test_another_models_tokenizer_is_refused(folder: Path, model_dir: Path, cache: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    one, other = [token for token, number in vocabulary.items() if number in (500, 501)]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        ModelUnusable, match=r"tokenizer\.json under `exported` gives '.*' the id 50\d, and that of the model's path 50\d"
    ):
        derive(model_dir, use(folder))
    for broken in ("{", "[]", '{"model": {}}', '{"model": {"vocab": [1]}}'):
        (folder / "tokenizer.json").write_text(broken)
        with pytest.raises(ModelUnusable, match=r"^tokenizer\.json "):
            derive(model_dir, use(folder))


def as_snapshot(folder: Path, where: Path) -> Path:
    """Lay the folder's files out as the hub's cache does."""
    repository = where / "models--someone--model-onnx"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / "0123" / "cpu_and_mobile" / "cpu-int4"
    snapshot.mkdir(parents=True)
    for file in (file for file in folder.rglob("*") if file.is_file()):
        digest = manifest.sum_file(file)
        shutil.copy(file, repository / "blobs" / digest)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(repository / "blobs" / digest, link.parent))
    return snapshot


def test_a_hub_snapshot_loads(built: Path, model_dir: Path, cache: Path, tmp_path: Path) -> None:
    snapshot = as_snapshot(built, tmp_path)
    target = derive(model_dir, use(snapshot))
    assert not (target / "model.onnx.data").is_symlink()
    assert (target / "model.onnx.data").samefile(snapshot / "model.onnx.data")
    np.testing.assert_array_equal(logits(target), logits(derive(model_dir, use(built))))
    with pytest.raises(ModelUnusable, match=r"has neither manifest\.json .* set it to a subfolder: cpu_and_mobile/cpu-int4$"):
        derive(model_dir, use(snapshot.parents[1]))
    with pytest.raises(ModelUnusable, match="`exported` is no folder on this node"):
        derive(model_dir, use(tmp_path / "none"))


def test_tables_and_indices_may_be_in_the_data_file(
    folder: Path, built: Path, model_dir: Path, cache: Path, tmp_path: Path
) -> None:
    model = ir.load(folder / "model.onnx")
    prune_by_scalar(model)
    _keep_original_tables(model.graph, next(node for node in model.graph if node.op_type == "If"))
    everything = Path(shutil.copytree(folder, tmp_path / "everything", ignore=shutil.ignore_patterns("model.onnx*")))
    (everything / "all").mkdir()
    ir.save(model, everything / "model.onnx", external_data="all/weights.bin", size_threshold_bytes=0)
    snapshot = as_snapshot(everything, tmp_path)
    target = derive(model_dir, use(snapshot))
    assert json.loads((target / "manifest.json").read_text())["about"]["rotary_positions"] == "4096"
    np.testing.assert_array_equal(logits(target), logits(derive(model_dir, use(built))))


def test_a_hub_snapshot_of_our_own_export_loads(model_dir: Path, tmp_path: Path) -> None:
    ours = derive(model_dir, OnnxSettings(precision="int4"))
    snapshot = as_snapshot(ours, tmp_path)
    assert derive(model_dir, use(snapshot)) == snapshot
    np.testing.assert_array_equal(logits(snapshot), logits(ours))


def test_files_elsewhere_are_refused_before_onnxruntime_reads_them(
    folder: Path, model_dir: Path, cache: Path, tmp_path: Path
) -> None:
    (folder / "model.onnx.data").rename(tmp_path / "elsewhere")
    (folder / "model.onnx.data").symlink_to("../elsewhere")
    with pytest.raises(ModelUnusable, match=r"^tensor .* of model\.onnx lies in 'model\.onnx\.data', a link that leaves"):
        derive(model_dir, use(folder))
    (folder / "model.onnx").rename(tmp_path / "graph")
    (folder / "model.onnx").symlink_to("../graph")
    with pytest.raises(ModelUnusable, match=r"^the graph lies in 'model\.onnx', a link that leaves"):
        derive(model_dir, use(folder))
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["filename"] = "../graph"
    (folder / "genai_config.json").write_text(json.dumps(config))
    for load in (lambda: derive(model_dir, use(folder)), lambda: Graph(folder, provider="cpu", threads=1)):
        with pytest.raises(ModelUnusable, match=r"^the graph lies in '\.\./graph', which leaves the model's folder"):
            load()


def test_what_onnxruntime_cannot_load_is_said_in_a_sentence(folder: Path, model_dir: Path, cache: Path) -> None:
    target = derive(model_dir, use(folder))
    model = ir.load(target / "model.onnx")
    next(node for node in model.graph if node.op_type == "Sigmoid").op_type = "Sigmoidal"
    ir.save(model, target / "model.onnx")
    with pytest.raises(ModelUnusable, match=r"^onnxruntime 1\.\d+\.\d+ cannot load model\.onnx: .*Sigmoidal") as refused:
        Graph(target, provider="cpu", threads=1)
    assert str(target) not in refused.value.message
    whole = (folder / "model.onnx.data").read_bytes()
    (folder / "model.onnx.data").write_bytes(whole[:-1])
    with pytest.raises(
        ModelUnusable, match=rf"^model\.onnx\.data has {len(whole) - 1} bytes, but tensor .* ends at byte {len(whole)}"
    ):
        derive(model_dir, use(folder))
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:5000])
    with pytest.raises(ModelUnusable, match=r"^model\.onnx is not an ONNX graph, or is cut short"):
        derive(model_dir, use(folder))
