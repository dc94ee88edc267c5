"""The ONNX batch gives transformers' greedy tokens under any schedule that hypothesis can think of."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine_config import OnnxSettings
from serve_app.engines.onnx.batch import Batch
from serve_app.engines.onnx.graph import Graph
from serve_app.engines.onnx.kv_pool import KvPool
from serve_app.engines.onnx.sequence import Sequence
from serve_app.models.export import derive
from serve_app.types import TokenDelta, TokenRequest
from tests.contract.play import ask, prompt
from tests.contract.test_equality import transformers_greedy

NEW_TOKENS = 20
SLOTS = 5


@pytest.fixture(scope="module")
def graph(model_dir: Path) -> tuple[Graph, KvPool]:
    graph = Graph(derive(model_dir, OnnxSettings()), provider="cpu", threads=1)
    pool = KvPool(graph.kv_shape, SLOTS + 1, 256)
    graph.attach(pool)
    return graph, pool


@pytest.fixture(scope="module")
def expected(model_dir: Path) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Prompts, many of one beginning, some that repeat themselves, and what transformers answers."""
    beginning = prompt(70, seed=1)
    prompts = [beginning[: 70 - 8 * i] + prompt(2 + 5 * i, seed=i) for i in range(8)]
    prompts += [prompt(length, seed=9) for length in (1, 2, 3, 33, 64)] + [prompt(12, seed=5) * 6]
    generate = transformers_greedy(model_dir, NEW_TOKENS)
    prompts += [ids + generate(ids) + prompt(4) for ids in prompts[:3]]  # conversations that go on from their own answers
    return {ids: generate(ids) for ids in prompts}


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.slow
def test_every_schedule_gives_the_reference_tokens(
    graph: tuple[Graph, KvPool], expected: dict[tuple[int, ...], tuple[int, ...]], data: Any
) -> None:
    draw = random.Random(data.draw(st.integers(0, 2**32), "seed"))
    batch = Batch(
        *graph,
        prefill_chunk=data.draw(st.integers(2, 80), "chunk"),
        row_multiple=data.draw(st.integers(1, 2), "row_multiple"),
        target_step_s=data.draw(st.sampled_from([0.0005, 0.1]), "target"),
        keep_prefixes=data.draw(st.booleans(), "keep"),
        draft_tokens=data.draw(st.integers(0, 8), "drafts"),
    )
    coming = [ask(draw.choice(list(expected)), max_tokens=NEW_TOKENS) for _ in range(14)]
    submitted: list[Sequence] = []
    cancelled: set[Sequence] = set()
    while coming or batch.active or batch.waiting:
        if coming and (draw.random() < 0.3 or not batch.active):
            submitted.append(Sequence(coming.pop(), limit=NEW_TOKENS))
            batch.submit(submitted[-1])
        if submitted and draw.random() < 0.03:
            victim = draw.choice(submitted)
            batch.cancel(victim)
            cancelled.add(victim)
        batch.step()
    for sequence in submitted:
        if sequence not in cancelled:
            answer = tuple(sequence.tokens[len(sequence.request.prompt) :].tolist())
            assert answer == expected[sequence.request.prompt]
    assert batch.cached_tokens == 0


Drawn = tuple[tuple[int, ...], tuple[float, ...]]
"""Tokens and their log probabilities, which show a difference that no token shows."""


def _drain(batch: Batch, coming: list[TokenRequest], draw: random.Random) -> list[Drawn]:
    """Let the requests come at random times; return what each drew."""
    submitted: dict[Sequence, list[TokenDelta]] = {}
    while coming or batch.active or batch.waiting:
        if coming and (draw.random() < 0.3 or not batch.active):
            sequence = Sequence(coming.pop(0), limit=NEW_TOKENS)
            submitted[sequence] = []
            batch.submit(sequence)
        for sequence, event in batch.step():
            if isinstance(event, TokenDelta):
                submitted[sequence].append(event)
    return [
        (tuple(token for each in deltas for token in each.ids), tuple(one.logprob for each in deltas for one in each.logprobs))
        for deltas in submitted.values()
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", [("int4", 32), ("int4", 128), ("int8", 32), ("int8", 128), ("int4_mixed", 32), ("int4_mixed", 128)]
)
def test_no_schedule_changes_a_quantized_graphs_logits(model_dir: Path, form: tuple[Any, Any]) -> None:
    settings = OnnxSettings(precision=form[0], block_size=form[1])
    graph = Graph(derive(model_dir, settings), provider="cpu", threads=2)
    pool = KvPool(graph.kv_shape, SLOTS + 1, 256)
    graph.attach(pool)
    multiple = graph.ensure_row_invariance()
    prompts = [prompt(length, seed=length) for length in (2, 3, 17, 40, 41, 64, 99, 150)]
    requests = [ask(ids, temperature=1.0, seed=at, logprobs=0, max_tokens=NEW_TOKENS) for at, ids in enumerate(prompts)]

    def batch(chunk: int, target_s: float) -> Batch:
        return Batch(graph, pool, prefill_chunk=chunk, row_multiple=multiple, target_step_s=target_s, keep_prefixes=False)

    alone = [_drain(batch(256, 0.1), [each], random.Random())[0] for each in requests]
    assert len(alone[0][1]) == NEW_TOKENS
    for seed in range(12):
        draw = random.Random(seed)
        order = draw.sample(range(len(requests)), len(requests))
        found = _drain(batch(draw.randint(2, 80), draw.choice([0.0005, 0.1])), [requests[at] for at in order], draw)
        assert found == [alone[at] for at in order], f"schedule {seed}"
