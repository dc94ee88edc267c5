"""The contract of `serve_app.engines.base`, held against every engine."""

import asyncio
import time

import pytest

from serve_app.engines.base import Engine
from serve_app.errors import ContextOverflow, InvalidRequest
from serve_app.types import FinishReason
from tests.contract.play import ask, play, prompt


async def _idle(engine: Engine, within_s: float) -> float:
    began = time.monotonic()
    while engine.load().running or engine.load().waiting:
        assert time.monotonic() - began < within_s, f"still busy: {engine.load()}"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_stream_ends_with_one_finished_and_exact_usage(engine: Engine) -> None:
    ids, end, _ = await play(engine, ask(prompt(20), max_tokens=5))
    assert (len(ids), end.reason) == (5, FinishReason.LENGTH)
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (20, 5)


async def test_greedy_decoding_is_reproducible(engine: Engine) -> None:
    request = prompt(30)
    assert (await play(engine, ask(request)))[0] == (await play(engine, ask(request)))[0]


async def test_closing_the_iterator_frees_the_slot(engine: Engine) -> None:
    stream = engine.generate(ask(prompt(20), max_tokens=2000, ignore_eos=True))
    await anext(stream)
    assert engine.load().running == 1
    await stream.aclose()
    assert await _idle(engine, 1.0) < 1.0


async def test_closing_while_waiting_leaves_nothing(engine: Engine) -> None:
    streams = [engine.generate(ask(prompt(10, i), max_tokens=1000, ignore_eos=True)) for i in range(24)]
    tasks = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for stream in streams:
        await stream.aclose()
    await _idle(engine, 2.0)
    assert len((await play(engine, ask(prompt(10), max_tokens=3)))[0]) == 3


async def test_the_answer_fills_the_context_and_no_more(engine: Engine) -> None:
    length = engine.info.context_length
    ids, end, _ = await play(engine, ask(prompt(length - 4), max_tokens=1000))
    assert (len(ids), end.reason) == (4, FinishReason.LENGTH)


async def test_32_streams_at_once_have_exact_usage(engine: Engine) -> None:
    results = await asyncio.gather(*(play(engine, ask(prompt(10 + i, i), max_tokens=1 + i % 8)) for i in range(32)))
    for i, (ids, end, _) in enumerate(results):
        assert len(ids) == end.usage.completion_tokens == 1 + i % 8
        assert end.usage.prompt_tokens == 10 + i


async def test_health_is_good_while_it_works(engine: Engine) -> None:
    stream = engine.generate(ask(prompt(20), max_tokens=400, ignore_eos=True))
    await anext(stream)
    await engine.check_health()
    await stream.aclose()


async def test_a_prompt_over_the_context_is_refused(model_engine: Engine) -> None:
    with pytest.raises(ContextOverflow):
        await play(model_engine, ask(prompt(model_engine.info.context_length)))


@pytest.mark.parametrize("token", [10**6, 2**40, 2**70])
async def test_ids_outside_the_vocabulary_are_refused(model_engine: Engine, token: int) -> None:
    with pytest.raises(InvalidRequest):
        await play(model_engine, ask((5, token)))
    assert len((await play(model_engine, ask(prompt(10), max_tokens=3)))[0]) == 3
