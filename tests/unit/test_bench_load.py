"""The plan, the arrivals and the prompts of benchmarks."""

import asyncio
import itertools
import re
import statistics
import time

import pytest

from serve_app.bench.load import follow_arrivals, keep_streams
from serve_app.bench.plan import BenchError, Load, count_requests, draw_arrivals, list_steps
from serve_app.bench.prompts import PromptMaker
from tests.unit.app import TOKENIZER
from tests.unit.bench_records import EIGHT, ONE, make_plan


def test_groups_take_turns() -> None:
    steps = list_steps(make_plan(groups=("a", "b"), loads=(ONE, EIGHT), rounds=2))
    assert [(each.round, each.load.streams, each.group) for each in steps] == [
        *((0, streams, group) for streams in (1, 8) for group in ("a", "b")),
        *((1, streams, group) for streams in (1, 8) for group in ("b", "a")),
    ]


@pytest.mark.parametrize(
    ("fields", "load", "count"),
    [({}, ONE, 8), ({}, EIGHT, 16), ({}, Load(rate=2.0), 60), ({"requests": 5}, EIGHT, 5), ({"duration_s": 3.0}, EIGHT, None)],
)
def test_requests_of_a_run(fields: dict[str, object], load: Load, count: int | None) -> None:
    assert count_requests(make_plan(**fields), load) == count


def test_arrivals_are_a_poisson_process_that_comes_again() -> None:
    arrivals = list(draw_arrivals(Load(rate=50.0), "1", 20_000, None))
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.03)  # exponential: as large as the mean
    assert list(draw_arrivals(Load(rate=50.0), "1", 100, None)) == arrivals[:100]
    assert list(draw_arrivals(Load(rate=50.0), "2", 100, None)) != arrivals[:100]
    within = list(draw_arrivals(Load(rate=50.0), "1", None, 3.0))
    assert within == [each for each in arrivals if each < 3.0]


async def test_streams_are_full_until_the_last_requests() -> None:
    under_way, most, numbers = 0, 0, []

    async def ask(number: int, due: float) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        numbers.append(number)
        await asyncio.sleep(0.001)
        under_way -= 1

    await keep_streams(ask, 3, 10, None)
    assert (most, numbers) == (3, list(range(10)))


async def test_a_duration_ends_sending_and_waits_for_answers() -> None:
    ended = []

    async def ask(number: int, due: float) -> None:
        await asyncio.sleep(0.02)
        ended.append(number)

    began = time.perf_counter()
    await keep_streams(ask, 2, None, 0.1)
    assert time.perf_counter() - began > 0.1
    assert sorted(ended) == list(range(len(ended)))
    assert 2 <= len(ended) <= 12


async def test_arrivals_wait_for_nobody() -> None:
    release, begun = asyncio.Event(), []

    async def ask(number: int, due: float) -> None:
        begun.append(number)
        if len(begun) == 4:
            release.set()
        await release.wait()  # would hang if a request waited for the one before

    await follow_arrivals(ask, [0.0, 0.0, 0.005, 0.01])
    assert begun == [0, 1, 2, 3]


async def _count(text: str) -> int:
    return len(TOKENIZER.encode(text, special=False))


async def _count_chat(text: str) -> int:
    return await _count(text) + 3


@pytest.mark.parametrize("tokens", [9, 17, 128, 1000])
async def test_prompts_have_exactly_their_tokens_and_differ(tokens: int) -> None:
    maker = PromptMaker(tokens, 0, seed=7)
    await maker.calibrate(_count, _count_chat)
    prompts = [maker.make(str(number)) for number in range(20)]
    assert {await _count_chat(prompt) for prompt in prompts} == {tokens}
    again = PromptMaker(tokens, 0, seed=7)
    await again.calibrate(_count, _count_chat)
    assert [again.make(str(number)) for number in range(20)] == prompts
    if tokens > 100:
        assert len(set(prompts)) == len(prompts)
        assert len({prompt[:18] for prompt in prompts}) > 15  # no prefix cache finds much


async def test_a_shared_prefix_is_shared_and_counted() -> None:
    maker = PromptMaker(100, 60, seed=7)
    await maker.calibrate(_count, _count_chat)
    prompts = [maker.make(str(number)) for number in range(5)]
    assert {await _count_chat(prompt) for prompt in prompts} == {100}
    ids = [tuple(TOKENIZER.encode(prompt, special=False)) for prompt in prompts]
    assert len({each[:58] for each in ids}) == 1
    assert len({each[:75] for each in ids}) == 5


async def test_a_template_that_strips_or_counts_oddly_is_found_out() -> None:
    async def count(text: str) -> int:
        return await _count(re.sub(r"^(\w+:)", r"\1!!", text)) + 40

    maker = PromptMaker(64, 0, seed=1)
    await maker.calibrate(_count, count)
    assert {await count(maker.make(str(number))) for number in range(4)} == {64}


async def test_prompts_shorter_than_the_template_are_refused() -> None:
    with pytest.raises(BenchError, match="3 prompt tokens are too few: the template"):
        await PromptMaker(3, 0, seed=1).calibrate(_count, _count_chat)


async def test_a_length_that_cannot_be_had_is_refused() -> None:
    async def twice(text: str) -> int:
        return 2 * len(text.split())

    with pytest.raises(BenchError, match="no words add up to 7"):
        await PromptMaker(9, 0, seed=1).calibrate(twice, twice)
