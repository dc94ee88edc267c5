"""What every engine that runs a model must make of the sampling parameters."""

import asyncio
import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serve_app.engines.base import Engine
from serve_app.engines.onnx.sampling import Sampler
from serve_app.types import (
    LEAST_LOGPROB,
    Constraint,
    FinishReason,
    Grammar,
    JsonSchema,
    OneOf,
    Regex,
    Sampling,
    clamp_logprob,
)
from tests.contract.play import ask, play, prompt


async def test_the_stop_token_ends_the_answer_uncounted_in_text_counted_in_usage(model_engine: Engine) -> None:
    whole, _, _ = await play(model_engine, ask(prompt(25)))
    stop = whole[6]
    first = whole.index(stop)
    ids, end, _ = await play(model_engine, ask(prompt(25), stop_token_ids=(stop,)))
    assert ids == whole[:first]
    assert (end.reason, end.usage.completion_tokens) == (FinishReason.STOP, first + 1)


async def test_min_tokens_holds_the_stop_back(model_engine: Engine) -> None:
    first = (await play(model_engine, ask(prompt(25))))[0][0]
    ids, end, _ = await play(model_engine, ask(prompt(25), stop_token_ids=(first,), min_tokens=5))
    assert len(ids) >= 5
    assert first not in ids[:5]
    assert end.usage.completion_tokens >= 5


async def test_a_seeded_sample_does_not_depend_on_its_neighbours(model_engine: Engine) -> None:
    requests = [(prompt(5 + 40 * i, i), i) for i in range(12)]

    async def draw(number: int) -> tuple[int, ...]:
        ids, seed = requests[number]
        return (await play(model_engine, ask(ids, temperature=1.0, seed=seed)))[0]

    alone = [await draw(number) for number in range(12)]
    together = await asyncio.gather(*(draw(number) for number in range(12)))
    assert together == alone


async def test_different_seeds_differ(model_engine: Engine) -> None:
    draws = {(await play(model_engine, ask(prompt(20), temperature=1.5, seed=seed)))[0] for seed in range(6)}
    assert len(draws) > 1


async def test_negative_seeds_are_seeds(model_engine: Engine) -> None:
    async def draw(seed: int) -> tuple[int, ...]:
        return (await play(model_engine, ask(prompt(20), temperature=1.5, seed=seed)))[0]

    seeds = (-1, -2, -(2**31), -(2**32), -(2**63))
    drawn = [await draw(seed) for seed in seeds]
    assert [await draw(seed) for seed in seeds] == drawn
    assert len(set(drawn)) > 1


async def test_logit_bias_forces_and_forbids(model_engine: Engine) -> None:
    forced, _, _ = await play(model_engine, ask(prompt(20), logit_bias={777: 100.0}, max_tokens=4))
    assert forced == (777,) * 4
    first = (await play(model_engine, ask(prompt(20), max_tokens=1)))[0][0]
    forbidden, _, _ = await play(model_engine, ask(prompt(20), logit_bias={first: -100.0}, max_tokens=1))
    assert forbidden[0] != first


async def test_logprobs_are_sorted_and_lead_with_the_greedy_choice(model_engine: Engine) -> None:
    ids, _, logprobs = await play(model_engine, ask(prompt(20), logprobs=4, max_tokens=6))
    assert [entry.token for entry in logprobs] == list(ids)
    for entry in logprobs:
        assert len(entry.top) == 4
        assert entry.top[0] == (entry.token, pytest.approx(entry.logprob))
        values = [value for _, value in entry.top]
        assert values == sorted(values, reverse=True)
        assert all(value <= 0 and math.isfinite(value) for value in values)


async def test_logprobs_without_alternatives(model_engine: Engine) -> None:
    _, _, logprobs = await play(model_engine, ask(prompt(20), logprobs=0, max_tokens=3))
    assert [len(entry.top) for entry in logprobs] == [0, 0, 0]


async def test_both_engines_agree_on_logprobs_and_penalties(onnx_engine: Engine, vllm_engine: Engine) -> None:
    wish = {"logprobs": 3, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.7, "max_tokens": 24,
            "logit_bias": {400: 3.0, 401: -2.0}, "stop_token_ids": (0, 1, 500), "min_tokens": 20}  # fmt: skip
    one = await play(onnx_engine, ask(prompt(40), **wish))
    other = await play(vllm_engine, ask(prompt(40), **wish))
    assert one[0] == other[0]
    for mine, theirs in zip(one[2], other[2], strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)


async def test_llama_cpp_agrees_on_logprobs_and_what_it_has_of_penalties(onnx_engine: Engine, llama_cpp_engine: Engine) -> None:
    wish = {"logprobs": 3, "repetition_penalty": 1.3, "max_tokens": 24, "logit_bias": {400: 3.0, 401: -2.0},
            "stop_token_ids": (0, 1, 500), "min_tokens": 20}  # fmt: skip
    one = await play(onnx_engine, ask(prompt(40), **wish))
    other = await play(llama_cpp_engine, ask(prompt(40), **wish))
    assert one[0] == other[0]
    for mine, theirs in zip(one[2], other[2], strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
        assert [token for token, _ in mine.top] == [token for token, _ in theirs.top]


CONSTRAINTS: list[Constraint] = [
    OneOf(("red", "green")), Regex("[0-9]{4}"), Grammar('start: "zebra " /[A-Z]{3}/'),
    JsonSchema('{"type": "object", "properties": {"a": {"enum": ["x", "yy"]}}, "required": ["a"]}'),
]  # fmt: skip
WISHES: list[dict[str, Any]] = [
    {}, {"logit_bias": {400: 5.0, 17: 90.0, 18: -90.0}}, {"min_p": 0.5, "temperature": 0.7, "seed": 3},
    {"temperature": 1.5, "seed": 4, "top_k": 3, "repetition_penalty": 1.5},
]  # fmt: skip


@pytest.mark.parametrize("wish", WISHES, ids=lambda wish: "-".join(wish) or "greedy")
async def test_logprobs_are_the_models_own_whatever_is_done_to_its_choice(model_engine: Engine, wish: dict[str, Any]) -> None:
    """Constraints, biases and filters decide which token comes, not how likely the model held it: as without them, and finite."""
    free = (await play(model_engine, ask(prompt(30), logprobs=20, max_tokens=1)))[2][0]
    for constraint in CONSTRAINTS:
        request = replace(ask(prompt(30), logprobs=20, max_tokens=16, stop_token_ids=(0, 1), **wish), constraint=constraint)
        together = await asyncio.gather(play(model_engine, request), play(model_engine, ask(prompt(30), max_tokens=4, logprobs=2)))
        (ids, _, logprobs), (_, _, neighbours) = together
        assert [entry.token for entry in logprobs] == list(ids)
        assert [token for token, _ in logprobs[0].top] == [token for token, _ in free.top]
        assert [value for _, value in logprobs[0].top] == pytest.approx([value for _, value in free.top], abs=1e-3)
        assert [value for _, value in neighbours[0].top] == pytest.approx([value for _, value in free.top[:2]], abs=1e-3)
        for entry in logprobs:
            values = [entry.logprob, *(value for _, value in entry.top)]
            assert len(entry.top) == 20
            assert all(LEAST_LOGPROB <= value <= 0 for value in values)
            assert sum(math.exp(value) for _, value in entry.top) <= 1.001
            assert entry.logprob <= entry.top[0][1] + 1e-6


async def test_engines_agree_on_logprobs_under_a_constraint(
    onnx_engine: Engine, vllm_engine: Engine, llama_cpp_engine: Engine
) -> None:
    for constraint in CONSTRAINTS:
        request = ask(prompt(30), logprobs=5, max_tokens=16, stop_token_ids=(0, 1), logit_bias={17: 3.0})
        played = [
            await play(engine, replace(request, constraint=constraint, request_id=f"{constraint}{number}"))
            for number, engine in enumerate((onnx_engine, vllm_engine, llama_cpp_engine))
        ]
        for ids, _, logprobs in played[1:]:
            assert ids == played[0][0]
            for mine, theirs in zip(played[0][2], logprobs, strict=True):
                assert mine.logprob == pytest.approx(theirs.logprob, abs=2e-3)
                assert [value for _, value in mine.top] == pytest.approx([value for _, value in theirs.top], abs=2e-3)


@pytest.mark.parametrize("value", [-math.inf, math.nan, -sys.float_info.max, -1e5])
def test_a_probability_too_small_for_a_number_is_openais_least(value: float) -> None:
    assert clamp_logprob(value) == LEAST_LOGPROB
    assert clamp_logprob(-103.0) == -103.0


@pytest.mark.parametrize("wish", [{"top_k": 1}, {"top_p": 1e-6}, {"top_p": 0.0}, {"top_p": 5e-324}, {"min_p": 1.0}])
async def test_the_narrowest_filters_are_greedy(model_engine: Engine, wish: dict[str, float]) -> None:
    greedy = (await play(model_engine, ask(prompt(33))))[0]
    assert (await play(model_engine, ask(prompt(33), temperature=1.0, **wish)))[0] == greedy


LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, [0.4, 0.3, 0.15, 0.1, 0.05]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_p": 0.6}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"min_p": 0.3}, [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        ({"temperature": 0.5}, [0.16 / 0.285, 0.09 / 0.285, 0.0225 / 0.285, 0.01 / 0.285, 0.0025 / 0.285]),
        ({"logit_bias": {0: -100.0}}, [0, 0.5, 0.25, 1 / 6, 1 / 12]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"min_p": 0.5, "top_p": 0.55}, [1, 0, 0, 0, 0]),  # min_p first: of the two left the first alone has 4/7 of the mass
    ],
)
def test_the_onnx_sampler_draws_the_stated_distribution(sampling: dict[str, object], expected: list[float]) -> None:
    sampler = Sampler(Sampling(seed=1, **sampling), (0,))  # type: ignore[arg-type]
    draws = np.bincount([sampler.draw(LOGITS)[0] for _ in range(20_000)], minlength=5) / 20_000
    assert np.abs(draws - np.array(expected)).max() < 0.015


def test_bias_comes_before_the_penalties_as_in_vllm() -> None:
    sampler = Sampler(Sampling(temperature=0.0, logit_bias={0: 0.9}, repetition_penalty=2.0), (0,))
    # Token 0 is in the prompt: (2 + 0.9) / 2 = 1.45 loses against 1.5; bias after the penalty would give 1.9 and win.
    assert sampler.draw(np.array([2.0, 1.5], np.float32))[0] == 1


@pytest.mark.slow
async def test_seeded_requests_with_long_prompts_all_at_once(model_engine: Engine) -> None:
    """More prompt tokens than a step has room for: vLLM's core on CPUs does not survive a seeded prompt that is cut in two."""

    async def draw(number: int) -> tuple[int, ...]:
        return (await play(model_engine, ask(prompt(1500 + number), temperature=1.0, seed=number, max_tokens=8)))[0]

    together = await asyncio.gather(*(draw(number) for number in range(8)))  # first, while no cache knows the prompts
    assert [await draw(number) for number in range(8)] == list(together)
