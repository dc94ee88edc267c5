"""Constraints as llguidance's grammars, and their check before anything is asked of an engine, so that all groups refuse the same.

Knows control tokens and single bytes of a vocabulary, which is all that a grammar can name; no engine, no logits.
"""

import asyncio
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serve_app.chat.constraint import styled
from serve_app.chat.tokenizer import Tokenizer
from serve_app.errors import InvalidRequest
from serve_app.types import Choice, Constraint, Grammar, JsonSchema, Regex

COMPILE_TIMEOUT_S = 2.0
"""A constraint that takes longer is refused."""
REGEX_LIMIT_S = 0.25
"""Most computing time of a regular expression, which needs milliseconds unless it means harm. Not counted by the clock on the wall:
on a busy machine harmless ones would be refused."""
_PATIENCE = 4
"""Times that limit that a constraint may wait for a processor."""
_KEPT = 128
Compiled = TypeVar("Compiled")


class GrammarCheck:
    """Refuses constraints that cannot be compiled for one tokenizer. What has passed is remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Check for `tokenizer`."""
        self._sparse = _sparse(tokenizer)  # now: it would hold up the event loop for a third of a second at 200,000 tokens
        self._passed: OrderedDict[Constraint, None] = OrderedDict()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="grammar")

    async def passes(self, constraint: Constraint) -> bool:
        """Tell whether `constraint` can be compiled in time; raises `InvalidRequest` when one that is not optional cannot."""
        try:
            await self.require(constraint)
        except InvalidRequest:
            if not constraint.optional:
                raise
            return False
        return True

    async def require(self, constraint: Constraint) -> None:
        """Raise `InvalidRequest` when `constraint` cannot be compiled, or not in time."""
        if constraint in self._passed:
            self._passed.move_to_end(constraint)
            return
        await in_time(constraint, self._pool, self._check)
        self._passed[constraint] = None
        if len(self._passed) > _KEPT:
            self._passed.popitem(last=False)

    def _check(self, constraint: Constraint) -> None:
        fault = LLMatcher.validate_grammar(checked_grammar(constraint), self._sparse)
        if fault:
            raise unusable(fault)


def _sparse(tokenizer: Tokenizer) -> LLTokenizer:
    """Return the vocabulary without its words: a grammar is about bytes and names control tokens only."""
    vocabulary = tokenizer.vocabulary
    tokens = [raw if at in vocabulary.control_ids or len(raw) == 1 else b"" for at, raw in enumerate(vocabulary.tokens)]
    return wrap_tokens(tokens, vocabulary.control_ids, vocabulary.stop_ids)


async def in_time(constraint: Constraint, pool: Executor, compile_: Callable[[Constraint], Compiled]) -> Compiled:
    """Return what `compile_` makes of `constraint` in `pool`; raises what that raises, `InvalidRequest` when it takes too long.

    On a machine too busy to compute for that long, and behind others, it may wait some times as long.
    """
    clock: list[tuple[int, float]] = []

    def timed() -> Compiled:
        clock.append((time.pthread_getcpuclockid(threading.get_ident()), time.thread_time()))
        compiled = compile_(constraint)
        if isinstance(constraint, Regex) and time.thread_time() - clock[0][1] > REGEX_LIMIT_S:
            raise _slow(REGEX_LIMIT_S)
        return compiled

    work = asyncio.get_running_loop().run_in_executor(pool, timed)
    try:
        for _ in range(_PATIENCE):
            done, _ = await asyncio.wait((work,), timeout=COMPILE_TIMEOUT_S)
            if done:
                return work.result()
            if clock and time.clock_gettime(clock[0][0]) - clock[0][1] > COMPILE_TIMEOUT_S / 2:
                break
        raise _slow(COMPILE_TIMEOUT_S)
    finally:
        work.cancel()  # where it still waits


def _slow(limit_s: float) -> InvalidRequest:
    return InvalidRequest(f"the constraint takes more than {limit_s:g} s to compile; make it simpler", param="constraint")


def checked_grammar(constraint: Constraint) -> str:
    """Do as `grammar_of`; raises `InvalidRequest` where llguidance raises at once."""
    try:
        return grammar_of(constraint)
    except ValueError as error:
        raise unusable(str(error)) from error


def unusable(fault: str) -> InvalidRequest:
    """Return the refusal of a constraint for llguidance's reason."""
    return InvalidRequest(f"the constraint cannot be used: {fault[:300]}", param="constraint")


@dataclass(frozen=True)
class _Tokens:
    """A vocabulary in the shape that llguidance reads."""

    tokens: Sequence[bytes]
    special_token_ids: Sequence[int]
    eos_token_id: int
    encode: Callable[[str], list[int]] | None
    bos_token_id: int | None = None

    def __call__(self, text: str) -> list[int]:
        """Return the tokens of `text`, which llguidance asks for to write forced text as the model would."""
        if self.encode is None or not isinstance(text, str):  # llguidance tries with bytes first
            raise TypeError("this vocabulary encodes no bytes")
        return self.encode(text)


def wrap_tokenizer(tokenizer: Tokenizer) -> LLTokenizer:
    """Return llguidance's form of a tokenizer, ids and bytes as the model's files have them. Takes 0.7 s for 200,000 tokens."""
    vocabulary = tokenizer.vocabulary
    encode = partial(tokenizer.encode, special=False)
    return wrap_tokens(vocabulary.tokens, vocabulary.control_ids, vocabulary.stop_ids, encode)


def wrap_tokens(
    tokens: Sequence[bytes],
    control_ids: Collection[int],
    stop_ids: Sequence[int],
    encode: Callable[[str], list[int]] | None = None,
) -> LLTokenizer:
    """Return llguidance's form of a vocabulary given as the bytes of each id; without `encode` it writes no forced text."""
    wrapped = TokenizerWrapper(_Tokens(tokens, sorted(control_ids), stop_ids[0], encode))
    return LLTokenizer(wrapped, eos_token=list(stop_ids))


def grammar_of(constraint: Constraint) -> str:
    """Return llguidance's grammar for a constraint."""
    match constraint:
        case JsonSchema():
            return str(LLMatcher.grammar_from_json_schema(styled(constraint.schema)))
        case Regex():
            return str(LLMatcher.grammar_from_regex(constraint.pattern))
        case Choice():
            return str(LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, constraint.options))))
        case Grammar():
            return str(LLMatcher.grammar_from_lark(constraint.lark))
