"""Thousands of random requests, many of them abandoned, leave an engine as it was: no used slot, nobody waiting, flat memory."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from serve_app.engine_config import EngineSettings, LlamaCppSettings, OnnxSettings
from serve_app.engines.base import Engine
from serve_app.engines.registry import build_engine
from serve_app.errors import Overloaded
from serve_app.models.export import derive
from serve_app.types import Finished, JsonSchema, TokenRequest
from tests.contract.play import ask, play, prompt

AT_ONCE = 24
GROWTH_MIB = 24


SOAKED: list[tuple[EngineSettings, int]] = [
    (OnnxSettings(slots=12, max_waiting=4, max_model_len=256, prefill_chunk=32), 10_000),
    (LlamaCppSettings(precision="f32", slots=12, max_waiting=4, max_model_len=256, prefill_chunk=32), 1_200),
]


@pytest.fixture(params=SOAKED, ids=lambda pair: pair[0].kind)
def soaked(request: pytest.FixtureRequest) -> tuple[EngineSettings, int]:
    """An engine's settings, and how many requests it gets."""
    found: tuple[EngineSettings, int] = request.param
    return found


@pytest.fixture
async def engine(model_dir: Path, soaked: tuple[EngineSettings, int]) -> AsyncIterator[Engine]:
    settings = soaked[0]
    engine = build_engine(settings, derive(model_dir, settings))
    await engine.start()
    yield engine
    await engine.close()


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def _random_request(draw: random.Random) -> TokenRequest:
    ids = prompt(draw.randrange(1, 60), seed=draw.randrange(6))
    wish = {"temperature": draw.choice((0.0, 1.0)), "seed": draw.randrange(99), "top_p": draw.choice((1.0, 0.9))}
    plain = ask(ids, max_tokens=draw.randrange(1, 12), **wish)
    constraint = JsonSchema('{"type": "integer"}') if draw.random() < 0.05 else None
    salt = draw.choice((None, None, "a"))
    return TokenRequest(request_id=plain.request_id, prompt=ids, sampling=plain.sampling, constraint=constraint, cache_salt=salt)


@pytest.mark.slow
async def test_thousands_of_requests_leave_nothing(engine: Engine, soaked: tuple[EngineSettings, int]) -> None:
    requests = soaked[1]
    draw = random.Random(4)
    outcomes = {"finished": 0, "abandoned": 0, "refused": 0}
    wanted, _, _ = await play(engine, ask(prompt(50), max_tokens=30))

    async def one() -> None:
        patience = draw.randrange(0, 6) if draw.random() < 0.4 else 1000
        try:
            async with aclosing(engine.generate(_random_request(draw))) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        outcomes["finished"] += 1
                    elif patience <= 0:
                        outcomes["abandoned"] += 1
                        return
                    patience -= 1
        except Overloaded:
            outcomes["refused"] += 1

    async def client(count: int) -> None:
        for _ in range(count):
            await one()

    async def clients(count: int) -> None:
        await asyncio.gather(*(client(count // AT_ONCE + 1) for _ in range(AT_ONCE)))

    await clients(requests // 4)
    before = _resident_mib()
    await clients(requests * 3 // 4)
    growth = _resident_mib() - before
    assert sum(outcomes.values()) >= requests
    assert min(outcomes.values()) > requests / 100, outcomes
    async with asyncio.timeout(5):
        while engine.load().running or engine.load().waiting:
            await asyncio.sleep(0.01)
    assert engine.load().kv_usage == 0
    assert growth < GROWTH_MIB, f"{growth:.1f} MiB more after {outcomes}"
    assert (await play(engine, ask(prompt(50), max_tokens=30)))[0] == wanted
