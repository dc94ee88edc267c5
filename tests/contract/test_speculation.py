"""Prompt-lookup drafts in the ONNX group change the time an answer takes, not its tokens; with int8 and int4 weights there are
none."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from serve_app.chat.formats.phi4.call_grammar import build_guided_calls
from serve_app.conversation import Tool
from serve_app.engine_config import OnnxSettings
from serve_app.engines.base import Engine
from serve_app.engines.registry import build_engine
from serve_app.models.export import derive
from serve_app.types import Constraint, Regex
from tests.contract.play import ask, play, prompt

GUIDE = build_guided_calls((Tool(name="first_tool", function="{}"), Tool(name="first_other", function="{}")))


@pytest.fixture
async def pair(model_dir: Path) -> AsyncIterator[tuple[Engine, Engine]]:
    """The same engine with and without drafts."""
    engines = []
    for most in (8, 0):
        settings = OnnxSettings(slots=2, max_model_len=1024, ngram_speculation=most)
        engines.append(build_engine(settings, derive(model_dir, settings)))
        await engines[-1].start()
    yield engines[0], engines[1]
    for engine in engines:
        await engine.close()


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 3}, {"logprobs": 2}, {"repetition_penalty": 1.1}], ids=str)
async def test_tokens_are_the_same_with_and_without(pair: tuple[Engine, Engine], sampling: dict[str, float]) -> None:
    drafting, plain = pair
    for seed in range(3):
        request = ask(prompt(20, seed=seed) * 4, max_tokens=120, ignore_eos=True, **sampling)
        (ids, end, logprobs), (wanted, _, wanted_logprobs) = await play(drafting, request), await play(plain, request)
        assert ids == wanted
        assert [entry.logprob for entry in logprobs] == pytest.approx([entry.logprob for entry in wanted_logprobs], abs=1e-4)
        assert end.usage.completion_tokens == 120


async def test_repeating_text_is_drafted(pair: tuple[Engine, Engine]) -> None:
    drafting, plain = pair
    await play(drafting, ask(prompt(20) * 4, max_tokens=200, ignore_eos=True))
    counters = drafting.load().counters
    assert counters["drafted_tokens"] >= counters["accepted_tokens"] > 0
    assert plain.load().counters["drafted_tokens"] == 0


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_answers_within_a_constraint_are_drafted_and_the_same(pair: tuple[Engine, Engine], temperature: float) -> None:
    drafting, plain = pair
    constraints: tuple[Constraint, ...] = (Regex("[a-d ]{150}"), Regex("((one|two) times (red|blue) and ){12}"), GUIDE)
    for seed, constraint in enumerate(constraints):
        request = replace(ask(prompt(20, seed=seed) * 4, max_tokens=160, temperature=temperature, seed=seed), constraint=constraint)
        assert (await play(drafting, request))[0] == (await play(plain, request))[0]
    assert drafting.load().counters["accepted_tokens"] > 0


@pytest.mark.parametrize("precision", ["int8", "int4"])
async def test_quantized_weights_are_not_drafted_for(model_dir: Path, precision: Literal["int8", "int4"]) -> None:
    settings = OnnxSettings(precision=precision, slots=1, max_model_len=512, ngram_speculation=8)
    engine = build_engine(settings, derive(model_dir, settings))
    await engine.start()
    await play(engine, ask(prompt(20) * 4, max_tokens=60, ignore_eos=True))
    assert engine.load().counters["drafted_tokens"] == 0
    await engine.close()
