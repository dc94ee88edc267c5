"""What the whole path costs over the bare engine: `python -m benchmarks.overhead` prints TTFT and tok/s at 1, 8 and 32 streams.

Method: the same engine with the same settings, first alone in this process, then as the only replica of its group behind proxy,
ingress and Ray, asked by streaming HTTP clients in this process. Every stream generates the same number of tokens, greedy, from a
short prompt; each figure is the median of the rounds. Nothing is asserted: machines differ, the ratios of one run are what counts.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from serve_app.chat.tokenizer import Tokenizer
from serve_app.config import AppSettings
from serve_app.engines.registry import build_engine
from serve_app.models.export import derive
from serve_app.models.locate import locate
from serve_app.types import Sampling, TokenRequest
from tests.live import live, shipped_config

TOKENS = 128
STREAMS = (1, 8, 32)
PROMPT = "What is 12 + 30? Stream number "

One = Callable[[int], Awaitable[tuple[float, int]]]
"""Runs one stream; returns seconds to its first token and its tokens."""
Figures = dict[int, tuple[float, float]]
"""Streams -> (median TTFT in seconds, tokens per second over all)."""


async def _measure(one: One, rounds: int) -> Figures:
    await asyncio.gather(*(one(i) for i in range(4)))
    figures = {}
    for streams in STREAMS:
        firsts, rates = [], []
        for _ in range(rounds):
            began = time.monotonic()
            results = await asyncio.gather(*(one(i) for i in range(streams)))
            rates.append(sum(tokens for _, tokens in results) / (time.monotonic() - began))
            firsts.append(statistics.median(first for first, _ in results))
        figures[streams] = (statistics.median(firsts), statistics.median(rates))
    return figures


async def _bare(settings: AppSettings, group: str, rounds: int) -> Figures:
    model_dir = locate(settings.models[settings.default_model], weights=True)
    tokenizer = Tokenizer.load(model_dir)
    engine = build_engine(settings.engines[group], derive(model_dir, settings.engines[group]))
    await engine.start()

    async def one(number: int) -> tuple[float, int]:
        prompt = tuple(tokenizer.encode(PROMPT + str(number), special=False))
        request = TokenRequest(request_id=f"b{number}", prompt=prompt, sampling=Sampling(temperature=0.0, max_tokens=TOKENS))
        began, first, tokens = time.monotonic(), 0.0, 0
        async for event in engine.generate(request):
            first = first or time.monotonic() - began
            tokens = getattr(event, "usage", None).completion_tokens if hasattr(event, "usage") else tokens
        return first, tokens

    figures = await _measure(one, rounds)
    await engine.close()
    return figures


async def _through(url: str, group: str, rounds: int) -> Figures:
    body = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> tuple[float, int]:
            wish = body | {"prompt": PROMPT + str(number)}
            began, first, last = time.monotonic(), 0.0, b""
            async with session.post(f"{url}/v1/completions", json=wish, headers={"x-engine": group}) as response:
                response.raise_for_status()
                async for line in response.content:
                    first = first or time.monotonic() - began
                    last = line if b'"completion_tokens":' in line else last
            return first, int(last.split(b'"completion_tokens":')[1].split(b",")[0])

        return await _measure(one, rounds)


def _print(group: str, bare: Figures, through: Figures) -> None:
    for streams in STREAMS:
        (first, rate), (first_through, rate_through) = bare[streams], through[streams]
        print(
            f"| {group} | {streams} | {first * 1000:.0f} | {first_through * 1000:.0f} | {(first_through - first) * 1000:+.0f} "
            f"| {rate:.0f} | {rate_through:.0f} | {rate_through / rate:.2f} |",
            flush=True,
        )


def _config(groups: list[str]) -> dict[str, Any]:
    """The shipped configuration with one replica of the measured groups only, so that both sides compute the same."""
    config = shipped_config()
    application = config["applications"][0]
    engines = application["args"]["engines"]
    application["args"]["engines"] = {group: engines[group] for group in groups}
    application["args"]["routing"]["prefer"] = {}
    application["deployments"] = [d for d in application["deployments"] if d["name"] in (*groups, "ingress")]
    for deployment in application["deployments"]:
        if "autoscaling_config" in deployment:
            del deployment["autoscaling_config"]
            deployment["num_replicas"] = 1
    return config


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", nargs="+", default=["onnx", "vllm"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| group | streams | TTFT ms, engine | TTFT ms, HTTP | added | tok/s, engine | tok/s, HTTP | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for group in options.groups:
        config = _config([group])
        settings = AppSettings.model_validate(config["applications"][0]["args"])
        bare = asyncio.run(_bare(settings, group, options.rounds))
        with live(config) as app:
            _print(group, bare, asyncio.run(_through(app.url, group, options.rounds)))


if __name__ == "__main__":
    main()
