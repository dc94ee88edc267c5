"""The check of constraints before anything is asked of an engine, so that all groups refuse the same.

Knows control tokens and single bytes of a vocabulary, which is all that a grammar can name; no engine, no logits.
"""

import asyncio
import random
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import llguidance.numpy
import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serve_app.chat.lark import to_lark, wrap_lark
from serve_app.chat.lark_text import find_repeat_counts
from serve_app.chat.tokenizer import Tokenizer
from serve_app.errors import InvalidRequest
from serve_app.types import Constraint, Regex

COMPILE_TIMEOUT_S = 2.0
"""A constraint that takes longer is refused."""
REGEX_LIMIT_S = 0.25
"""Most computing time of a regular expression, which needs milliseconds unless it means harm. Not counted by the clock on the wall:
on a busy machine harmless ones would be refused."""
_PATIENCE = 4
"""Times that limit that a constraint may wait for a processor."""
_KEPT = 128
_CHARS_PER_TOKEN = 4
"""Of text, about: what is repeated more often than that for each token has no room in an answer."""
_REHEARSED = 256
"""Steps for which a constraint is followed before it passes,"""
_REHEARSAL_S = 0.5
"""unless they take so long together."""
_RECENT = 16
_STEP_LIMIT_S = 0.005
"""Most computing time of a step over bytes, as a mean of the last ones; harmless constraints take a hundredth of that."""
_CONTEXT = re.compile(r"^\s*\d* \|")
"""A line by which llguidance shows where it stands in the grammar."""
_PLACE = re.compile(r"^(?:at )?\d+\(\d+\): (?:failed to compile JSON schema: )?")
Compiled = TypeVar("Compiled")


class GrammarCheck:
    """Refuses constraints that cannot be compiled for one tokenizer. What has passed is remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Check for `tokenizer`."""
        self._sparse = _sparse(tokenizer)  # now: it would hold up the event loop for a third of a second at 200,000 tokens
        self._vocabulary = tokenizer.vocabulary
        self._drawn = np.asarray(
            [at for at, raw in enumerate(_words(tokenizer)) if raw and at not in tokenizer.vocabulary.stop_ids]
        )
        """The tokens that a rehearsal draws from: single bytes, and control tokens that are no end."""
        self._passed: OrderedDict[Constraint, None] = OrderedDict()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="grammar")

    async def passes(self, constraint: Constraint, longest: int | None = None) -> bool:
        """Return whether `constraint` can be compiled in time; raises `InvalidRequest` when one that is not optional cannot."""
        try:
            await self.require(constraint, longest)
        except InvalidRequest:
            if not constraint.optional:
                raise
            return False
        return True

    async def require(self, constraint: Constraint, longest: int | None = None) -> None:
        """Raise `InvalidRequest` when `constraint` cannot be compiled, or not in time.

        `longest` is the most tokens that an answer may have, None where that is not known yet.
        """
        if constraint in self._passed:
            self._passed.move_to_end(constraint)
            return
        await compile_in_time(constraint, self._pool, lambda each: self._check(each, longest))
        self._passed[constraint] = None
        if len(self._passed) > _KEPT:
            self._passed.popitem(last=False)

    def _check(self, constraint: Constraint, longest: int | None) -> None:
        lark = require_lark(constraint)
        most = max(find_repeat_counts(lark), default=0)
        if longest is not None and most > longest * _CHARS_PER_TOKEN:
            raise constraint_error(
                f"it repeats something {most} times, and no answer here has more than {longest} tokens; ask for less"
            )
        fault = LLMatcher.validate_grammar(lark, self._sparse)
        if fault:
            raise constraint_error(fault)
        matcher = LLMatcher(self._sparse, wrap_lark(lark, self._vocabulary.stop_ids), log_level=0)
        if matcher.is_error():
            raise constraint_error(matcher.get_error())
        self._rehearse(matcher)

    def _rehearse(self, matcher: LLMatcher) -> None:
        """Follow a constraint for some bytes drawn by chance; raises `InvalidRequest` where the steps grow slow.

        Some engines follow all constraints in the loop that serves everybody, and with an ambiguous grammar the work of a step
        grows with the cube of the answer's length.
        """
        bits = llguidance.numpy.allocate_token_bitmask(1, self._vocabulary.size)
        draw = random.Random(0)
        began = time.thread_time()
        recent = deque([began], _RECENT)
        for _ in range(_REHEARSED):
            llguidance.numpy.fill_next_token_bitmask(matcher, bits, 0)
            allowed = self._drawn[bits[0][self._drawn >> 5] >> (self._drawn & 31) & 1 == 1]
            if matcher.is_error() or not allowed.size or not matcher.consume_token(int(draw.choice(allowed))):
                return
            now = time.thread_time()
            if len(recent) == _RECENT and now - recent[0] > _RECENT * _STEP_LIMIT_S:
                raise constraint_error("it is ambiguous, and takes ever longer to follow; make it simpler")
            recent.append(now)
            if now - began > _REHEARSAL_S:
                return


def _sparse(tokenizer: Tokenizer) -> LLTokenizer:
    """Return the vocabulary without its words: a grammar is about bytes and names control tokens only."""
    return wrap_tokens(_words(tokenizer), tokenizer.vocabulary.control_ids, tokenizer.vocabulary.stop_ids)


def _words(tokenizer: Tokenizer) -> list[bytes]:
    vocabulary = tokenizer.vocabulary
    return [raw if at in vocabulary.control_ids or len(raw) == 1 else b"" for at, raw in enumerate(vocabulary.tokens)]


async def compile_in_time(constraint: Constraint, pool: Executor, compile_: Callable[[Constraint], Compiled]) -> Compiled:
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


def require_lark(constraint: Constraint) -> str:
    """Do as `to_lark`; raises `InvalidRequest` where llguidance raises at once."""
    try:
        return to_lark(constraint)
    except ValueError as error:
        raise constraint_error(str(error)) from error


def constraint_error(fault: str) -> InvalidRequest:
    """Return the refusal of a constraint for llguidance's reason, without its drawing of the place."""
    if fault.startswith("panic"):
        fault = "it is too large; ask for fewer repetitions"
    lines = [line.strip() for line in fault.split("\n") if not _CONTEXT.match(line)]
    told = _PLACE.sub("", " ".join(line for line in lines if line.strip("^ ")))
    return InvalidRequest(f"the constraint cannot be used: {told[:300]}", param="constraint")


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
