"""The ONNX scheduler under random schedules, over a decoder that computes with its cache: mixed-up slots show in the tokens."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve_app.engines.onnx.batch import Batch, Sequence
from serve_app.engines.onnx.kv_pool import KvPool, KvShape
from serve_app.types import Finished, Sampling, TokenDelta, TokenRequest

VOCABULARY = 97
SHAPE = KvShape(layers=1, kv_heads=1, head_dim=1)


class SumDecoder:
    """The next token is a hash of all tokens in the slot's cache, so it is right only if the cache is."""

    def __init__(self, pool: KvPool) -> None:
        self._cache = pool.layers[0][0][:, 0, :, 0]
        self.smallest_chunk = 10**9
        self.smallest_step = 10**9

    def extend(self, slot: int, ids: NDArray[np.int64], past: int) -> NDArray[np.float32]:
        self.smallest_chunk = min(self.smallest_chunk, len(ids))
        self._cache[slot, past : past + len(ids)] = ids
        return self._logits(slot, past + len(ids))

    def advance(self, ids: NDArray[np.int64], pasts: NDArray[np.int64]) -> NDArray[np.float32]:
        self.smallest_step = min(self.smallest_step, len(ids))
        for slot, (token, past) in enumerate(zip(ids, pasts, strict=True)):
            self._cache[slot, past] = token
        return np.stack([self._logits(slot, int(past) + 1) for slot, past in enumerate(pasts)])

    def _logits(self, slot: int, length: int) -> NDArray[np.float32]:
        logits = np.zeros(VOCABULARY, np.float32)
        logits[_next(self._cache[slot, :length].astype(int).tolist())] = 1
        return logits


def _next(tokens: list[int]) -> int:
    return sum((i + 1) * token for i, token in enumerate(tokens)) % VOCABULARY


def _expected(prompt: tuple[int, ...], limit: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(limit):
        tokens.append(_next(tokens))
    return tokens[len(prompt) :]


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(2, 9), st.integers(1, 2))
def test_every_schedule_gives_every_sequence_its_own_tokens(seed: int, slots: int, chunk: int, min_rows: int) -> None:
    draw = random.Random(seed)
    pool = KvPool(SHAPE, slots + 1, 64)
    for array in pool.layers[0]:
        array[:] = -1000  # garbage beyond a sequence's length must not matter
    decoder = SumDecoder(pool)
    batch = Batch(decoder, pool, prefill_chunk=chunk, min_rows=min_rows)
    got: dict[Sequence, list[int]] = {}
    ends: dict[Sequence, Finished] = {}
    cancelled: set[Sequence] = set()
    pending = [
        Sequence(
            TokenRequest(
                request_id=str(i),
                prompt=tuple(draw.randrange(VOCABULARY) for _ in range(draw.randrange(1, 30))),
                sampling=Sampling(temperature=0.0),
            ),
            limit=draw.randrange(1, 12),
        )
        for i in range(12)
    ]
    waiting = list(pending)
    while waiting or batch.active or batch.waiting:
        while waiting and draw.random() < 0.4:
            sequence = waiting.pop()
            got[sequence] = []
            batch.submit(sequence)
        alive = [sequence for sequence in got if sequence not in ends and sequence not in cancelled]
        if alive and draw.random() < 0.05:
            victim = draw.choice(alive)
            cancelled.add(victim)
            batch.cancel(victim)
        for sequence, event in batch.step():
            assert sequence not in ends
            assert sequence not in cancelled
            if isinstance(event, TokenDelta):
                got[sequence].extend(event.ids)
            else:
                ends[sequence] = event
    assert batch.cached_tokens == 0
    for sequence in pending:
        if sequence not in cancelled:
            assert got[sequence] == _expected(sequence.request.prompt, sequence.limit)
            assert ends[sequence].usage.completion_tokens == sequence.limit
    assert decoder.smallest_chunk >= 2
    assert decoder.smallest_step >= min_rows


def test_a_waiting_sequence_joins_as_soon_as_a_slot_is_free() -> None:
    pool = KvPool(SHAPE, 2, 64)
    batch = Batch(SumDecoder(pool), pool, prefill_chunk=8, min_rows=2)
    first, second = (
        Sequence(TokenRequest(request_id=str(i), prompt=(1, 2, 3), sampling=Sampling(temperature=0.0)), limit=3) for i in range(2)
    )
    batch.submit(first)
    batch.submit(second)
    order = [sequence for _ in range(6) for sequence, _ in batch.step()]
    assert order == [first] * 4 + [second] * 4
