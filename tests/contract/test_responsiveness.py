"""While an engine computes, the event loop goes on: onnxruntime and vLLM's core do not hold the interpreter's lock."""

import asyncio
import time
from itertools import pairwise
from pathlib import Path

from serve_app.engine_config import OnnxSettings
from serve_app.engines.onnx.engine import OnnxEngine
from serve_app.models.export import derive
from tests.contract.play import ask, play, prompt


async def test_the_loop_beats_while_a_long_prompt_is_read_in_one_step(model_dir: Path) -> None:
    settings = OnnxSettings(precision="fp32", slots=2, threads=1, prefill_chunk=3500)
    engine = OnnxEngine(settings, derive(model_dir, settings))
    await engine.start()
    beats: list[float] = []

    async def beat() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.001)

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await play(engine, ask(prompt(3500), max_tokens=1))
    step_s = engine.load().counters["prefill_s"]
    heart.cancel()
    await engine.close()
    during = [at for at in beats if at >= began]
    longest_s = max(after - before for before, after in pairwise(during))
    print(f"\none step of {step_s:.3f} s, longest pause of the loop {longest_s:.3f} s, {len(during)} beats")
    assert engine.load().counters["steps"] <= 2
    assert longest_s < step_s / 4
