"""`phi-serve plan`: sums, placement and edits over made configurations, and sizes that follow from a model's config.json."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.stand_in import SIZES
from benchmarks.stand_in import config as stand_in_config
from serve_app.cli import app
from serve_app.engine_config import LlamaCppSettings, OnnxEncoderSettings, OnnxSettings, VllmSettings
from serve_app.errors import ModelUnusable
from serve_app.models.locate import EMBEDDED
from serve_app.models.onnx_export.decoder import parse_decoder
from serve_app.models.onnx_export.layout import plan_layout
from serve_app.sizing.advice import advise
from serve_app.sizing.engines import RUNTIMES, ReplicaSize, estimate_replica
from serve_app.sizing.plan import Plan, build_plan
from serve_app.sizing.ray_processes import HEAD, NODE
from serve_app.sizing.shape import KNOWN, ModelFiles, find_model, read_decoder_shape
from serve_app.types import EngineKind
from serve_app.validation.agreement import Machine
from serve_app.validation.applications import read_wants

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "serve_config.yaml").read_text()
GIB = 2**30
REAL = ModelFiles(config=stand_in_config(SIZES["full"]), folder=None)
"""The real model's config.json."""


def _machine(memory_gib: float, *, cpus: float = 2, gpus: float = 0, nodes: int = 1) -> Machine:
    return Machine(cpus=cpus * nodes, memory_bytes=memory_gib * GIB * nodes, gpus=gpus * nodes, nodes=nodes)


def _config(change: Callable[[dict[str, Any], dict[str, dict[str, Any]]], None]) -> str:
    """Return the shipped configuration with changes of `args` and of the deployments by name."""
    config = yaml.safe_load(SHIPPED)
    (application,) = config["applications"]
    deployments = {each["name"]: each for each in application["deployments"]}
    change(application["args"], deployments)
    application["deployments"] = list(deployments.values())
    return yaml.safe_dump(config)


def _real(args: dict[str, Any], deployments: dict[str, dict[str, Any]]) -> None:
    args["models"]["phi-4-mini-instruct"]["path"] = "microsoft/Phi-4-mini-instruct"


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own cache of the hub must not decide what is known here."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_shipped_configuration_fits_the_machine_that_it_is_made_for() -> None:
    plan = build_plan(SHIPPED, _machine(8))
    assert plan.fits
    assert [each.name for each in plan.groups] == ["vllm", "onnx", "llama_cpp", "ingress"]
    parts = sum(each.size.total_bytes * each.wants.most for each in plan.groups) + sum(plan.ray.values())
    assert plan.most.memory_bytes == pytest.approx(parts)
    assert plan.most.replicas == 5
    assert advise(plan).alone == advise(plan).together == ()


@pytest.mark.parametrize(("profile", "memory_gib"), [("cpu-8gb", 8), ("cpu-12gb", 12), ("cpu-24gb", 24)])
def test_each_profile_fits_its_machine_before_the_model_is_there(profile: str, memory_gib: float) -> None:
    plan = build_plan((ROOT / "cluster" / "profiles" / f"{profile}.yaml").read_text(), _machine(memory_gib))
    assert not plan.findings
    assert plan.fits, plan.most.why
    assert not build_plan((ROOT / "cluster" / "profiles" / f"{profile}.yaml").read_text(), _machine(memory_gib / 2)).fits


def test_what_is_known_of_the_real_model_is_what_its_files_say() -> None:
    known = find_model("microsoft/Phi-4-mini-instruct")
    assert known.folder is None
    assert {key: REAL.config[key] for key in known.config} == dict(known.config)
    assert (
        read_decoder_shape(known.config).weights.parameters == read_decoder_shape(REAL.config).weights.parameters == 3_836_021_760
    )
    assert len(KNOWN) == 2


def test_a_model_that_is_nowhere_is_a_finding_with_what_to_do() -> None:
    def change(args: dict[str, Any], deployments: dict[str, dict[str, Any]]) -> None:
        args["models"]["phi-4-mini-instruct"]["path"] = "someone/some-model"

    (found,) = build_plan(_config(change), _machine(8)).findings
    assert "hf download someone/some-model config.json" in found.problem
    assert found.place.endswith("models.phi-4-mini-instruct.path")


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4", "int4_mixed"])
@pytest.mark.parametrize("block_size", [32, 128])
def test_onnx_weights_are_the_exports(precision: Any, block_size: Any) -> None:
    """The formula's bytes are those of the file that the export would write, but for the tables and the padding of its pages."""
    for config in (REAL.config, json.loads((EMBEDDED / "config.json").read_text())):
        size = estimate_replica(OnnxSettings(precision=precision, block_size=block_size), ModelFiles(config=config, folder=None))
        written = plan_layout(parse_decoder(config), precision, block_size)
        tables = sum(each.placed.bytes for name, each in written.vectors.items() if name.endswith("_cache"))
        tensors = len(written.vectors) + 2 * len(written.matrices)
        assert size.exported_bytes == pytest.approx(written.bytes - tables, abs=4096 * tensors)


@pytest.mark.parametrize(("precision", "kv_width"), [("f32", 4), ("f16", 2), ("q8_0", 2), ("q4_0", 2)])
def test_llama_cpps_cache_is_as_exact_as_the_weights(precision: Any, kv_width: int) -> None:
    size = estimate_replica(LlamaCppSettings(precision=precision, slots=3, max_model_len=4096), REAL)
    assert size.kv_bytes == 3 * 4096 * 2 * 32 * 8 * 128 * kv_width
    fused = estimate_replica(LlamaCppSettings(precision=precision, flash_attention=True, kv_cache_type="q8_0"), REAL)
    assert fused.kv_bytes < size.kv_bytes * 4 / 3
    assert fused.buffers_bytes < size.buffers_bytes


def test_vllms_cache_is_what_is_set_on_cpus_and_what_is_left_on_gpus() -> None:
    on_cpu = estimate_replica(VllmSettings(kv_cache_gib=2, dtype="bfloat16"), REAL)
    assert (on_cpu.kv_bytes, on_cpu.gpu_bytes) == (2 * GIB, 0)
    assert on_cpu.weights_bytes == 2 * (3_836_021_760 + 200_064 * 3072), "the head is there twice"
    on_gpu = estimate_replica(VllmSettings(device="cuda", dtype="bfloat16", gpu_memory_utilization=0.5), REAL)
    assert (on_gpu.kv_bytes, on_gpu.weights_bytes) == (0, 0)
    assert on_gpu.gpu_bytes > 2 * 2 * 3_836_021_760
    assert on_gpu.note
    halved = estimate_replica(
        VllmSettings(device="cuda", dtype="bfloat16", gpu_memory_utilization=0.5, tensor_parallel_size=2), REAL
    )
    assert halved.gpu_bytes < on_gpu.gpu_bytes
    quantized = estimate_replica(VllmSettings(quantization="awq"), REAL)
    assert quantized.weights_bytes < on_cpu.weights_bytes


SMALLER: tuple[tuple[Any, Any], ...] = (
    (OnnxSettings(slots=8), OnnxSettings(slots=4)),
    (OnnxSettings(max_model_len=4096), OnnxSettings(max_model_len=2048)),
    (OnnxSettings(), OnnxSettings(precision="int8")),
    (OnnxSettings(precision="int8"), OnnxSettings(precision="int4_mixed")),
    (OnnxSettings(precision="int4_mixed"), OnnxSettings(precision="int4")),
    (OnnxSettings(precision="int4"), OnnxSettings(precision="int4", block_size=128)),
    (LlamaCppSettings(slots=8), LlamaCppSettings(slots=4)),
    (LlamaCppSettings(precision="f32"), LlamaCppSettings(precision="f16")),
    (LlamaCppSettings(precision="f16"), LlamaCppSettings(precision="q8_0")),
    (LlamaCppSettings(), LlamaCppSettings(gpu_layers=16)),
    (LlamaCppSettings(gpu_layers=16), LlamaCppSettings(gpu_layers=-1)),
    (OnnxSettings(), OnnxSettings(provider="cuda")),
    (VllmSettings(), VllmSettings(dtype="bfloat16")),
    (VllmSettings(kv_cache_gib=2), VllmSettings(kv_cache_gib=1)),
)


@pytest.mark.parametrize("pair", SMALLER, ids=str)
def test_smaller_settings_take_less(pair: tuple[Any, Any]) -> None:
    more, less = (estimate_replica(each, REAL) for each in pair)
    assert less.total_bytes < more.total_bytes


def test_an_exported_file_counts_with_its_own_size(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(bytes(1000))
    (tmp_path / "model.onnx.data").write_bytes(bytes(99_000))
    size = estimate_replica(OnnxSettings(precision="int4", exported=str(tmp_path)), REAL)
    share = 200_064 * 3072 / 3_836_021_760
    assert size.weights_bytes == pytest.approx(100_000 * (1 + share))
    assert size.export_s == size.exported_bytes == 0
    (tmp_path / "model.gguf").write_bytes(bytes(64_000))
    assert estimate_replica(LlamaCppSettings(gguf=str(tmp_path / "model.gguf")), REAL).weights_bytes == pytest.approx(64_000)


def test_an_encoder_without_files_is_refused() -> None:
    with pytest.raises(ModelUnusable, match="not on this machine"):
        estimate_replica(OnnxEncoderSettings(), REAL)
    for config in ({}, {"hidden_size": "x"}, {"hidden_size": 8, "num_attention_heads": 0}):
        with pytest.raises(ModelUnusable, match="sizes of a decoder"):
            estimate_replica(OnnxSettings(), ModelFiles(config=config, folder=None))


@pytest.mark.parametrize(
    ("deployment", "counts"),
    [
        ({}, (1, 1)),
        ({"num_replicas": 3}, (3, 3)),
        ({"num_replicas": "auto"}, (1, 100)),
        ({"num_replicas": "auto", "autoscaling_config": {"max_replicas": 4}}, (1, 4)),
        ({"autoscaling_config": {"min_replicas": 0, "max_replicas": 5}}, (0, 5)),
        ({"autoscaling_config": {"min_replicas": 2}}, (2, 2)),
        ({"num_replicas": float("inf"), "ray_actor_options": 3}, (1, 1)),
        ({"num_replicas": True}, (1, 1)),
    ],
)
def test_numbers_of_replicas(deployment: dict[str, Any], counts: tuple[int, int]) -> None:
    wants = read_wants(deployment)
    assert (wants.least, wants.most, wants.cpus) == (*counts, 1.0)


def test_what_autoscaling_may_add_counts() -> None:
    def change(args: dict[str, Any], deployments: dict[str, dict[str, Any]]) -> None:
        deployments["onnx"]["autoscaling_config"]["max_replicas"] = 30

    plan = build_plan(_config(change), _machine(8, cpus=16))
    assert plan.least.fits
    assert not plan.most.fits
    assert plan.most.unplaced.keys() <= {"onnx", "llama_cpp", "ingress"}
    lowered = next(each for each in advise(plan).alone if each.kind == "replicas")
    assert lowered.group == "onnx"
    assert "max_replicas: " in lowered.changes[0]
    count = int(lowered.changes[0].rpartition(" ")[2])
    assert 2 <= count < 30


def _apply(config: str, edit_changes: tuple[str, ...]) -> str:
    """Write an edit of settings into a configuration, as its reader would."""
    value = yaml.safe_load(config)
    (application,) = value["applications"]
    for each in edit_changes:
        place, _, written = each.partition(": ")
        _, group, name = place.split(".")
        application["args"]["engines"][group][name] = yaml.safe_load(written)
    return yaml.safe_dump(value)


def _drop_to_onnx(args: dict[str, Any], deployments: dict[str, dict[str, Any]]) -> None:
    _real(args, deployments)
    args["engines"] = {"onnx": args["engines"]["onnx"] | {"precision": "int4"}}
    args["routing"]["prefer"] = {}
    for name in ("vllm", "llama_cpp"):
        del deployments[name]
    deployments["onnx"]["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}


def test_edits_that_suffice_do_so_when_written() -> None:
    config = _config(_drop_to_onnx)
    plan = build_plan(config, _machine(16))
    assert not plan.fits
    edits = advise(plan).alone
    assert {each.kind for each in edits} == {"slots", "context"}
    for edit in edits:
        changed = build_plan(_apply(config, edit.changes), _machine(16))
        assert changed.fits
        assert changed.most.memory_bytes == pytest.approx(edit.total_bytes)
    slots = next(each for each in edits if each.kind == "slots")
    kept = int(slots.changes[0].rpartition(" ")[2])
    over = build_plan(_apply(config, (f"engines.onnx.slots: {kept + 1}",)), _machine(16))
    assert not over.fits, "the mildest edit that suffices is named"


def test_steps_that_suffice_together_do_so_when_written() -> None:
    config = _config(_real)
    plan = build_plan(config, _machine(32))
    advice = advise(plan)
    assert advice.alone == ()
    assert not any(each.suffices for each in advice.together[:-1])
    assert advice.together[-1].suffices
    for edit in advice.together:
        config = _apply(config, edit.changes)
    assert build_plan(config, _machine(32)).fits


def test_where_nothing_helps_nothing_is_named() -> None:
    advice = advise(build_plan(_config(_real), _machine(2)))
    assert advice.alone == advice.together == ()


def test_nodes_hold_whole_replicas() -> None:
    """Two nodes of 8 GiB do not hold what one of 16 does: no replica is split."""
    config = _config(_drop_to_onnx)
    kept = _apply(config, ("engines.onnx.slots: 6",))
    assert build_plan(kept, _machine(16)).fits
    spread = build_plan(kept, _machine(8, nodes=2))
    assert not spread.fits
    assert "no node has room for a replica of 'onnx'" in spread.most.why
    assert sum(spread.ray.values()) == sum(HEAD.values()) + 2 * sum(NODE.values())


def test_cores_and_gpus_bound_as_memory_does() -> None:
    def change(args: dict[str, Any], deployments: dict[str, dict[str, Any]]) -> None:
        deployments["vllm"]["ray_actor_options"] = {"num_cpus": 3, "num_gpus": 1}

    plan = build_plan(_config(change), _machine(8, cpus=2))
    assert "3 cores" in plan.most.why
    assert "1 GPUs" in plan.most.why
    assert build_plan(_config(change), _machine(8, cpus=4, gpus=1)).fits


def test_notes_name_shared_cores_and_missing_reservations() -> None:
    def reserve(args: dict[str, Any], deployments: dict[str, dict[str, Any]]) -> None:
        deployments["vllm"]["ray_actor_options"]["memory"] = 10**8

    assert any("threads" in note for note in build_plan(SHIPPED, _machine(8, cpus=2)).notes)
    assert not build_plan(SHIPPED, _machine(8, cpus=8)).notes
    assert any("ray_actor_options.memory" in note for note in build_plan(SHIPPED, _machine(8, cpus=8, nodes=2)).notes)
    assert any("reserves 0.1 GiB" in note for note in build_plan(_config(reserve), _machine(8, cpus=8)).notes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[]",
        "applications: 3",
        "applications: [{}]",
        "applications: [{args: 3}]",
        "a: &a [*a]",
        "\tx: 1",
        "applications: [{args: {engines: {}}}]",
    ],
)
def test_what_is_no_configuration_is_a_finding(text: str) -> None:
    plan = build_plan(text, _machine(8))
    assert plan.findings
    assert not plan.fits


def test_the_command(tmp_path: Path) -> None:
    run = CliRunner().invoke
    shown = run(app, ["plan", str(ROOT / "serve_config.yaml"), "--memory-gib", "8", "--cpus", "2"])
    assert shown.exit_code == 0
    assert "it fits" in shown.output
    small = run(app, ["plan", str(ROOT / "serve_config.yaml"), "--memory-gib", "3.5", "--cpus", "2"])
    assert small.exit_code == 2
    assert "change" in small.output
    assert run(app, ["plan", str(tmp_path / "none.yaml")]).exit_code == 2
    (tmp_path / "broken.yaml").write_text(SHIPPED.replace("max_attempts: 3", "max_atempts: 3"))
    broken = run(app, ["plan", str(tmp_path / "broken.yaml")])
    assert broken.exit_code == 2
    assert "did you mean 'max_attempts'?" in broken.output


def test_the_plan_as_json() -> None:
    arguments = [
        "plan",
        str(ROOT / "serve_config.yaml"),
        "--json",
        "--memory-gib",
        "3.5",
        "--cpus",
        "2",
        "--gpus",
        "0",
        "--nodes",
        "2",
    ]
    shown = CliRunner().invoke(app, arguments)
    report = json.loads(shown.output, parse_constant=pytest.fail)
    assert report["machine"] == {"cpus": 4.0, "memory_bytes": 7.0 * GIB, "gpus": 0.0, "nodes": 2}
    assert [each["name"] for each in report["groups"]] == ["vllm", "onnx", "llama_cpp", "ingress"]
    for each in report["groups"]:
        assert each["total_bytes"] == pytest.approx(each["weights_bytes"] + each["kv_bytes"] + each["other_bytes"], abs=3)
    assert report["fits"] is (shown.exit_code == 0)


def test_a_ray_elsewhere_has_no_known_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://elsewhere")
    shown = CliRunner().invoke(app, ["plan", str(ROOT / "serve_config.yaml"), "--json"])
    assert json.loads(shown.output)["machine"]["memory_bytes"] is None
    assert shown.exit_code == 0


def test_every_kind_of_engine_has_a_size() -> None:
    assert set(RUNTIMES) == set(map(str, EngineKind))


def test_a_plan_is_a_value() -> None:
    plan = build_plan(SHIPPED, _machine(8))
    assert isinstance(plan, Plan)
    assert copy.copy(plan) == plan
    assert ReplicaSize().total_bytes == 0
