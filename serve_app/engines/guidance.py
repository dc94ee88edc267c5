"""Constrained decoding by llguidance: a bitmask over the vocabulary per step, and the tokens that leave no choice.

A constraint is compiled once, off the event loop and with a deadline, and kept; requests copy the compiled matcher. Knows logits
and tokens; nothing of requests or the graph.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import llguidance.numpy
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from serve_app.chat.grammar import checked_lark, constraint_error, in_time
from serve_app.chat.lark import enclosed
from serve_app.chat.lark_text import forces_much
from serve_app.errors import ConstraintLost, InvalidRequest
from serve_app.types import Constraint

_MAX_COMPILED = 128


class Guide:
    """One request's place in its constraint."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int) -> None:
        """Start at the beginning of `matcher`, which must not be shared."""
        self._matcher = matcher
        self._bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary_size)

    @property
    def error(self) -> str:
        """Why it cannot go on; empty while it can."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else ""

    @property
    def is_stopped(self) -> bool:
        """Whether nothing may follow; not because it cannot go on."""
        return bool(self._matcher.is_stopped() and not self._matcher.is_error())

    @property
    def is_complete(self) -> bool:
        """Whether what was said so far may be all."""
        return self.is_stopped or bool(self._matcher.is_accepting())

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a copy of logits (V,) with -inf at every token that may not come next."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits, 0)
        allowed = np.unpackbits(self._bits[0].view(np.uint8), count=logits.size, bitorder="little")
        return np.where(allowed.view(bool), logits, np.float32(-np.inf))

    def accept(self, tokens: Sequence[int]) -> bool:
        """Move on by tokens; False when the constraint does not allow them here, as those from `mask` or `compute_forced` are."""
        return bool(self._matcher.consume_tokens(list(tokens)))

    def follow(self, tokens: Sequence[int], *, ended: bool, optional: bool) -> bool:
        """Move on by tokens that an engine drew by itself, the last of them the end if `ended`.

        Where it went astray return False if that is `optional`; else raise what to tell the client.
        """
        answer = tokens[:-1] if ended else tokens
        if self.accept(answer) and (not ended or self.is_complete or self.accept(tokens[-1:])):
            return True
        if not optional:
            raise build_too_large_error() if self.error else _build_lost_error("was left by the engine")
        return False

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """Return how many of the tokens, from the first on, it would let through one after the other."""
        return int(self._matcher.validate_tokens(list(tokens)))

    def compute_forced(self) -> list[int]:
        """Return the tokens that must come next, as far as there is no choice."""
        return [] if self._matcher.is_stopped() else list(self._matcher.compute_ff_tokens())


def build_too_large_error() -> ConstraintLost:
    """Return the refusal of a constraint that compiled and cannot be followed: the request's fault, and no engine's."""
    return _build_lost_error("grew too large to follow")


def _build_lost_error(how: str) -> ConstraintLost:
    return ConstraintLost(f"the constraint {how}; make it simpler", param="constraint")


class Guidance:
    """Compiles constraints for one tokenizer."""

    def __init__(self, tokenizer: LLTokenizer, vocabulary_size: int, end_ids: Collection[int] = ()) -> None:
        """Compile for `tokenizer`; see `serve_app.chat.grammar.wrap_tokenizer`.

        With `end_ids` grammars come as the client gave them, and those that would force long texts are kept from it.
        """
        self._end_ids = end_ids
        self._vocabulary_size = vocabulary_size
        self._tokenizer = tokenizer
        self._compiled: OrderedDict[Constraint, asyncio.Future[LLMatcher]] = OrderedDict()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="guidance")

    async def start(self, constraint: Constraint) -> Guide | None:
        """Return a guide at the beginning of `constraint`; None for an optional one that cannot be compiled in time.

        Raises `InvalidRequest` when another cannot be.
        """
        try:
            return Guide((await self._compile(constraint)).deep_copy(), self._vocabulary_size)
        except InvalidRequest:
            if not constraint.optional:
                raise
            return None

    async def _compile(self, constraint: Constraint) -> LLMatcher:
        """Return the compiled constraint; whoever asks for it meanwhile waits for the same compilation."""
        compiled = self._compiled.get(constraint)
        if compiled is None or (compiled.done() and (compiled.cancelled() or compiled.exception())):
            compiled = asyncio.ensure_future(in_time(constraint, self._pool, self._build_matcher))
            compiled.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to hear of it
            self._compiled[constraint] = compiled
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(constraint)
        return await asyncio.shield(compiled)

    def _build_matcher(self, constraint: Constraint) -> LLMatcher:
        grammar = checked_lark(constraint)
        if self._end_ids and forces_much(grammar):
            grammar = enclosed(grammar, self._end_ids)
        fault = LLMatcher.validate_grammar(grammar, self._tokenizer)
        if fault:
            raise constraint_error(fault)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise constraint_error(matcher.get_error())
        return matcher

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
