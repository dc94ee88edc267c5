"""The scheduler: which sequences compute what in the next step.

Continuous batching over contiguous slots. Rows 0 to D-1 are decoding, the rows after them are still reading their prompt; a
sequence joins and leaves between two steps, and the hole it leaves is filled by moving a neighbour's cache. Each step advances all
decoding rows by one token and computes at most one prompt chunk, so that a long prompt delays its neighbours by one chunk at most.

Rows never influence each other: with int4 weights a one-row product sums in another order than a many-row one, so there a lone
decoding row runs as two (`min_rows`; the spare slot is the dummy). No prompt chunk has one token; a prompt's last single token is
decoded instead.

Single-threaded; the engine's thread owns it. Knows nothing of asyncio.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.onnx.kv_pool import KvPool
from serve_app.engines.onnx.sampling import Sampler
from serve_app.types import Finished, FinishReason, Timings, TokenDelta, TokenEvent, TokenLogprob, TokenRequest, Usage


class Decoder(Protocol):
    """What the scheduler needs of the graph; see `graph.Graph`."""

    def extend(self, slot: int, ids: NDArray[np.int64], past: int) -> NDArray[np.float32]:
        """Compute a chunk of one slot."""
        ...

    def advance(self, ids: NDArray[np.int64], pasts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute one token for each of the first slots."""
        ...


@dataclass(eq=False, slots=True)
class Sequence:
    """One request inside the engine."""

    request: TokenRequest
    limit: int
    """Tokens it may generate."""
    arrived_s: float = field(default_factory=time.monotonic)
    admitted_s: float = 0.0
    first_token_s: float = 0.0
    computed: int = 0
    """Tokens in its cache."""
    generated: int = 0
    pending: int = -1
    """The token to compute next while decoding."""
    sampler: Sampler = field(init=False)

    def __post_init__(self) -> None:
        """Make the sampler."""
        self.sampler = Sampler(self.request.sampling, self.request.prompt)

    @property
    def unread(self) -> int:
        """Prompt tokens not yet computed."""
        return len(self.request.prompt) - self.computed


Step = list[tuple[Sequence, TokenEvent]]
"""What one step produced, per sequence in order."""


class Batch:
    """Waiting and active sequences over one KV pool. The pool has one slot more than `slots`: the spare dummy row."""

    def __init__(self, graph: Decoder, pool: KvPool, *, prefill_chunk: int, min_rows: int) -> None:
        """Schedule over all but the last slot of `pool`; decode at least `min_rows` (1 or 2) rows at a time."""
        self._min_rows = min_rows
        self._graph = graph
        self._pool = pool
        self._slots = pool.slots - 1
        self._prefill_chunk = prefill_chunk
        self._rows: list[Sequence] = []
        self._decoding = 0
        self.waiting: deque[Sequence] = deque()
        self.steps = 0

    @property
    def active(self) -> int:
        """Sequences that own a slot."""
        return len(self._rows)

    @property
    def cached_tokens(self) -> int:
        """Tokens held in the pool."""
        return sum(row.computed for row in self._rows)

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; it starts when a slot is free, first come first served."""
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Drop a sequence, waiting or active; no event follows. Unknown and finished ones are ignored."""
        if sequence in self._rows:
            self._remove(self._rows.index(sequence))
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def drop_active(self) -> list[Sequence]:
        """Drop every sequence that owns a slot and return them; those that wait stay."""
        dropped = list(self._rows)
        self._rows.clear()
        self._decoding = 0
        return dropped

    def step(self) -> Step:
        """Admit what fits, advance every decoding row by one token, compute one prompt chunk."""
        self.steps += 1
        while self.waiting and len(self._rows) < self._slots:
            sequence = self.waiting.popleft()
            sequence.admitted_s = time.monotonic()
            self._rows.append(sequence)
            if sequence.unread == 1:
                self._promote(len(self._rows) - 1, sequence.request.prompt[-1])
        events: Step = []
        if self._decoding:
            self._decode(events)
        if len(self._rows) > self._decoding:
            self._prefill(events)
        return events

    def _decode(self, events: Step) -> None:
        rows = self._rows[: self._decoding]
        padded = max(self._min_rows, len(rows))
        ids, pasts = np.zeros(padded, np.int64), np.zeros(padded, np.int64)
        for at, row in enumerate(rows):
            ids[at], pasts[at] = row.pending, row.computed
        if padded > len(rows):
            self._fill_dummy(pasts)
        logits = self._graph.advance(ids, pasts)
        for at, row in enumerate(rows):
            row.computed += 1
            self._take(row, logits[at], events)
        for at in range(len(rows) - 1, -1, -1):
            if rows[at].generated >= rows[at].limit:
                self._remove(at)

    def _fill_dummy(self, pasts: NDArray[np.int64]) -> None:
        """Let the second row of a lone decode rewrite a position that its owner, if any, computes anew."""
        if len(self._rows) > 1:
            pasts[1] = self._rows[1].computed

    def _prefill(self, events: Step) -> None:
        at = min(range(self._decoding, len(self._rows)), key=lambda row: self._rows[row].admitted_s)
        row = self._rows[at]
        size = min(self._prefill_chunk, row.unread)
        chunk = np.asarray(row.request.prompt[row.computed : row.computed + size], np.int64)
        logits = self._graph.extend(at, chunk, row.computed)
        row.computed += size
        if row.unread == 1:
            self._promote(at, row.request.prompt[-1])
        elif row.unread == 0:
            self._promote(at, -1)
            self._take(row, logits, events)
            if row.generated >= row.limit:
                self._remove(self._rows.index(row))

    def _take(self, row: Sequence, logits: NDArray[np.float32], events: Step) -> None:
        """Draw the row's next token and record what it means. Ends a row by lowering its limit to what it has."""
        token, logprob = row.sampler.draw(logits)
        row.pending = token
        row.generated += 1
        if row.generated == 1:
            row.first_token_s = time.monotonic()
        if token in row.request.sampling.stop_token_ids:
            row.limit = row.generated
            events.append((row, _finished(row, FinishReason.STOP)))
            return
        logprobs: tuple[TokenLogprob, ...] = () if logprob is None else (logprob,)
        events.append((row, TokenDelta((token,), logprobs)))
        if row.generated >= row.limit:
            events.append((row, _finished(row, FinishReason.LENGTH)))

    def _promote(self, at: int, pending: int) -> None:
        """Make a row that has read its prompt the last decoding row."""
        row, first = self._rows[at], self._decoding
        if at != first:
            other = self._rows[first]
            self._pool.swap(at, first, max(row.computed, other.computed))
            self._rows[at], self._rows[first] = other, row
        row.pending = pending
        self._decoding += 1

    def _remove(self, at: int) -> None:
        """Close the hole at `at`: the last decoding row moves in, then the last row takes that one's place."""
        if at < self._decoding:
            self._decoding -= 1
            self._move(self._decoding, at)
            at = self._decoding
        self._move(len(self._rows) - 1, at)
        self._rows.pop()

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self._pool.copy(source, target, self._rows[source].computed)
            self._rows[target] = self._rows[source]


def _finished(row: Sequence, reason: FinishReason) -> Finished:
    now = time.monotonic()
    return Finished(
        reason=reason,
        usage=Usage(prompt_tokens=len(row.request.prompt), completion_tokens=row.generated),
        timings=Timings(
            queue_s=row.admitted_s - row.arrived_s,
            prefill_s=row.first_token_s - row.admitted_s,
            decode_s=now - row.first_token_s,
        ),
    )
