"""Tokens per second of the ONNX and llama.cpp engines at 1, 4 and 8 streams, side by side in one process.

    python -m benchmarks.engines [--model embedded] [--threads 1] [--rounds 5] [--engines onnx:fp32 llama_cpp:q8_0 ...]

The engines take turns round by round, so that what else the machine does hits all of them; the median counts. Greedy, short
prompts, 128 tokens a stream; a lone stream is timed from its first token. Drafts are off: what they are worth depends on the text.
"""

import argparse
import asyncio
import statistics
import time

from benchmarks.onnx_engine import TOKENS, prompt
from serve_app.config import ModelSettings
from serve_app.engine_config import LlamaCppSettings, OnnxSettings
from serve_app.engines.base import Engine
from serve_app.engines.registry import build_engine
from serve_app.models.export import derive
from serve_app.models.locate import locate
from serve_app.types import Sampling, TokenDelta, TokenRequest

STREAMS = (1, 4, 8)
ENGINES = ("onnx:fp32", "llama_cpp:f32", "onnx:int8", "llama_cpp:q8_0", "llama_cpp:q4_0")


def settings_of(name: str, threads: int) -> OnnxSettings | LlamaCppSettings:
    """Return the settings for `kind:precision`."""
    kind, precision = name.split(":")
    base = {"precision": precision, "threads": threads, "slots": max(STREAMS), "max_model_len": 1024}
    return (
        LlamaCppSettings.model_validate(base)
        if kind == "llama_cpp"
        else OnnxSettings.model_validate(base | {"ngram_speculation": 0})
    )


async def stream(engine: Engine, ids: tuple[int, ...], tokens: int) -> tuple[float, int]:
    """Generate; return the instant of the first token and the number of tokens."""
    sampling = Sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    first, count = 0.0, 0
    async for event in engine.generate(TokenRequest(request_id="b", prompt=ids, sampling=sampling)):
        if isinstance(event, TokenDelta):
            first = first or time.perf_counter()
            count += len(event.ids)
    return first, count


async def rate(engine: Engine, streams: int, seed: int, tokens: int = TOKENS) -> float:
    """Return tokens per second of so many streams at once, `tokens` each."""
    began = time.perf_counter()
    played = await asyncio.gather(*(stream(engine, prompt(16, seed * 100 + i), tokens) for i in range(streams)))
    ended = time.perf_counter()
    if streams == 1:
        return (played[0][1] - 1) / (ended - played[0][0])
    return sum(count for _, count in played) / (ended - began)


async def measure(options: argparse.Namespace) -> None:
    """Start the engines, let them take turns, print the table."""
    model_dir = locate(ModelSettings(path=options.model), weights=True)
    engines: dict[str, Engine] = {}
    for name in options.engines:
        settings = settings_of(name, options.threads)
        engines[name] = build_engine(settings, derive(model_dir, settings))
        await engines[name].start()
        await rate(engines[name], max(STREAMS), 99)
    figures: dict[tuple[str, int], list[float]] = {(name, streams): [] for name in engines for streams in STREAMS}
    for turn in range(options.rounds):
        for (name, streams), found in figures.items():
            found.append(await rate(engines[name], streams, turn))
    print(f"tok/s, {options.model}, {options.threads} thread(s), median of {options.rounds} rounds (least to most)\n")
    print("| engine | " + " | ".join(f"{streams} streams" for streams in STREAMS) + " |\n|---|" + "---|" * len(STREAMS))
    for name in engines:
        cells = [figures[name, streams] for streams in STREAMS]
        print(f"| {name} | " + " | ".join(f"{statistics.median(c):,.0f} ({min(c):,.0f} to {max(c):,.0f})" for c in cells) + " |")
    for engine in engines.values():
        await engine.close()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES))
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
