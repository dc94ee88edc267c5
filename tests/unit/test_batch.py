"""The ONNX scheduler under random schedules, over a decoder that computes with its cache: mixed-up slots show in the tokens."""

import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve_app.engines.onnx.batch import Batch
from serve_app.engines.onnx.kv_pool import KvPool, KvShape
from serve_app.engines.onnx.sequence import Sequence
from serve_app.engines.onnx.speculation import Payoff, draft
from serve_app.types import Finished, Sampling, TokenDelta, TokenRequest

VOCABULARY = 97
SHAPE = KvShape(layers=1, kv_heads=1, head_dim=1)


class SumDecoder:
    """The next token is a hash of all tokens in the slot's cache, so it is right only if the cache is."""

    def __init__(self, pool: KvPool) -> None:
        self._cache = pool.layers[0][0][:, 0, :, 0]
        self.smallest_chunk = 10**9
        self.steps: set[int] = set()
        self.verified = 0

    def extend(self, slot: int, ids: NDArray[np.int64], past: int) -> NDArray[np.float32]:
        self.smallest_chunk = min(self.smallest_chunk, len(ids))
        self._cache[slot, past : past + len(ids)] = ids
        return self._logits(slot, past + len(ids))

    def verify(self, slot: int, ids: NDArray[np.int64], past: int) -> NDArray[np.float32]:
        self.verified += 1
        self._cache[slot, past : past + len(ids)] = ids
        return np.stack([self._logits(slot, past + at + 1) for at in range(len(ids))])

    def advance(self, ids: NDArray[np.int64], pasts: NDArray[np.int64]) -> NDArray[np.float32]:
        self.steps.add(len(ids))
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


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(2, 40), st.integers(1, 2), st.booleans(), st.integers(0, 9))
def test_every_schedule_gives_every_sequence_its_own_tokens(
    seed: int, slots: int, chunk: int, row_multiple: int, keep: bool, drafts: int
) -> None:
    draw = random.Random(seed)
    pool = KvPool(SHAPE, slots + 1, 128)
    for array in pool.layers[0]:
        array[:] = -1000  # garbage beyond a sequence's length must not matter
    decoder = SumDecoder(pool)
    batch = Batch(decoder, pool, prefill_chunk=chunk, row_multiple=row_multiple, keep_prefixes=keep, draft_tokens=drafts)
    got: dict[Sequence, list[int]] = {}
    ends: dict[Sequence, Finished] = {}
    cancelled: set[Sequence] = set()
    beginnings = [tuple(draw.randrange(VOCABULARY) for _ in range(60)) for _ in range(2)]
    pending = [
        Sequence(
            TokenRequest(
                request_id=str(i),
                prompt=_prompt(draw, beginnings),
                sampling=Sampling(temperature=0.0),
                cache_salt=draw.choice((None, None, None, "other")),
            ),
            limit=draw.randrange(1, 12),
        )
        for i in range(20)
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
            assert ends[sequence].usage.cached_tokens < len(sequence.request.prompt)
    assert keep or not batch.counters.reused_tokens
    assert decoder.smallest_chunk >= 2
    assert not any(rows % row_multiple for rows in decoder.steps)


def _prompt(draw: random.Random, beginnings: list[tuple[int, ...]]) -> tuple[int, ...]:
    """A prompt that often shares its beginning with others."""
    rest = tuple(draw.randrange(VOCABULARY) for _ in range(draw.randrange(1, 30)))
    return draw.choice(beginnings)[: draw.randrange(10, 60)] + rest if draw.random() < 0.7 else rest


def _sequence(prompt: tuple[int, ...], limit: int = 2, salt: str | None = None) -> Sequence:
    return Sequence(TokenRequest(request_id="r", prompt=prompt, sampling=Sampling(temperature=0.0), cache_salt=salt), limit=limit)


def _run(batch: Batch, *sequences: Sequence) -> list[int]:
    """Run the sequences to their end; return their cached tokens."""
    for sequence in sequences:
        batch.submit(sequence)
    while batch.active or batch.waiting:
        batch.step()
    return [sequence.reused for sequence in sequences]


def test_a_prompt_starts_from_the_longest_prefix_of_its_salt() -> None:
    pool = KvPool(SHAPE, 4, 128)
    batch = Batch(SumDecoder(pool), pool, prefill_chunk=64, row_multiple=1)
    system = tuple(range(40))
    assert _run(batch, _sequence((*system, 1))) == [0]
    assert _run(batch, _sequence((*system, 2, 3))) == [40]
    assert _run(batch, _sequence((*system, 2, 3), salt="tenant")) == [0]
    assert _run(batch, _sequence((*system[:20], 9, 9))) == [20]
    assert _run(batch, _sequence((*system[:10], 9, 9))) == [0], "too short to be worth it"


def test_a_conversation_goes_on_from_its_own_answer() -> None:
    pool = KvPool(SHAPE, 2, 128)
    batch = Batch(SumDecoder(pool), pool, prefill_chunk=64, row_multiple=1)
    first = tuple(range(30))
    answer = tuple(_expected(first, 5))
    assert _run(batch, _sequence(first, limit=5)) == [0]
    assert _run(batch, _sequence((*first, *answer, 7, 8))) == [34], "the answer's last token was never computed"


def test_simultaneous_prompts_of_one_beginning_read_it_once() -> None:
    pool = KvPool(SHAPE, 5, 128)
    batch = Batch(SumDecoder(pool), pool, prefill_chunk=8, row_multiple=1)
    system = tuple(range(40))
    assert _run(batch, *(_sequence((*system, 50 + i)) for i in range(4))) == [0, 39, 39, 39]
    assert batch.counters.prefill_tokens < 60


def test_the_least_recently_useful_prefix_is_given_up() -> None:
    pool = KvPool(SHAPE, 3, 128)
    batch = Batch(SumDecoder(pool), pool, prefill_chunk=64, row_multiple=1)
    old, kept, new = (tuple(range(start, start + 30)) for start in (0, 30, 60))
    _run(batch, _sequence((*old, 1)))
    _run(batch, _sequence((*kept, 1)))
    _run(batch, _sequence((*new, 1)))
    assert _run(batch, _sequence((*kept, 2, 2))) == [30]
    assert _run(batch, _sequence((*old, 2))) == [0]


class EchoDecoder(SumDecoder):
    """Likes to say what stood seven tokens before, so that its text repeats; the cache decides, as ever."""

    def _logits(self, slot: int, length: int) -> NDArray[np.float32]:
        logits = 2 * super()._logits(slot, length)
        logits[int(self._cache[slot, max(0, length - 7)])] += 4
        return logits


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 2), st.sampled_from([0.0, 1.0]))
def test_drafts_change_no_token(seed: int, drafts: int, row_multiple: int, temperature: float) -> None:
    draw = random.Random(seed)
    prompts = [_prompt(draw, [tuple(draw.randrange(VOCABULARY) for _ in range(60))]) for _ in range(4)]
    answers, verified = [], []
    for most in (0, drafts):
        pool = KvPool(SHAPE, 3, 256)
        decoder = EchoDecoder(pool)
        batch = Batch(decoder, pool, prefill_chunk=16, row_multiple=row_multiple, draft_tokens=most)
        sequences = [
            Sequence(TokenRequest(request_id="r", prompt=ids, sampling=Sampling(temperature=temperature, seed=seed + at)), limit=40)
            for at, ids in enumerate(prompts)
        ]
        _run(batch, sequences[0])
        _run(batch, *sequences[1:])
        answers.append([sequence.tokens.tolist() for sequence in sequences])
        assert [sequence.generated for sequence in sequences] == [40] * 4
        verified.append(batch.payoff.drafted)
    assert answers[0] == answers[1]
    assert verified[0] == 0


def test_drafts_of_a_repeating_text_are_accepted() -> None:
    pool = KvPool(SHAPE, 2, 256)
    batch = Batch(EchoDecoder(pool), pool, prefill_chunk=64, row_multiple=1, draft_tokens=6)
    _run(batch, _sequence(tuple(range(7)) * 3, limit=100))
    assert batch.payoff.accepted > 10


def test_drafting_stops_where_it_does_not_pay_and_is_tried_again() -> None:
    payoff = Payoff()
    assert not payoff.is_worth_drafting(), "nothing is known of a plain step yet"
    payoff.record_step(1.0)
    assert payoff.is_worth_drafting()
    for _ in range(50):
        payoff.record_verification(2.0, 4, 0)
    assert [payoff.is_worth_drafting() for _ in range(64)].count(True) == 2
    for _ in range(50):
        payoff.record_verification(2.0, 4, 4)
    assert payoff.is_worth_drafting()


@pytest.mark.parametrize(
    ("text", "guess"),
    [("abcdXabc", "dX"), ("abcdXYbc", "dX"), ("abcd", ""), ("a", ""), ("aaaa", "a"), ("1abc2abc3abc", "3a")],
)
def test_a_draft_is_what_followed_last_time(text: str, guess: str) -> None:
    found = draft(np.asarray([ord(letter) for letter in text]), 2)
    assert "".join(map(chr, found)) == guess


class TimedDecoder(SumDecoder):
    """Takes a millisecond a prompt token on a clock of its own."""

    def __init__(self, pool: KvPool, clock: list[float]) -> None:
        super().__init__(pool)
        self.clock = clock
        self.chunks: list[int] = []

    def extend(self, slot: int, ids: NDArray[np.int64], past: int) -> NDArray[np.float32]:
        self.clock[0] += 0.001 * len(ids)
        self.chunks.append(len(ids))
        return super().extend(slot, ids, past)


def test_chunks_beside_a_running_stream_fit_the_target_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pool = KvPool(SHAPE, 3, 1024)
    decoder = TimedDecoder(pool, clock)
    batch = Batch(decoder, pool, prefill_chunk=256, row_multiple=1, target_step_s=0.05)
    batch.submit(_sequence((1, 2, 3), limit=100))
    batch.step()
    batch.submit(_sequence(tuple(i % VOCABULARY for i in range(500))))
    for _ in range(30):
        batch.step()
    assert decoder.chunks[0] == 3
    assert set(decoder.chunks[1:-1]) <= {49, 50}


def test_short_prompts_that_fit_the_target_time_together_are_read_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pool = KvPool(SHAPE, 9, 256)
    batch = Batch(TimedDecoder(pool, clock), pool, prefill_chunk=64, row_multiple=1, target_step_s=0.05)
    running = _sequence((1, 2, 3), limit=100)
    batch.submit(running)
    batch.step()
    for turn in range(6):
        batch.submit(_sequence(tuple((turn * 7 + i) % VOCABULARY for i in range(20)), limit=50))
    begun = [{sequence for sequence, _ in batch.step()} for _ in range(3)]
    assert [len(rows) for rows in begun] == [3, 5, 7], "two prompts of 20 ms in a step of 50 ms, and the running stream in each"
    assert all(running in rows for rows in begun)


def test_a_short_prompt_overtakes_a_long_one_that_in_turn_does_not_starve(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pool = KvPool(SHAPE, 5, 2048)
    batch = Batch(TimedDecoder(pool, clock), pool, prefill_chunk=50, row_multiple=1, target_step_s=0.05)
    long = _sequence(tuple(i % VOCABULARY for i in range(1000)), limit=1)
    batch.submit(long)
    batch.step()
    ends: list[Sequence] = []
    short = _sequence(tuple(range(60)), limit=1)
    batch.submit(short)
    for turn in range(200):
        if turn > 2 and batch.active < 3 and not batch.waiting:
            batch.submit(_sequence(tuple((turn * 7 + i) % VOCABULARY for i in range(60)), limit=1))
        ends += [sequence for sequence, event in batch.step() if isinstance(event, Finished)]
    assert ends.index(short) == 0
    assert long in ends


def test_a_waiting_sequence_joins_as_soon_as_a_slot_is_free() -> None:
    pool = KvPool(SHAPE, 2, 64)
    batch = Batch(SumDecoder(pool), pool, prefill_chunk=8, row_multiple=2)
    first, second = (
        Sequence(TokenRequest(request_id=str(i), prompt=(1, 2, 3), sampling=Sampling(temperature=0.0)), limit=3) for i in range(2)
    )
    batch.submit(first)
    batch.submit(second)
    order = [sequence for _ in range(6) for sequence, _ in batch.step()]
    assert order == [first] * 4 + [second] * 4


@pytest.mark.parametrize(("copy_token_s", "kept"), [(1e-6, True), (1.0, False)])
def test_the_rest_of_a_held_prefix_is_kept_only_when_copying_is_quicker_than_reading_it_again(
    monkeypatch: pytest.MonkeyPatch, copy_token_s: float, kept: bool
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pool = KvPool(SHAPE, 3, 256)
    batch = Batch(TimedDecoder(pool, clock), pool, prefill_chunk=256, row_multiple=1)
    shared = tuple(range(40))
    for tail in ((50, 51, 52), (60, 61, 62)):
        pool.copy_token_s = copy_token_s
        sequence = _sequence((*shared, *tail), limit=1)
        batch.submit(sequence)
        while batch.active or batch.waiting:
            batch.step()
    assert sequence.reused == 40
    assert batch.prefix_tokens == (43 * 2 if kept else 43)
