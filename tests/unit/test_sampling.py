"""The ONNX sampler against a naive one, and its cost at Phi-4's vocabulary."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve_app.engines.onnx.sampling import Sampler, find_largest, select_nucleus
from serve_app.types import Sampling


def _naive_nucleus(weights: NDArray[np.float32], top_p: float) -> set[int]:
    order = np.argsort(-weights, kind="stable")
    mass = np.cumsum(weights[order], dtype=np.float64)
    return set(order[: int(np.searchsorted(mass, top_p * mass[-1])) + 1].tolist())


@given(st.integers(0, 2**32), st.integers(1, 9000), st.floats(0.01, 0.999), st.floats(0, 30))
def test_the_nucleus_is_the_naive_one(seed: int, size: int, top_p: float, spread: float) -> None:
    scaled = (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)
    scaled -= scaled.max()
    weights = np.exp(scaled)
    found, wanted = np.flatnonzero(select_nucleus(weights, top_p)), _naive_nucleus(weights, top_p)
    # Equal weights may stand for each other, and sums in another order differ in the last bit: by one token at the border.
    assert abs(len(found) - len(wanted)) <= 1
    size = min(len(found), len(wanted))
    assert (-np.sort(-weights[found])[:size] == -np.sort(-weights[list(wanted)])[:size]).all()


@given(st.integers(0, 2**32), st.integers(1, 70_000), st.integers(1, 300), st.sampled_from([0.0, 0.5, 0.9999]))
def test_the_largest_are_the_naive_ones(seed: int, size: int, count: int, masked: float) -> None:
    draw = np.random.default_rng(seed)
    values = draw.standard_normal(size).astype(np.float32)
    values[draw.random(size) < masked] = -np.inf
    found = find_largest(values, count)
    wanted = -np.sort(-values)[:count]
    assert len(set(found.tolist())) == len(found) <= count
    assert (-np.sort(-values[found]) == wanted[: len(found)]).all()
    assert (wanted[len(found) :] == -np.inf).all()


@pytest.mark.parametrize(
    ("wish", "allowed"),
    [
        ({"top_k": 2}, {3, 4}),
        ({"min_p": 0.4}, {3, 4}),
        ({"top_p": 0.6}, {4}),
        ({"top_p": 0.7, "top_k": 3}, {3, 4}),
        ({"top_k": 1}, {4}),
        ({"top_p": 0.0}, {4}),
        ({"top_p": 5e-324}, {4}),
        ({"top_p": 0.0, "temperature": 2.0, "min_p": 0.01, "top_k": 4}, {4}),
        ({}, {0, 1, 2, 3, 4}),
    ],
)
def test_only_what_the_filters_leave_is_drawn(wish: dict[str, float], allowed: set[int]) -> None:
    logits = np.log(np.asarray([0.02, 0.03, 0.05, 0.3, 0.6], np.float32))
    drawn = {Sampler(Sampling(seed=seed, **wish), (1,)).draw(logits)[0] for seed in range(400)}  # type: ignore[arg-type]
    assert drawn == allowed


def test_draws_follow_the_distribution() -> None:
    shares = np.asarray([0.1, 0.2, 0.3, 0.4])
    sampler = Sampler(Sampling(seed=1), (1,))
    drawn = np.bincount([sampler.draw(np.log(shares).astype(np.float32))[0] for _ in range(20_000)], minlength=4) / 20_000
    assert np.abs(drawn - shares).max() < 0.02


@pytest.mark.parametrize("wish", [{}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.9}, {"min_p": 0.05}, {"logprobs": 20}])
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_a_row_of_200064_costs_far_less_than_a_sort(wish: dict[str, float], spread: float) -> None:
    logits = (np.random.default_rng(0).standard_normal(200_064) * spread).astype(np.float32)
    sampler = Sampler(Sampling(seed=1, **wish), (1,))  # type: ignore[arg-type]

    def best(run: object) -> float:
        times = []
        for _ in range(7):
            began = time.thread_time()  # not what other processes take meanwhile
            run()  # type: ignore[operator]
            times.append(time.thread_time() - began)
        return min(times)

    cost, sort = best(lambda: sampler.draw(logits)), best(lambda: np.argsort(-logits, kind="stable"))
    print(f"{wish} spread {spread}: {1000 * cost:.2f} ms a row, a sort {1000 * sort:.2f} ms")
    assert cost < 0.7 * sort
