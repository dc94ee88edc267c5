"""Prefix reuse in the ONNX group changes the time an answer takes, not its tokens.

Where a prompt goes on from generated tokens, their caches were computed one position at a time instead of in chunks. In fp32
that is rounding; in int8 and int4 it moves logits by hundredths, so there the tokens may differ from a first reading.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.engine_config import OnnxSettings
from serve_app.engines.base import Engine
from serve_app.engines.registry import build_engine
from serve_app.models.export import derive
from serve_app.types import TokenRequest
from tests.contract.play import ask, play, prompt


@pytest.fixture(params=["fp32", "int8", "int4"])
async def pair(request: pytest.FixtureRequest, model_dir: Path) -> AsyncIterator[tuple[Engine, Engine]]:
    """The same engine with and without prefix reuse."""
    engines = []
    for keep in (True, False):
        settings = OnnxSettings(precision=request.param, slots=4, max_model_len=1024, prefill_chunk=48, prefix_cache=keep)
        engines.append(build_engine(settings, derive(model_dir, settings)))
        await engines[-1].start()
    yield engines[0], engines[1]
    for engine in engines:
        await engine.close()


def _requests() -> list[TokenRequest]:
    """Prompts that share one of two beginnings, in any order; greedy and seeded."""
    beginnings = [prompt(120, seed=1), prompt(300, seed=2)]
    tails = [prompt(3 + 7 * i, seed=3 + i) for i in range(10)]
    prompts = [beginnings[i % 2][: 120 - 9 * (i % 3)] + tail for i, tail in enumerate(tails)]
    return [ask(ids, **({"temperature": 0.9, "seed": i} if i % 3 == 2 else {})) for i, ids in enumerate(prompts)]


async def test_tokens_are_the_same_with_and_without(pair: tuple[Engine, Engine]) -> None:
    keeping, plain = pair
    wanted = [await play(plain, request) for request in _requests()]
    alone = [await play(keeping, request) for request in _requests()]
    together = await asyncio.gather(*(play(keeping, request) for request in _requests()))
    for answers in (alone, together):
        assert [tokens for tokens, _, _ in answers] == [tokens for tokens, _, _ in wanted]
    assert sum(end.usage.cached_tokens for _, end, _ in wanted) == 0
    assert sum(end.usage.cached_tokens for _, end, _ in alone) > 500
    assert all(end.usage.cached_tokens < len(request.prompt) for request, (_, end, _) in zip(_requests(), alone, strict=True))


async def test_a_conversation_goes_on_from_generated_tokens(pair: tuple[Engine, Engine]) -> None:
    keeping, plain = pair
    first = prompt(60, seed=9)
    answer, _, _ = await play(keeping, ask(first))
    longer = (*first, *answer, *prompt(5, seed=4))
    again, end, _ = await play(keeping, ask(longer))
    if keeping.info.precision == "fp32":
        assert again == (await play(plain, ask(longer)))[0]
    assert end.usage.cached_tokens >= len(first) + len(answer) - 1


async def test_another_salt_shares_nothing(pair: tuple[Engine, Engine]) -> None:
    keeping, _ = pair
    base = ask(prompt(80, seed=5))
    await play(keeping, base)
    other = TokenRequest(request_id="salted", prompt=base.prompt, sampling=base.sampling, cache_salt="tenant")
    assert (await play(keeping, other))[1].usage.cached_tokens == 0
