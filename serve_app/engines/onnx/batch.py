"""The scheduler: which sequences compute what in the next step.

Continuous batching over contiguous slots. Rows 0 to D-1 are decoding, the rows after them are still reading their prompt; a
sequence joins and leaves between two steps, and the hole it leaves is filled by moving a neighbour's cache. Each step advances all
decoding rows by one token and computes at most one prompt chunk, sized so that the step takes about `target_step_s`: a long prompt
delays its neighbours by that much. Of several prompts the one with the least work left goes first, less the time it has waited.

The slots after the active ones keep the caches of finished sequences until they are needed. A new prompt starts from the longest
common prefix of any slot, active or not.

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
from serve_app.engines.onnx.prefixes import LEAST_TOKENS, Held, Match, longest
from serve_app.engines.onnx.sampling import Sampler
from serve_app.types import Finished, FinishReason, Timings, TokenDelta, TokenEvent, TokenLogprob, TokenRequest, Usage

_FIRST_CHUNK = 32
"""Prompt tokens of the first chunk beside running streams, while the speed is not known yet."""
_LEAST_CHUNK = 8
"""Prompts go on at least so fast, however slow the steps are."""


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
    reused: int = 0
    """Those of them that it found there."""
    generated: int = 0
    pending: int = -1
    """The token to compute next while decoding."""
    sampler: Sampler = field(init=False)
    tokens: NDArray[np.int64] = field(init=False)
    """Prompt and generated ids; the first `computed` are in its cache."""

    def __post_init__(self) -> None:
        """Make the sampler and room for the tokens."""
        prompt = self.request.prompt
        self.sampler = Sampler(self.request.sampling, prompt)
        self.tokens = np.zeros(len(prompt) + self.limit, np.int64)
        self.tokens[: len(prompt)] = prompt

    @property
    def prompt(self) -> NDArray[np.int64]:
        """The prompt's ids."""
        return self.tokens[: len(self.request.prompt)]

    @property
    def unread(self) -> int:
        """Prompt tokens not yet computed."""
        return len(self.request.prompt) - self.computed


Step = list[tuple[Sequence, TokenEvent]]
"""What one step produced, per sequence in order."""


@dataclass(slots=True)
class Counters:
    """What the batch has done since its start; seconds and tokens."""

    steps: int = 0
    decode_s: float = 0.0
    decode_tokens: int = 0
    prefill_s: float = 0.0
    prefill_tokens: int = 0
    reused_tokens: int = 0
    """Prompt tokens found in the pool."""
    prefix_hits: int = 0
    admitted: int = 0
    queue_s: float = 0.0
    """Time spent waiting by those admitted."""


class Batch:
    """Waiting and active sequences over one KV pool. The pool has one slot more than `slots`: the spare dummy row."""

    def __init__(
        self,
        graph: Decoder,
        pool: KvPool,
        *,
        prefill_chunk: int,
        min_rows: int,
        target_step_s: float = 0.1,
        keep_prefixes: bool = True,
    ) -> None:
        """Schedule over all but the last slot of `pool`; decode at least `min_rows` (1 or 2) rows at a time.

        A prompt chunk has at most `prefill_chunk` tokens.
        """
        self._min_rows = min_rows
        self._graph = graph
        self._pool = pool
        self._slots = pool.slots - 1
        self._prefill_chunk = prefill_chunk
        self._target_step_s = target_step_s
        self._keep_prefixes = keep_prefixes
        self._prompt_token_s = 0.0
        self._decode_step_s = 0.0
        self._rows: list[Sequence] = []
        self._decoding = 0
        self._held: dict[int, Held] = {}
        self.waiting: deque[Sequence] = deque()
        self.counters = Counters()

    @property
    def active(self) -> int:
        """Sequences that own a slot."""
        return len(self._rows)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the active sequences in the pool."""
        return sum(row.computed for row in self._rows)

    @property
    def held_tokens(self) -> int:
        """Tokens of finished sequences that are still in the pool."""
        return sum(held.length for held in list(self._held.values()))

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
        self.counters.steps += 1
        while self.waiting and len(self._rows) < self._slots:
            self._admit(self.waiting.popleft())
        events: Step = []
        if self._decoding:
            self._decode(events)
        if len(self._rows) > self._decoding:
            self._prefill(events)
        return events

    def _admit(self, sequence: Sequence) -> None:
        """Give a sequence the first free slot, with the longest common prefix in it."""
        sequence.admitted_s = time.monotonic()
        self.counters.admitted += 1
        self.counters.queue_s += sequence.admitted_s - sequence.arrived_s
        slot = len(self._rows)
        match = self._match(sequence)
        self._make_room(slot, match)
        self._rows.append(sequence)
        if match is not None:
            sequence.computed = sequence.reused = match.length
            self.counters.prefix_hits += 1
            self.counters.reused_tokens += match.length
        if sequence.unread == 1:
            self._promote(slot, sequence.request.prompt[-1])

    def _match(self, sequence: Sequence) -> Match | None:
        if not self._keep_prefixes:
            return None
        salt, now = sequence.request.cache_salt, self.counters.steps
        active = {
            slot: Held(row.tokens, row.computed, row.request.cache_salt, now)
            for slot, row in enumerate(self._rows)
            if row is not sequence
        }
        return longest(self._held | active, sequence.prompt, salt)

    def _make_room(self, slot: int, match: Match | None) -> None:
        """Give the first free slot up to a new sequence, with the matched prefix in it.

        A held prefix that the new prompt contains whole is taken over; else the least recently useful one is evicted.
        """
        held = self._held
        source = held.get(match.slot) if match else None
        if match and source:
            source.used = self.counters.steps
            if source.length == match.length:
                self._exchange_held(slot, match.slot)
                del held[slot]
                return
        free = [at for at in range(slot, self._slots) if match is None or at != match.slot] or [slot]
        victim = min(free, key=lambda at: held[at].used if at in held else -1)
        held.pop(victim, None)
        if victim != slot and slot in held:
            self._pool.copy(slot, victim, held[slot].length)
            held[victim] = held.pop(slot)
        if match and match.slot != slot:
            self._pool.copy(match.slot, slot, match.length)

    def _exchange_held(self, one: int, other: int) -> None:
        if one == other:
            return
        pair = {one: self._held.pop(other, None), other: self._held.pop(one, None)}
        self._pool.swap(one, other, max(held.length for held in pair.values() if held))
        self._held |= {slot: held for slot, held in pair.items() if held}

    def _decode(self, events: Step) -> None:
        rows = self._rows[: self._decoding]
        padded = max(self._min_rows, len(rows))
        ids, pasts = np.zeros(padded, np.int64), np.zeros(padded, np.int64)
        for at, row in enumerate(rows):
            ids[at], pasts[at] = row.pending, row.computed
        if padded > len(rows):
            self._fill_dummy(pasts)
        began = time.monotonic()
        logits = self._graph.advance(ids, pasts)
        self._decode_step_s = time.monotonic() - began
        self.counters.decode_s += self._decode_step_s
        self.counters.decode_tokens += len(rows)
        for at, row in enumerate(rows):
            row.computed += 1
            self._take(row, logits[at], events)
        for at in range(len(rows) - 1, -1, -1):
            if rows[at].generated >= rows[at].limit:
                self._remove(at)

    def _fill_dummy(self, pasts: NDArray[np.int64]) -> None:
        """Let the second row of a lone decode write where nobody reads: behind the cache of the slot's owner."""
        if len(self._rows) > 1:
            pasts[1] = self._rows[1].computed
        elif (held := self._held.get(1)) is not None:
            held.length = min(held.length, self._pool.max_len - 1)
            pasts[1] = held.length

    def _prefill(self, events: Step) -> None:
        at = self._next_prompt()
        row = self._rows[at]
        if row.computed == row.reused and (match := self._match(row)) and match.length > row.computed:
            # A prompt of the same beginning was read while this one waited.
            self._pool.copy(match.slot, at, match.length)
            self.counters.prefix_hits += row.reused == 0
            self.counters.reused_tokens += match.length - row.reused
            row.computed = row.reused = match.length
        if row.unread > 1:
            size = min(self._chunk(), row.unread)
            chunk = row.prompt[row.computed : row.computed + size]
            logits = self._extend(at, chunk, row.computed)
            row.computed += size
        if row.unread == 1:
            self._promote(at, row.request.prompt[-1])
        elif row.unread == 0:
            self._promote(at, -1)
            self._take(row, logits, events)
            if row.generated >= row.limit:
                self._remove(self._rows.index(row))

    def _next_prompt(self) -> int:
        """The row to read: the least seconds of work left, less the seconds since its admission, so that none starves."""
        now = time.monotonic()

        def rank(at: int) -> float:
            row = self._rows[at]
            return row.unread * self._prompt_token_s - (now - row.admitted_s)

        return min(range(self._decoding, len(self._rows)), key=rank)

    def _chunk(self) -> int:
        """Prompt tokens for this step: all that is allowed when nobody waits for a token, else what fits the target time."""
        if not self._decoding:
            return self._prefill_chunk
        if not self._prompt_token_s:
            return min(_FIRST_CHUNK, self._prefill_chunk)
        fitting = int((self._target_step_s - self._decode_step_s) / self._prompt_token_s)
        return max(2, min(max(fitting, _LEAST_CHUNK), self._prefill_chunk))

    def _extend(self, at: int, chunk: NDArray[np.int64], past: int) -> NDArray[np.float32]:
        began = time.monotonic()
        logits = self._graph.extend(at, chunk, past)
        took = time.monotonic() - began
        self.counters.prefill_s += took
        self.counters.prefill_tokens += len(chunk)
        each = took / len(chunk)
        self._prompt_token_s = each if not self._prompt_token_s else 0.6 * self._prompt_token_s + 0.4 * each
        return logits

    def _take(self, row: Sequence, logits: NDArray[np.float32], events: Step) -> None:
        """Draw the row's next token and record what it means. Ends a row by lowering its limit to what it has."""
        token, logprob = row.sampler.draw(logits)
        row.pending = token
        row.tokens[len(row.request.prompt) + row.generated] = token
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
        """Close the hole at `at`: the last decoding row moves in, then the last row takes that one's place.

        The removed row's cache ends up in the slot that becomes free, and is kept there.
        """
        row = self._rows[at]
        if at < self._decoding:
            self._decoding -= 1
            self._exchange(self._decoding, at)
            at = self._decoding
        last = len(self._rows) - 1
        self._exchange(last, at)
        self._rows.pop()
        if self._keep_prefixes and row.computed >= LEAST_TOKENS:
            self._held[last] = Held(row.tokens, row.computed, row.request.cache_salt, self.counters.steps)

    def _exchange(self, one: int, other: int) -> None:
        if one == other:
            return
        first, second = self._rows[one], self._rows[other]
        if self._keep_prefixes:
            self._pool.swap(one, other, max(first.computed, second.computed))
        else:
            self._pool.copy(one, other, first.computed)
        self._rows[one], self._rows[other] = second, first


def _finished(row: Sequence, reason: FinishReason) -> Finished:
    now = time.monotonic()
    return Finished(
        reason=reason,
        usage=Usage(prompt_tokens=len(row.request.prompt), completion_tokens=row.generated, cached_tokens=row.reused),
        timings=Timings(
            queue_s=row.admitted_s - row.arrived_s,
            prefill_s=row.first_token_s - row.admitted_s,
            decode_s=now - row.first_token_s,
        ),
    )
