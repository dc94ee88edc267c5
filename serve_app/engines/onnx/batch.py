"""The scheduler: chooses the sequences that each step computes.

Continuous batching over contiguous slots. Rows 0 to D-1 are decoding; the rows after them are still reading their prompts. A
sequence joins and leaves between two steps, and a neighbour's cache moves into the hole it leaves. Each step advances all decoding
rows by one token, then reads prompts for the rest of `target_step_s`: a chunk of a long prompt, or several short prompts, which
delays the decoding rows. The prompt with the least work left, minus the time it has waited, comes first.

The slots after the active ones keep the caches of finished sequences until they are needed. A new prompt starts from the longest
common prefix of any slot, active or not.

Rows never influence each other, nor do the steps that a prompt is cut into. With quantized weights a product may sum the last one
of an odd number of rows in another order, so there an odd number of decoding rows runs with a dummy (`row_multiple`), in the slot
after them. Attention over one new position sums in another order than over several, so no chunk has one token, and a prompt of more
than one is read in chunks to its end.

Single-threaded; the engine's thread owns it. Knows nothing of asyncio.
"""

import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.guidance import build_too_large_error
from serve_app.engines.onnx.kv_pool import KvPool
from serve_app.engines.onnx.pace import PromptPace
from serve_app.engines.onnx.prefixes import CachedPrefix, Match, PrefixCache
from serve_app.engines.onnx.sequence import Sequence
from serve_app.engines.onnx.speculation import Payoff, draft
from serve_app.errors import ServeError
from serve_app.types import FinishReason, TokenDelta, TokenEvent, TokenLogprob

_FIRST_CHUNK = 32
"""Prompt tokens of the first chunk beside running streams, while the speed is not known yet."""
_NO_TOKENS = np.zeros(0, np.int64)
_MIN_FORCED = 2
"""With the token before them these make a chunk, which must not have one token."""
_MIN_CHUNK = 8
"""Least prompt tokens of a step, however slow the steps are."""


class Decoder(Protocol):
    """The part of `graph.Graph` that the scheduler uses."""

    def extend(self, slot: int, ids: NDArray[np.int64], past: int) -> NDArray[np.float32]:
        """Compute a chunk of one slot."""
        ...

    def verify(self, slot: int, ids: NDArray[np.int64], past: int) -> NDArray[np.float32]:
        """Compute a chunk of one slot and return every position's logits."""
        ...

    def advance(self, ids: NDArray[np.int64], pasts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute one token for each of the first slots."""
        ...


Step = list[tuple[Sequence, TokenEvent | ServeError]]
"""Events of one step, in order for each sequence."""


@dataclass(slots=True)
class Counters:
    """Totals since the batch's start; seconds and tokens."""

    steps: int = 0
    decode_s: float = 0.0
    decode_tokens: int = 0
    prefill_s: float = 0.0
    prefill_tokens: int = 0
    reused_tokens: int = 0
    """Prompt tokens found in the pool."""
    prefix_hits: int = 0
    forced_tokens: int = 0
    """Generated tokens that a constraint forced."""
    admitted: int = 0
    queue_s: float = 0.0
    """Waiting time of the admitted requests."""


class Batch:
    """Waiting and active sequences over one KV pool. The pool has one slot more than `slots`: the spare dummy row."""

    def __init__(
        self,
        graph: Decoder,
        pool: KvPool,
        *,
        prefill_chunk: int,
        row_multiple: int,
        target_step_s: float = 0.1,
        keep_prefixes: bool = True,
        draft_tokens: int = 0,
    ) -> None:
        """Schedule over all but the last slot of `pool`; decode a multiple of `row_multiple` (1 or 2) rows.

        A prompt chunk has at most `prefill_chunk` tokens. For a lone sequence up to `draft_tokens` are drafted per step.
        """
        self._row_multiple = row_multiple
        self._graph = graph
        self._pool = pool
        self._slots = pool.slots - 1
        self._prefill_chunk = prefill_chunk
        self._target_step_s = target_step_s
        self._prefixes = PrefixCache(pool, self._slots, keep=keep_prefixes)
        self._draft_tokens = draft_tokens
        self.payoff = Payoff()
        self._pace = PromptPace()
        self._rows: list[Sequence] = []
        self._decoding = 0
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
    def prefix_tokens(self) -> int:
        """Tokens of finished sequences that are still in the pool."""
        return self._prefixes.tokens

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
        """Drop every sequence that owns a slot and return them; waiting sequences stay."""
        dropped = list(self._rows)
        self._rows.clear()
        self._decoding = 0
        return dropped

    def step(self) -> Step:
        """Admit what fits, advance every decoding row by one token, read prompts until the target time is used."""
        ends_s = time.monotonic() + self._target_step_s
        self.counters.steps += 1
        while self.waiting and len(self._rows) < self._slots:
            self._admit(self.waiting.popleft())
        events: Step = []
        if self._decoding:
            self._decode(events)
        is_first = True
        while len(self._rows) > self._decoding and self._prefill(events, ends_s, is_first=is_first):
            is_first = False
        return events

    def _admit(self, sequence: Sequence) -> None:
        """Give a sequence the first free slot, with the longest common prefix in it."""
        sequence.admitted_s = time.monotonic()
        self.counters.admitted += 1
        self.counters.queue_s += sequence.admitted_s - sequence.arrived_s
        slot = len(self._rows)
        match = self._find_match(sequence)
        self._prefixes.make_room(slot, match, self.counters.steps, self._pace.estimate_seconds(1, len(sequence.prompt)))
        self._rows.append(sequence)
        if match is not None:
            sequence.computed = sequence.reused = match.length
            self.counters.prefix_hits += 1
            self.counters.reused_tokens += match.length
        if sequence.unread == 1:
            self._promote(slot, sequence.request.prompt[-1])

    def _find_match(self, sequence: Sequence) -> Match | None:
        active = {
            slot: CachedPrefix(row.tokens, row.computed, row.request.cache_salt, self.counters.steps)
            for slot, row in enumerate(self._rows)
            if row is not sequence
        }
        return self._prefixes.find_longest(sequence.prompt, sequence.request.cache_salt, active)

    def _decode(self, events: Step) -> None:
        rows = self._rows[: self._decoding]
        for at, row in enumerate(rows):
            if row.unwritten:
                self._graph.extend(at, np.asarray(row.unwritten, np.int64), row.computed)
                row.computed += len(row.unwritten)
                row.unwritten = []
        guess = self._guess_tokens(rows)
        if guess.size:
            self._verify(rows[0], guess, events)
        else:
            self._advance(rows, events)
        for at in range(len(rows) - 1, -1, -1):
            if rows[at].generated >= rows[at].limit:
                self._remove(at)

    def _advance(self, rows: list[Sequence], events: Step) -> None:
        padded = len(rows) + -len(rows) % self._row_multiple
        ids, pasts = np.zeros(padded, np.int64), np.zeros(padded, np.int64)
        for at, row in enumerate(rows):
            ids[at], pasts[at] = row.pending, row.computed
        if padded > len(rows):
            pasts[-1] = self._find_dummy_position(len(rows))
        began = time.monotonic()
        logits = self._graph.advance(ids, pasts)
        took = time.monotonic() - began
        if len(rows) == 1:
            self.payoff.record_step(took)
        self.counters.decode_s += took
        self.counters.decode_tokens += len(rows)
        for at, row in enumerate(rows):
            row.computed += 1
            self._draw_token(row, logits[at], events)

    def _guess_tokens(self, rows: list[Sequence]) -> NDArray[np.int64]:
        """Guess the next tokens of a lone row; empty when there is no guess or drafting does not pay."""
        row = rows[0]
        most = min(self._draft_tokens, row.limit - row.generated - 1)
        if len(rows) > 1 or most < 1:
            return _NO_TOKENS
        guess = draft(row.tokens[: len(row.request.prompt) + row.generated], most)
        if row.guide is not None:
            guess = guess[: row.guide.count_allowed(guess.tolist())]
        return guess if guess.size and self.payoff.is_worth_drafting() else _NO_TOKENS

    def _verify(self, row: Sequence, guess: NDArray[np.int64], events: Step) -> None:
        """Compute the pending token and the guess in one call; take tokens until one differs from the guess.

        Each token is drawn from the same logits as without the guess, so only the time changes.
        """
        began = time.monotonic()
        logits = self._graph.verify(0, np.concatenate(([row.pending], guess)), row.computed)
        took = time.monotonic() - began
        accepted = 0
        for at in range(len(logits)):
            row.computed += 1
            self._draw_token(row, logits[at], events)
            if row.generated >= row.limit or at == guess.size or row.unwritten or row.pending != guess[at]:
                break
            accepted += 1
        self.payoff.record_verification(took, guess.size, accepted)
        self.counters.decode_s += took
        self.counters.decode_tokens += accepted + 1

    def _find_dummy_position(self, slot: int) -> int:
        """Return a position that the dummy row may overwrite: the first one after the cache of the slot's owner."""
        return self._rows[slot].computed if slot < len(self._rows) else self._prefixes.find_free_position(slot)

    def _prefill(self, events: Step, ends_s: float, *, is_first: bool) -> bool:
        """Read a chunk of a prompt; return whether there was time for one. The `is_first` chunk of a step is always read."""
        at = self._choose_prompt()
        row = self._rows[at]
        if row.computed == row.reused and (match := self._find_match(row)) and match.length > row.computed:
            # A prompt with the same beginning was read while this one waited.
            self._pool.copy(match.slot, at, match.length)
            self.counters.prefix_hits += row.reused == 0
            self.counters.reused_tokens += match.length - row.reused
            row.computed = row.reused = match.length
        size = self._choose_chunk(row, ends_s - time.monotonic(), is_first=is_first)
        if not size:
            return False
        if row.unread - size == 1:
            size += -1 if size > 2 else 1
        logits = self._extend(at, row.prompt[row.computed : row.computed + size], row.computed)
        row.computed += size
        if row.unread == 0:
            self._promote(at, -1)
            self._draw_token(row, logits, events)
            if row.generated >= row.limit:
                self._remove(self._rows.index(row))
        return True

    def _choose_prompt(self) -> int:
        """Return the row to read: the fewest seconds of work left, minus the seconds since admission, so that none starves."""
        now = time.monotonic()

        def rank(at: int) -> float:
            row = self._rows[at]
            return self._pace.estimate_seconds(row.unread, row.computed) - (now - row.admitted_s)

        return min(range(self._decoding, len(self._rows)), key=rank)

    def _choose_chunk(self, row: Sequence, left_s: float, *, is_first: bool) -> int:
        """Return how many prompt tokens to read now: as many as fit the time left.

        The first chunk has a few at least, and as many as allowed when no row decodes.

        Further chunks are whole ones or none, so that short prompts start together and long ones are not cut small.
        """
        most = min(row.unread, self._prefill_chunk)
        if is_first and not self._decoding:
            return most
        if is_first and not self._pace.is_known:
            return min(most, _FIRST_CHUNK)
        fitting = self._pace.fit_tokens(row.computed, left_s)
        if is_first:
            return min(most, max(fitting, _MIN_CHUNK))
        return most if fitting >= most else 0

    def _extend(self, at: int, chunk: NDArray[np.int64], past: int) -> NDArray[np.float32]:
        began = time.monotonic()
        logits = self._graph.extend(at, chunk, past)
        took = time.monotonic() - began
        self.counters.prefill_s += took
        self.counters.prefill_tokens += len(chunk)
        self._pace.observe(len(chunk), past, took)
        return logits

    def _draw_token(self, row: Sequence, logits: NDArray[np.float32], events: Step) -> None:
        """Draw the row's next token and append its events. Ends the row by lowering its limit to the tokens it has."""
        allowed = logits if row.guide is None else row.guide.mask(logits)
        if row.has_lost_guide:
            row.guide, allowed = None, logits
        elif row.guide and row.guide.error:
            row.limit = row.generated
            events.append((row, build_too_large_error()))
            return
        token, logprob = row.sampler.draw(allowed, raw=logits)
        stops = row.request.sampling.stop_token_ids
        ids = [token]
        if row.guide and token not in stops:
            row.guide.accept(ids)
            ids += self._take_forced(row)
        for each in ids:
            row.tokens[len(row.request.prompt) + row.generated] = each
            row.generated += 1
        row.unwritten, row.pending = ids[:-1], ids[-1]
        if not row.first_token_s:
            row.first_token_s = time.monotonic()
        if token in stops:
            row.limit = row.generated
            events.append((row, row.finish(FinishReason.STOP)))
            return
        logprobs: tuple[TokenLogprob, ...] = () if logprob is None else (logprob,)
        events.append((row, TokenDelta(tuple(ids), logprobs)))
        if row.guide and row.guide.is_stopped and not row.has_lost_guide:
            row.limit = row.generated
            events.append((row, row.finish(FinishReason.STOP)))
        elif row.generated >= row.limit:
            events.append((row, row.finish(FinishReason.LENGTH)))

    def _take_forced(self, row: Sequence) -> list[int]:
        """Take the tokens that the constraint forces, if there are enough for a chunk: two at least."""
        room = row.limit - row.generated - 1
        if row.guide is None or room < _MIN_FORCED or row.request.sampling.logprobs is not None:
            return []
        forced = row.guide.compute_forced()[:room]
        stops = row.request.sampling.stop_token_ids
        forced = forced[: next((at for at, token in enumerate(forced) if token in stops), len(forced))]
        if len(forced) < _MIN_FORCED:
            return []
        row.guide.accept(forced)
        row.sampler.record(forced)
        self.counters.forced_tokens += len(forced)
        return forced

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
            self._swap(self._decoding, at)
            at = self._decoding
        last = len(self._rows) - 1
        self._swap(last, at)
        self._rows.pop()
        self._prefixes.keep(last, CachedPrefix(row.tokens, row.computed, row.request.cache_salt, self.counters.steps))

    def _swap(self, one: int, other: int) -> None:
        if one == other:
            return
        first, second = self._rows[one], self._rows[other]
        self._pool.swap(one, other, max(first.computed, second.computed))
        self._rows[one], self._rows[other] = second, first
