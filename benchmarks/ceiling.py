"""An exported model against the memory's bandwidth, llama.cpp beside it: `python -m benchmarks.ceiling EXPORTED [--gguf FOLDER]`.

A lone stream reads all weights once a token, so bandwidth over weights is the most that one stream can reach. Both are measured in
turns in one process, with the same number of threads: the best that the memory did, for it is a ceiling, and the median of the
rest. The shape of Phi-4-mini without its weights:

    python -m benchmarks.stand_in SHAPE --size full
    phi-serve export onnx SHAPE --precision int4 --block-size 128 --out EXPORTED
    phi-serve export gguf SHAPE --type q4_0 --out FOLDER
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.engines import rate
from benchmarks.onnx_engine import prompt
from serve_app.engine_config import LlamaCppSettings, OnnxSettings
from serve_app.engines.base import Engine
from serve_app.engines.onnx.graph import Graph
from serve_app.engines.onnx.kv_pool import KvPool
from serve_app.engines.registry import build_engine
from serve_app.models import manifest
from serve_app.types import Sampling, TokenRequest

_BLOCK = 1 << 26
"""Numbers per thread and pass: 256 MiB of float32, beyond any cache."""


class Memory:
    """Reads memory as fast as numpy can, in several threads."""

    def __init__(self, threads: int) -> None:
        """Fill a block for each thread."""
        self._blocks = [np.ones(_BLOCK, np.float32) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads)
        self._readers: tuple[Callable[[np.ndarray[tuple[int], np.dtype[np.float32]]], object], ...] = (
            lambda block: block.view(np.uint8).max(),
            lambda block: block.view(np.int64).max(),
            lambda block: block.view(np.int64).sum(),
            lambda block: np.dot(block, block),
        )

    def bytes_per_s(self) -> float:
        """Return the best of several ways to read."""
        found = []
        for reader in self._readers:
            began = time.perf_counter()
            list(self._pool.map(reader, self._blocks))
            found.append(sum(block.nbytes for block in self._blocks) / (time.perf_counter() - began))
        return max(found)


class Steps:
    """Decode steps of one row and of two, without an engine around them: int4 runs a lone stream as two rows."""

    def __init__(self, exported: Path, threads: int, *, spinning: bool) -> None:
        """Load the graph once more."""
        self._graph = Graph(exported, provider="cpu", threads=threads, spinning=spinning)
        self._graph.attach(KvPool(self._graph.kv_shape, 2, 512))

    def seconds(self, rows: int, steps: int = 8) -> float:
        """Return the mean of some steps behind 20 tokens."""
        began = time.perf_counter()
        for at in range(steps):
            self._graph.advance(np.full(rows, 5), np.full(rows, 20 + at))
        return (time.perf_counter() - began) / steps


async def prompt_rate(engine: Engine, length: int, seed: int) -> float:
    """Return the prompt tokens per second of a lone prompt."""
    request = TokenRequest(request_id="b", prompt=prompt(length, seed), sampling=Sampling(temperature=0.0, max_tokens=1))
    began = time.perf_counter()
    async for _ in engine.generate(request):
        pass
    return length / (time.perf_counter() - began)


async def measure(options: argparse.Namespace) -> None:
    """Start what is asked for, let all take turns, print the table."""
    about = manifest.verify(options.exported)
    weights = (options.exported / "model.onnx.data").stat().st_size
    base = {"threads": options.threads, "slots": 8, "max_model_len": 512, "exported": str(options.exported)}
    own = {"ngram_speculation": 0, "step_timeout_s": 600, "spinning": options.spinning, "batch_invariant": not options.one_row}
    onnx = OnnxSettings.model_validate(base | own | {"precision": about["precision"]})
    built = {f"ONNX {about['precision']}": build_engine(onnx, options.exported)}
    if options.gguf:
        precision = manifest.verify(options.gguf)["precision"]
        llama = LlamaCppSettings.model_validate(base | {"precision": precision, "exported": str(options.gguf)})
        built[f"llama.cpp {precision}"] = build_engine(llama, options.gguf)
    for engine in built.values():
        await engine.start()
        await rate(engine, 1, 99, options.tokens)
    memory, steps = Memory(options.threads), Steps(options.exported, options.threads, spinning=options.spinning)
    figures: dict[str, list[float]] = {}
    for turn in range(options.rounds):
        for rows in (1, 2):
            figures.setdefault("memory", []).append(memory.bytes_per_s())
            figures.setdefault(f"{rows} row(s)", []).append(steps.seconds(rows))
        for name, engine in built.items():
            for streams in (1, 8):
                figures.setdefault(f"{name}, {streams}", []).append(await rate(engine, streams, turn, options.tokens))
            figures.setdefault(f"{name}, prompt", []).append(await prompt_rate(engine, 128, turn))
    median = {name: statistics.median(values) for name, values in figures.items()}
    best = max(figures["memory"])
    ceiling = best / weights
    print(f"{weights / 2**30:.2f} GiB of weights, {options.threads} thread(s), median of {options.rounds} rounds")
    print(f"memory {best / 1e9:.1f} GB/s (median {median['memory'] / 1e9:.1f}): at most {ceiling:.1f} tok/s for one stream\n")
    print("| engine | 1 stream tok/s | of the ceiling | 8 streams tok/s | prompt tok/s |\n|---|---|---|---|---|")
    for name, engine in built.items():
        one, eight, read = (median[f"{name}, {what}"] for what in ("1", "8", "prompt"))
        print(f"| {name} | {one:.1f} | {100 * one / ceiling:.0f} % | {eight:.1f} | {read:.0f} |")
        await engine.close()
    print("\n| decode step of | ms | of the ceiling |\n|---|---|---|")
    for what in ("1 row(s)", "2 row(s)"):
        print(f"| {what} | {1000 * median[what]:.0f} | {100 / median[what] / ceiling:.0f} % |")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path)
    parser.add_argument("--gguf", type=Path, help="a folder that `phi-serve export gguf` wrote of the same shape")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--spinning", action="store_true", help="let the ONNX engine's threads wait busily")
    parser.add_argument("--one-row", action="store_true", help="give up batch invariance: a lone int4 stream is one row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="tokens a stream")
    options = parser.parse_args()
    asyncio.run(measure(options))


if __name__ == "__main__":
    main()
