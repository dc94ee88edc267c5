"""Checks constraints before any engine gets them, so that all groups refuse the same ones.

Knows the control tokens and single bytes of a vocabulary, all that a grammar can name; no engine and no logits.
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
"""Most CPU time that compiling a regular expression may take; harmless ones take milliseconds. CPU time, not wall time: on a busy
machine wall time would refuse harmless ones."""
_MAX_WAITS = 4
"""A constraint may wait for a processor this many times `COMPILE_TIMEOUT_S`."""
_MAX_REMEMBERED = 128
_CHARS_PER_TOKEN = 4
"""Approximate length of a token of text. An answer of n tokens cannot hold a repetition of more than n times as many characters."""
_REHEARSAL_STEPS = 256
"""Steps for which a constraint is followed before it is accepted."""
_REHEARSAL_LIMIT_S = 0.5
"""The rehearsal ends after this long, and the constraint is accepted."""
_RECENT_STEPS = 16
_STEP_LIMIT_S = 0.005
"""Most CPU time of a step over bytes, as a mean over the recent steps; harmless constraints take a hundredth of it."""
_CONTEXT_LINE = re.compile(r"^\s*\d* \|")
"""A line in which llguidance shows the position of a fault in the grammar."""
_POSITION = re.compile(r"^(?:at )?\d+\(\d+\): (?:failed to compile JSON schema: )?")
Compiled = TypeVar("Compiled")


class GrammarCheck:
    """Refuses constraints that cannot be compiled for one tokenizer; remembers the accepted ones."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Check for `tokenizer`."""
        # At once: with 200,000 tokens it would block the event loop for a third of a second later.
        self._byte_tokenizer = _build_byte_tokenizer(tokenizer)
        self._vocabulary = tokenizer.vocabulary
        self._rehearsal_ids = np.asarray(
            [at for at, raw in enumerate(_list_byte_tokens(tokenizer)) if raw and at not in tokenizer.vocabulary.stop_ids]
        )
        """The tokens that a rehearsal draws from: single bytes, and control tokens that do not end an answer."""
        self._passed: OrderedDict[Constraint, None] = OrderedDict()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="grammar")

    async def passes(self, constraint: Constraint, most_tokens: int | None = None) -> bool:
        """Return whether `constraint` can be compiled in time; raises `InvalidRequest` where it cannot and is not optional."""
        try:
            await self.require(constraint, most_tokens)
        except InvalidRequest:
            if not constraint.optional:
                raise
            return False
        return True

    async def require(self, constraint: Constraint, most_tokens: int | None = None) -> None:
        """Raise `InvalidRequest` when `constraint` cannot be compiled in time.

        `most_tokens` is the most tokens that an answer may have, None where it is not known yet.
        """
        if constraint in self._passed:
            self._passed.move_to_end(constraint)
            return
        await compile_in_time(constraint, self._pool, lambda each: self._check(each, most_tokens))
        self._passed[constraint] = None
        if len(self._passed) > _MAX_REMEMBERED:
            self._passed.popitem(last=False)

    def _check(self, constraint: Constraint, most_tokens: int | None) -> None:
        lark = require_lark(constraint)
        most_repeats = max(find_repeat_counts(lark), default=0)
        if most_tokens is not None and most_repeats > most_tokens * _CHARS_PER_TOKEN:
            raise constraint_error(
                f"it repeats something {most_repeats} times, and no answer here has more than {most_tokens} tokens; ask for less"
            )
        fault = LLMatcher.validate_grammar(lark, self._byte_tokenizer)
        if fault:
            raise constraint_error(fault)
        matcher = LLMatcher(self._byte_tokenizer, wrap_lark(lark, self._vocabulary.stop_ids), log_level=0)
        if matcher.is_error():
            raise constraint_error(matcher.get_error())
        self._rehearse(matcher)

    def _rehearse(self, matcher: LLMatcher) -> None:
        """Follow a constraint over randomly drawn bytes; raises `InvalidRequest` where the steps become slow.

        Some engines follow all constraints in the loop that serves all requests, and with an ambiguous grammar the work of a step
        grows with the cube of the answer's length.
        """
        bits = llguidance.numpy.allocate_token_bitmask(1, self._vocabulary.size)
        draw = random.Random(0)
        began = time.thread_time()
        recent = deque([began], _RECENT_STEPS)
        for _ in range(_REHEARSAL_STEPS):
            llguidance.numpy.fill_next_token_bitmask(matcher, bits, 0)
            allowed = self._rehearsal_ids[bits[0][self._rehearsal_ids >> 5] >> (self._rehearsal_ids & 31) & 1 == 1]
            if matcher.is_error() or not allowed.size or not matcher.consume_token(int(draw.choice(allowed))):
                return
            now = time.thread_time()
            if len(recent) == _RECENT_STEPS and now - recent[0] > _RECENT_STEPS * _STEP_LIMIT_S:
                raise constraint_error("it is ambiguous, and takes ever longer to follow; make it simpler")
            recent.append(now)
            if now - began > _REHEARSAL_LIMIT_S:
                return


def _build_byte_tokenizer(tokenizer: Tokenizer) -> LLTokenizer:
    """Return a vocabulary of bytes and control tokens only: a grammar names no others."""
    return wrap_tokens(_list_byte_tokens(tokenizer), tokenizer.vocabulary.control_ids, tokenizer.vocabulary.stop_ids)


def _list_byte_tokens(tokenizer: Tokenizer) -> list[bytes]:
    vocabulary = tokenizer.vocabulary
    return [raw if at in vocabulary.control_ids or len(raw) == 1 else b"" for at, raw in enumerate(vocabulary.tokens)]


async def compile_in_time(constraint: Constraint, pool: Executor, compile_: Callable[[Constraint], Compiled]) -> Compiled:
    """Run `compile_` on `constraint` in `pool` and return its result; raises its error, or `InvalidRequest` when it takes too long.

    Time spent waiting for the pool or for a processor does not count, up to `_MAX_WAITS` timeouts.
    """
    cpu_clock: list[tuple[int, float]] = []

    def compile_timed() -> Compiled:
        cpu_clock.append((time.pthread_getcpuclockid(threading.get_ident()), time.thread_time()))
        compiled = compile_(constraint)
        if isinstance(constraint, Regex) and time.thread_time() - cpu_clock[0][1] > REGEX_LIMIT_S:
            raise _refuse_slow(REGEX_LIMIT_S)
        return compiled

    work = asyncio.get_running_loop().run_in_executor(pool, compile_timed)
    try:
        for _ in range(_MAX_WAITS):
            done, _ = await asyncio.wait((work,), timeout=COMPILE_TIMEOUT_S)
            if done:
                return work.result()
            if cpu_clock and time.clock_gettime(cpu_clock[0][0]) - cpu_clock[0][1] > COMPILE_TIMEOUT_S / 2:
                break
        raise _refuse_slow(COMPILE_TIMEOUT_S)
    finally:
        work.cancel()  # has an effect only while it still waits


def _refuse_slow(limit_s: float) -> InvalidRequest:
    return InvalidRequest(f"the constraint takes more than {limit_s:g} s to compile; make it simpler", param="constraint")


def require_lark(constraint: Constraint) -> str:
    """Return a constraint as a Lark grammar, as `to_lark` does; raises `InvalidRequest` for a pattern that cannot be parsed."""
    try:
        return to_lark(constraint)
    except ValueError as error:
        raise constraint_error(str(error)) from error


def constraint_error(fault: str) -> InvalidRequest:
    """Return the refusal of a constraint with llguidance's reason, without the lines that show the position."""
    if fault.startswith("panic"):
        fault = "it is too large; ask for fewer repetitions"
    lines = [line.strip() for line in fault.split("\n") if not _CONTEXT_LINE.match(line)]
    reason = _POSITION.sub("", " ".join(line for line in lines if line.strip("^ ")))
    return InvalidRequest(f"the constraint cannot be used: {reason[:300]}", param="constraint")


@dataclass(frozen=True)
class _Tokens:
    """A vocabulary in the form that llguidance reads."""

    tokens: Sequence[bytes]
    special_token_ids: Sequence[int]
    eos_token_id: int
    encode: Callable[[str], list[int]] | None
    bos_token_id: int | None = None

    def __call__(self, text: str) -> list[int]:
        """Return the tokens of `text`; llguidance writes forced text with them."""
        if self.encode is None or not isinstance(text, str):  # llguidance tries with bytes first
            raise TypeError("this vocabulary encodes no bytes")
        return self.encode(text)


def wrap_tokenizer(tokenizer: Tokenizer) -> LLTokenizer:
    """Return llguidance's form of a tokenizer, with the ids and bytes of the model's files. Takes 0.7 s for 200,000 tokens."""
    vocabulary = tokenizer.vocabulary
    encode = partial(tokenizer.encode, special=False)
    return wrap_tokens(vocabulary.tokens, vocabulary.control_ids, vocabulary.stop_ids, encode)


def wrap_tokens(
    tokens: Sequence[bytes],
    control_ids: Collection[int],
    stop_ids: Sequence[int],
    encode: Callable[[str], list[int]] | None = None,
) -> LLTokenizer:
    """Return llguidance's form of a vocabulary, given as the bytes of each id; without `encode` it forces no text."""
    wrapped = TokenizerWrapper(_Tokens(tokens, sorted(control_ids), stop_ids[0], encode))
    return LLTokenizer(wrapped, eos_token=list(stop_ids))
