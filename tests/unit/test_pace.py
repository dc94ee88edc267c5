"""The pace of prompt chunks: what they cost is a line over the prompt, and chunks are sized by it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from serve_app.engines.onnx.pace import PromptPace


def _cost(tokens: int, past: int, fixed: float, growing: float) -> float:
    return tokens * (fixed + growing * (past + tokens / 2))


@given(some.floats(1e-5, 1e-2), some.floats(0, 1e-5), some.integers(8, 500))
def test_a_line_is_learned_exactly(fixed: float, growing: float, size: int) -> None:
    pace = PromptPace()
    for past in range(0, 6 * size, size):
        pace.observe(size, past, _cost(size, past, fixed, growing))
    assert pace.estimate_seconds(100, 4000) == pytest.approx(_cost(100, 4000, fixed, growing), rel=1e-6)


@pytest.mark.parametrize("growing", [0.0, 2e-7, 5e-7])
@pytest.mark.parametrize("target", [0.01, 0.1])
def test_chunks_of_a_long_prompt_take_about_the_target(growing: float, target: float) -> None:
    pace, past, took, noise = PromptPace(), 0, [], random.Random(1)
    pace.observe(32, 0, _cost(32, 0, 1e-4, growing))
    while past < 4000:
        size = max(2, min(1024, pace.fit_tokens(past, target)))
        took.append(_cost(size, past, 1e-4, growing) * noise.uniform(0.95, 1.05))
        pace.observe(size, past, took[-1])
        past += size
    assert max(took[2:]) < 1.35 * target
    assert min(took[2:-1]) > 0.6 * target


def test_it_follows_a_machine_that_slows_down() -> None:
    pace = PromptPace()
    for step in range(40):
        pace.observe(64, 64 * (step % 20), 64 * (1e-4 if step < 20 else 4e-4))
    assert pace.estimate_seconds(64, 640) == pytest.approx(64 * 4e-4, rel=0.1)


def test_nothing_is_known_at_first() -> None:
    pace = PromptPace()
    assert not pace.is_known
    assert pace.fit_tokens(0, 1.0) == 0
    pace.observe(10, 0, 0.1)
    assert pace.is_known
    assert pace.fit_tokens(0, 0.0) == 0
    assert pace.fit_tokens(0, 1e-9) <= 1
