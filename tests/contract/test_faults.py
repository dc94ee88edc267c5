"""Engines that hang, die or cannot run: noticed, told, and survived where possible."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.engine_config import OnnxSettings, VllmSettings
from serve_app.engines.base import Engine
from serve_app.engines.onnx.engine import OnnxEngine
from serve_app.engines.onnx.graph import Graph
from serve_app.engines.registry import build_engine
from serve_app.errors import EngineDead, GenerationFailed, ModelUnusable, Overloaded
from serve_app.models.export import derive
from tests.contract.play import ask, play, prompt


def _core_pids(parent: int) -> list[int]:
    """Child processes of `parent` that call themselves EngineCore."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            title = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields["PPid"]) == parent and b"EngineCore" in title:
            found.append(int(fields["Pid"]))
    return found


@pytest.mark.slow
async def test_a_hung_and_a_dead_vllm_core_are_noticed(model_dir: Path) -> None:
    before = set(_core_pids(os.getpid()))
    engine = build_engine(VllmSettings(max_num_seqs=2, max_model_len=512, health_timeout_s=3), model_dir)
    await engine.start()
    try:
        (core,) = set(_core_pids(os.getpid())) - before
        await engine.check_health()
        os.kill(core, signal.SIGSTOP)
        with pytest.raises(EngineDead, match="not answered"):
            await engine.check_health()
        os.kill(core, signal.SIGCONT)
        await engine.check_health()
        assert len((await play(engine, ask(prompt(10), max_tokens=3)))[0]) == 3

        stream = engine.generate(ask(prompt(10), max_tokens=400))
        await anext(stream)
        os.kill(core, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(EngineDead):
            async for _ in stream:
                pass
        assert time.monotonic() - began < 5
        with pytest.raises(EngineDead):
            await engine.check_health()
    finally:
        await engine.close()


_OWNER = """
import asyncio, sys, time
from pathlib import Path
from serve_app.engine_config import VllmSettings
from serve_app.engines.registry import build_engine

if __name__ == "__main__":
    engine = build_engine(VllmSettings(max_num_seqs=2, max_model_len=512), Path(sys.argv[1]))
    asyncio.run(engine.start())
    print("started", flush=True)
    time.sleep(120)
"""


@pytest.mark.slow
def test_a_vllm_core_ends_with_a_replica_that_is_killed(model_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(_OWNER)
    with subprocess.Popen(
        [sys.executable, str(script), str(model_dir)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as owner:
        assert owner.stdout is not None
        while b"started" not in (line := owner.stdout.readline()):
            assert line, "the owner ended before its engine started"
        cores = _core_pids(owner.pid)
        assert cores
        owner.kill()
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{core}").exists() for core in cores):
        assert time.monotonic() < deadline, "the core outlived its owner"
        time.sleep(0.1)


async def test_what_the_cpu_cannot_run_is_refused_with_the_alternatives(tmp_path: Path) -> None:
    from serve_app.engines.vllm.requirements import require_runnable

    config = tmp_path / "config.json"
    config.write_text("{}")
    with pytest.raises(ModelUnusable, match="is not quantized"):
        require_runnable(VllmSettings(quantization="awq"), tmp_path, frozenset({"avx512f"}))
    config.write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ModelUnusable, match=r"awq needs the processor feature avx512f.*Alternatives.*onnx"):
        require_runnable(VllmSettings(), tmp_path, frozenset())
    with pytest.raises(ModelUnusable, match="is quantized with awq"):
        require_runnable(VllmSettings(quantization="gptq"), tmp_path, frozenset({"avx512f"}))
    require_runnable(VllmSettings(device="cuda", quantization="awq"), tmp_path, frozenset())
    int4 = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}
    config.write_text(json.dumps({"quantization_config": int4}))
    with pytest.raises(ModelUnusable, match="avx512f"):
        require_runnable(VllmSettings(), tmp_path, frozenset({"avx2"}))
    int4["config_groups"] = {"group_0": {"weights": {"num_bits": 8}}}
    config.write_text(json.dumps({"quantization_config": int4}))
    require_runnable(VllmSettings(), tmp_path, frozenset({"avx2"}))
    config.write_text('{"quantization_config": null}')
    require_runnable(VllmSettings(), tmp_path, frozenset())
    config.write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(ModelUnusable, match="bitsandbytes has no CPU kernel"):
        require_runnable(VllmSettings(), tmp_path, frozenset({"avx512f"}))


async def test_a_vllm_built_for_another_device_is_refused(model_dir: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"device: cuda is set, but the installed vLLM runs on cpu.*gpu extra"):
        await build_engine(VllmSettings(device="cuda"), model_dir).start()


async def test_settings_that_vllm_refuses_make_the_model_unusable(model_dir: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"^vLLM refuses the settings or the model's files: \w+: "):
        await build_engine(VllmSettings(max_model_len=1 << 30), model_dir).start()


async def _onnx(model_dir: Path, **settings: object) -> OnnxEngine:
    chosen = OnnxSettings.model_validate({"slots": 2, "max_model_len": 512, "step_timeout_s": 0.5} | settings)
    engine = build_engine(chosen, derive(model_dir, chosen))
    assert isinstance(engine, OnnxEngine)
    await engine.start()
    return engine


async def test_a_hung_onnx_step_is_noticed(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await _onnx(model_dir)
    await engine.check_health()
    release = asyncio.Event()
    assert engine._batch is not None
    real = engine._batch.step

    def hang() -> object:
        deadline = time.monotonic() + 20
        while not release.is_set() and time.monotonic() < deadline:
            time.sleep(0.01)
        return real()

    monkeypatch.setattr(engine._batch, "step", hang)
    request = asyncio.create_task(play(engine, ask(prompt(10), max_tokens=3)))
    await asyncio.sleep(1.0)
    with pytest.raises(EngineDead, match="step has taken"):
        await engine.check_health()
    release.set()
    assert len((await request)[0]) == 3
    await engine.check_health()
    await engine.close()


async def test_a_failing_onnx_step_fails_who_computes_and_not_who_waits(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await _onnx(model_dir, slots=1)
    assert engine._batch is not None
    real, steps = engine._batch.step, 0

    def fail_once() -> object:
        nonlocal steps
        steps += 1
        return 1 / 0 if steps == 3 else real()

    monkeypatch.setattr(engine._batch, "step", fail_once)
    first, second = (asyncio.create_task(play(engine, ask(prompt(10, i), max_tokens=6))) for i in range(2))
    with pytest.raises(GenerationFailed):
        await first
    assert len((await second)[0]) == 6
    await engine.close()
    with pytest.raises(EngineDead):
        await play(engine, ask(prompt(10)))


async def test_closing_an_onnx_engine_tells_everyone(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await _onnx(model_dir, slots=1, step_timeout_s=5)
    assert engine._batch is not None
    real = engine._batch.step

    def slow() -> object:
        time.sleep(0.3)
        return real()

    monkeypatch.setattr(engine._batch, "step", slow)
    running = [asyncio.create_task(play(engine, ask(prompt(10, i), max_tokens=400))) for i in range(2)]
    await asyncio.sleep(0.1)
    inbox = asyncio.create_task(play(engine, ask(prompt(10, 2))))
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0.05)
    late = asyncio.create_task(play(engine, ask(prompt(10, 3))))
    await closing
    results = await asyncio.wait_for(asyncio.gather(*running, inbox, late, return_exceptions=True), 5)
    assert [type(result) for result in results] == [EngineDead] * 4


async def test_an_onnx_context_that_cannot_be_batched_exactly_is_refused(model_dir: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"max_model_len: 8192 is over the 4096 tokens"):
        await _onnx(model_dir, max_model_len=8192)


async def test_a_full_onnx_queue_refuses(model_dir: Path) -> None:
    engine = await _onnx(model_dir, slots=1, max_waiting=1)
    streams = [engine.generate(ask(prompt(10, i), max_tokens=400, ignore_eos=True)) for i in range(2)]
    tasks = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded) as refused:
        await play(engine, ask(prompt(10)))
    assert refused.value.retry_after_s
    for task, stream in zip(tasks, streams, strict=True):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stream.aclose()
    await engine.close()


async def test_a_missing_onnx_provider_is_named(model_dir: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"CUDAExecutionProvider.*gpu extra"):
        await _onnx(model_dir, provider="cuda")


@pytest.mark.parametrize("form", [{"precision": "int4"}, {"precision": "int8", "block_size": 128}, {"precision": "int4_mixed"}])
async def test_quantized_results_do_not_depend_on_the_neighbours(model_dir: Path, form: dict[str, object]) -> None:
    engine: Engine = await _onnx(model_dir, slots=4, prefill_chunk=16, **form)
    requests = [(prompt(5 + 33 * i, i), i) for i in range(6)]

    async def draw(number: int) -> tuple[int, ...]:
        ids, seed = requests[number]
        return (await play(engine, ask(ids, temperature=1.0, seed=seed)))[0]

    alone = [await draw(number) for number in range(6)]
    assert await asyncio.gather(*(draw(number) for number in range(6))) == alone
    await engine.close()


@pytest.mark.parametrize(
    ("settings", "needed", "rows"),
    [
        ({"precision": "int8"}, 2, {2}),
        ({}, 1, {1}),
        ({"batch_invariant": False, "spinning": True, "threads": 2}, 2, {1}),
        ({"precision": "fp32", "ngram_speculation": 0}, 2, {1}),
    ],
)
async def test_a_lone_quantized_stream_is_two_rows_where_batch_invariance_needs_it(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], needed: int, rows: set[int]
) -> None:
    monkeypatch.setattr(Graph, "ensure_row_invariance", lambda _: needed)
    seen = set()
    advance = Graph.advance

    def counted(self: Graph, ids: NDArray[np.int64], pasts: NDArray[np.int64]) -> NDArray[np.float32]:
        seen.add(len(ids))
        return advance(self, ids, pasts)

    monkeypatch.setattr(Graph, "advance", counted)
    engine = await _onnx(model_dir, **{"precision": "int4", **settings})
    assert (await play(engine, ask(prompt(9))))[1].usage.completion_tokens == 24
    assert seen == rows
    await engine.close()
