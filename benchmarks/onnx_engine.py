"""The ONNX engine against onnxruntime-genai and against itself: `python -m benchmarks.onnx_engine` prints one table.

Method: both sides load the same weights in the same precision with the same number of threads, take turns in one process, and each
figure is the median of the rounds; streams are greedy, of equal length, and never end early. Nothing is asserted: the ratios of one
run are what counts.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from benchmarks.genai import Batching, Loop, export
from serve_app.config import ModelSettings
from serve_app.engine_config import OnnxSettings
from serve_app.engines.onnx.engine import OnnxEngine
from serve_app.models.export import derive
from serve_app.models.locate import locate
from serve_app.types import Sampling, TokenDelta, TokenRequest

TOKENS = 128
LATE_STEP = 20


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Return `length` ordinary token ids."""
    draw = random.Random(f"{seed}/{length}")
    return tuple(draw.randrange(300, 1000) for _ in range(length))


class Ours:
    """The engine of this project, and how its streams behave."""

    def __init__(self, settings: OnnxSettings, model_dir: Path) -> None:
        """Prepare it; `start` loads."""
        self.engine = OnnxEngine(settings, derive(model_dir, settings))

    async def stream(self, ids: tuple[int, ...], tokens: int = TOKENS, begun: asyncio.Event | None = None) -> list[float]:
        """Generate; return the instants of the start and of every token. Set `begun` at the first one."""
        request = TokenRequest(request_id="b", prompt=ids, sampling=Sampling(temperature=0.0, max_tokens=tokens))
        instants = [time.perf_counter()]
        async for event in self.engine.generate(request):
            if isinstance(event, TokenDelta):
                instants += [time.perf_counter()] * len(event.ids)
                if begun is not None:
                    begun.set()
        return instants

    async def throughput(self, streams: int, seed: int) -> float:
        """Tokens per second of so many streams at once; for one stream, after its first token."""
        began = time.perf_counter()
        results = await asyncio.gather(*(self.stream(prompt(16, seed * 100 + i)) for i in range(streams)))
        if streams == 1:
            return (TOKENS - 1) / (results[0][-1] - results[0][1])
        return streams * TOKENS / (time.perf_counter() - began)

    async def late_steps(self, seed: int) -> float:
        """Steps that a stream joining seven others, all of them generating, waits for its first token; the one under way counts."""
        begun = [asyncio.Event() for _ in range(7)]
        others = [asyncio.create_task(self.stream(prompt(16, seed * 100 + i), 300, event)) for i, event in enumerate(begun)]
        for event in begun:
            await event.wait()
        await asyncio.sleep(0.02)
        before = self.engine.load().counters["steps"]
        late = asyncio.create_task(self._first(prompt(16, seed * 100 + 50)))
        after = await late
        await asyncio.gather(*others)
        return after - before

    async def _first(self, ids: tuple[int, ...]) -> float:
        request = TokenRequest(request_id="b", prompt=ids, sampling=Sampling(temperature=0.0, max_tokens=8))
        steps = 0.0
        async for _ in self.engine.generate(request):
            steps = steps or self.engine.load().counters["steps"]
        return steps

    async def longest_gap(self, seed: int) -> float:
        """Longest pause of four running streams while a 3,000-token prompt is read, seconds."""
        running = [asyncio.create_task(self.stream(prompt(16, seed * 100 + i), 600)) for i in range(4)]
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        ended = (await self.stream(prompt(3000, seed), 2))[1]
        gaps = []
        for instants in await asyncio.gather(*running):
            gaps += [after - before for before, after in pairwise(instants) if began < after < ended]
        return max(gaps)

    async def first_token_s(self, ids: tuple[int, ...]) -> float:
        """Seconds to the first token."""
        instants = await self.stream(ids, 2)
        return instants[1] - instants[0]


def _row(measure: str, ours: float, other: float | None, unit: str, bar: str) -> None:
    ratio = f"{ours / other:.2f}" if other else ""
    print(f"| {measure} | {ours:,.3g} {unit} | {f'{other:,.3g} {unit}' if other else ''} | {ratio} | {bar} |", flush=True)


def _median(rounds: int, *sides: Callable[[int], float]) -> list[float]:
    """Let the sides take turns; return the median of each."""
    figures = [[side(turn) for side in sides] for turn in range(rounds)]
    return [statistics.median(column) for column in zip(*figures, strict=True)]


async def measure(options: argparse.Namespace, model_dir: Path, scratch: Path) -> None:
    """Run every measure and print its row."""
    loop = asyncio.get_running_loop()

    def wait(coroutine: object) -> float:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()  # type: ignore[arg-type]

    async def compare(*sides: Callable[[int], float]) -> list[float]:
        return await asyncio.to_thread(_median, options.rounds, *sides)

    base = {"precision": options.precision, "threads": options.threads, "slots": 8}
    ours = Ours(OnnxSettings.model_validate(base | {"ngram_speculation": 0}), model_dir)
    await ours.engine.start()
    export_to = {"precision": options.precision, "threads": options.threads, "batch": options.genai_batch}
    theirs = Loop(export(model_dir, scratch / "loop", prune=True, **export_to))
    batching = Batching(export(model_dir, scratch / "engine", prune=False, **export_to))
    await ours.throughput(8, 99)
    theirs.run(prompt(16), TOKENS)

    one, loop_rate = await compare(lambda i: wait(ours.throughput(1, i)), lambda i: theirs.run(prompt(16, i), TOKENS))
    _row("1 stream, against `Generator`", one, loop_rate, "tok/s", ">= 0.95")
    prompts = [prompt(16, i) for i in range(8)]
    eight, batch_rate = await compare(lambda i: wait(ours.throughput(8, i)), lambda _: batching.run(prompts, TOKENS)[0])
    _row("8 streams, against `Engine`", eight, batch_rate, "tok/s", ">= 1.3")
    _row("8 streams, against 1", eight, one, "tok/s", ">= 2.2")
    late, their_late = await compare(
        lambda i: wait(ours.late_steps(i)),
        lambda _: float(batching.run(prompts[: options.genai_batch], 300, (LATE_STEP, prompt(16, 50)))[1]),
    )
    _row("first token of a late joiner, against `Engine`", late, their_late, "steps", "< 3 steps")
    await ours.engine.close()

    for target in (0.1, 0.03):
        paced = Ours(OnnxSettings.model_validate(base | {"target_step_s": target, "prefill_chunk": 1024}), model_dir)
        await paced.engine.start()
        await paced.longest_gap(98)
        (gap,) = await compare(lambda i, paced=paced: wait(paced.longest_gap(i)))
        _row(f"longest gap beside a 3,000-token prompt, against the target step of {target} s", gap, target, "s", "<= 1.5")
        await paced.engine.close()

    system = prompt(1000, 7)
    pair = [Ours(OnnxSettings.model_validate(base | {"prefix_cache": keep}), model_dir) for keep in (True, False)]
    for side in pair:
        await side.engine.start()
        await side.first_token_s((*system, *prompt(10, 1000)))
    again, anew = await compare(*(lambda i, side=side: wait(side.first_token_s((*system, *prompt(10, i)))) for side in pair))
    _row("first token after a known 1,000-token system prompt, against without reuse", again, anew, "s", "<= 0.15")
    for side in pair:
        await side.engine.close()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--precision", choices=["fp32", "int8", "int4", "int4_mixed"], default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--genai-batch", type=int, default=4, help="batch of onnxruntime-genai's Engine")
    options = parser.parse_args()
    print(f"{options.precision}, {options.threads} thread(s), median of {options.rounds} rounds\n")
    print("| measure | ours | other | ratio | bar |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(measure(options, locate(ModelSettings(path=options.model), weights=True), Path(scratch)))


if __name__ == "__main__":
    main()
