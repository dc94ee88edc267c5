"""Constrained decoding by llguidance: a bitmask over the vocabulary for each step, and the tokens that a grammar forces.

A constraint is compiled once, off the event loop and with a deadline, and cached; each request copies the compiled matcher. Knows
logits and tokens; nothing of requests or the graph.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import llguidance.numpy
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from serve_app.chat.grammar import compile_in_time, constraint_error, require_lark
from serve_app.chat.lark import wrap_lark
from serve_app.chat.lark_text import forces_long_text
from serve_app.errors import ConstraintLost, InvalidRequest
from serve_app.types import Constraint

_MAX_COMPILED = 128


class Guide:
    """One request's position in its constraint."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int) -> None:
        """Start at the beginning of `matcher`, which must not be shared."""
        self._matcher = matcher
        self._bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary_size)

    @property
    def error(self) -> str:
        """Why the constraint cannot be followed any further; empty while it can."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else ""

    @property
    def is_stopped(self) -> bool:
        """Whether the constraint is at its end and allows no further token; False after an error."""
        return bool(self._matcher.is_stopped() and not self._matcher.is_error())

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return self.is_stopped or bool(self._matcher.is_accepting())

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a copy of logits (V,) with -inf at every token that may not come next."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits, 0)
        allowed = np.unpackbits(self._bits[0].view(np.uint8), count=logits.size, bitorder="little")
        return np.where(allowed.view(bool), logits, np.float32(-np.inf))

    def accept(self, tokens: Sequence[int]) -> bool:
        """Advance by tokens; return False where the constraint forbids one. It allows all from `mask` and `compute_forced`."""
        return bool(self._matcher.consume_tokens(list(tokens)))

    def follow(self, tokens: Sequence[int], *, ended: bool, optional: bool) -> bool:
        """Advance by tokens that an engine drew by itself; the last one is a stop token if `ended`.

        Return False where they break an `optional` constraint; raises `ConstraintLost` where they break another.
        """
        answer = tokens[:-1] if ended else tokens
        if self.accept(answer) and (not ended or self.is_complete or self.accept(tokens[-1:])):
            return True
        if not optional:
            raise build_too_large_error() if self.error else _build_lost_error("was left by the engine")
        return False

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """Return the length of the longest beginning of `tokens` that the constraint allows."""
        return int(self._matcher.validate_tokens(list(tokens)))

    def compute_forced(self) -> list[int]:
        """Return the next tokens as far as the constraint allows exactly one."""
        return [] if self._matcher.is_stopped() else list(self._matcher.compute_ff_tokens())


def build_too_large_error() -> ConstraintLost:
    """Return the error for a constraint that compiled but grew too large to follow. The request is at fault, not the engine."""
    return _build_lost_error("grew too large to follow")


def _build_lost_error(how: str) -> ConstraintLost:
    return ConstraintLost(f"the constraint {how}; make it simpler", param="constraint")


class Guidance:
    """Compiles constraints for one tokenizer."""

    def __init__(self, tokenizer: LLTokenizer, vocabulary_size: int, end_ids: Collection[int] = ()) -> None:
        """Compile for `tokenizer`; see `serve_app.chat.grammar.wrap_tokenizer`.

        With `end_ids` a grammar that would force long texts is rewritten so that it does not. Without them the caller does that.
        """
        self._end_ids = end_ids
        self._vocabulary_size = vocabulary_size
        self._tokenizer = tokenizer
        self._compiled: OrderedDict[Constraint, asyncio.Future[LLMatcher]] = OrderedDict()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="guidance")

    async def start(self, constraint: Constraint) -> Guide | None:
        """Return a guide at the beginning of `constraint`; None for an optional constraint that cannot be compiled in time.

        Raises `InvalidRequest` for a required constraint that cannot be compiled in time.
        """
        try:
            return Guide((await self._compile(constraint)).deep_copy(), self._vocabulary_size)
        except InvalidRequest:
            if not constraint.optional:
                raise
            return None

    async def _compile(self, constraint: Constraint) -> LLMatcher:
        """Return the compiled constraint; concurrent requests wait for the same compilation."""
        compiled = self._compiled.get(constraint)
        if compiled is None or (compiled.done() and (compiled.cancelled() or compiled.exception())):
            compiled = asyncio.ensure_future(compile_in_time(constraint, self._pool, self._build_matcher))
            compiled.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # reads the exception: every request that waited may be gone
            self._compiled[constraint] = compiled
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(constraint)
        return await asyncio.shield(compiled)

    def _build_matcher(self, constraint: Constraint) -> LLMatcher:
        grammar = require_lark(constraint)
        if self._end_ids and forces_long_text(grammar):
            grammar = wrap_lark(grammar, self._end_ids)
        fault = LLMatcher.validate_grammar(grammar, self._tokenizer)
        if fault:
            raise constraint_error(fault)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise constraint_error(matcher.get_error())
        return matcher

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
