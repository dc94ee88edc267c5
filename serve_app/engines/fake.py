"""A scripted engine without a model: the whole application starts in a second, and its faults are configured."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import lru_cache
from pathlib import Path

from serve_app.chat.tokenizer import Tokenizer
from serve_app.engine_config import FakeSettings
from serve_app.engines.throughput import Throughput
from serve_app.errors import ContextOverflow, EngineDead, GenerationFailed
from serve_app.types import (
    Capability,
    EngineInfo,
    EngineKind,
    EngineLoad,
    Finished,
    FinishReason,
    Timings,
    TokenDelta,
    TokenEvent,
    TokenLogprob,
    TokenRequest,
    Usage,
)

_UNSUPPORTED = frozenset({Capability.STRUCTURED, Capability.UNICODE_PATTERNS, Capability.STRUCTURED_MIN_TOKENS})

_tokenizer = lru_cache(2)(Tokenizer.load)


class FakeEngine:
    """Answers every request with a configured text, at the configured pace, with the configured fault.

    Where the prompt ends with a beginning of that text, the answer continues it.
    """

    def __init__(self, settings: FakeSettings, model_dir: Path) -> None:
        """Take the script from `settings` and the tokenizer from `model_dir`."""
        self._settings = settings
        self._model_dir = model_dir
        self._script: tuple[int, ...] = ()
        self._replies: list[tuple[str, tuple[int, ...]]] = []
        self._slots = asyncio.Semaphore(settings.slots)
        self._running = 0
        self._waiting = 0
        self._throughput = Throughput()
        self.requests: list[TokenRequest] = []
        """Every request so far, for tests."""

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return EngineInfo(
            kind=EngineKind.FAKE,
            context_length=self._settings.max_model_len,
            capabilities=frozenset(Capability) - (frozenset() if self._settings.structured else _UNSUPPORTED),
            max_concurrency=self._settings.slots,
            precision="none",
            kv_tokens=self._settings.slots * self._settings.max_model_len,
        )

    async def start(self) -> None:
        """Tokenize the script after the configured loading time."""
        await asyncio.sleep(self._settings.load_s)
        if self._settings.fault == "fail_start":
            raise EngineDead("the fake engine is configured to fail at start; set fault: none")
        self._script = self._tokenize(self._settings.text)
        self._replies = [(reply.when, self._tokenize(reply.text)) for reply in self._settings.replies]

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(_tokenizer(self._model_dir).encode(text, special=True))

    def _choose_script(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        if not self._replies:
            return self._script
        tokenizer = _tokenizer(self._model_dir)
        text = b"".join(map(tokenizer.raw, prompt)).decode(errors="replace")
        return next((script for when, script in self._replies if when in text), self._script)

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate the script; see `Engine.generate`."""
        self.requests.append(request)
        arrived = time.monotonic()
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        started = time.monotonic()
        try:
            async with aclosing(self._generate(request, started - arrived)) as events:
                async for event in events:
                    yield event
        finally:
            self._running -= 1
            self._slots.release()

    async def _generate(self, request: TokenRequest, queue_s: float) -> AsyncGenerator[TokenEvent, None]:
        fault, fault_at = self._settings.fault, self._settings.fault_at
        if fault == "fail_first":
            raise GenerationFailed("the fake engine is configured to fail")
        started = time.monotonic()
        room = self._settings.max_model_len - len(request.prompt)
        if room < 1:
            raise ContextOverflow(f"the prompt has {len(request.prompt)} tokens, the context {self._settings.max_model_len}")
        limit = min(room, request.sampling.max_tokens or room)
        script = self._choose_script(request.prompt)
        wanted = script[_find_position(script, request.prompt) :]
        if request.sampling.ignore_eos:
            wanted += script * (limit // max(1, len(script)) + 1)
        for count, token in enumerate((*wanted[:limit], None)):
            if token is not None:
                await asyncio.sleep(1 / self._settings.tokens_per_second)
            if count >= fault_at and fault == "die_midway":
                raise EngineDead("the fake engine is configured to die")
            if count >= fault_at and fault == "truncate":
                return
            if count >= fault_at and fault == "hang":
                await asyncio.Event().wait()
            if token is None:
                break
            self._throughput.add(1)
            logprobs = () if request.sampling.logprobs is None else (TokenLogprob(token, 0.0, ((token, 0.0),)),)
            yield TokenDelta((token,), logprobs)
        reached_end = len(wanted) < limit
        generated = len(wanted) + 1 if reached_end else limit
        yield Finished(
            reason=FinishReason.STOP if reached_end else FinishReason.LENGTH,
            usage=Usage(prompt_tokens=len(request.prompt), completion_tokens=generated),
            timings=Timings(queue_s=queue_s, decode_s=time.monotonic() - started),
        )

    async def check_health(self) -> None:
        """Be healthy."""

    def load(self) -> EngineLoad:
        """See `Engine.load`."""
        return EngineLoad(
            running=self._running,
            waiting=self._waiting,
            kv_usage=self._running / self._settings.slots,
            tokens_per_second=self._throughput.rate(),
        )

    async def close(self) -> None:
        """Release nothing."""


def _find_position(script: tuple[int, ...], prompt: tuple[int, ...]) -> int:
    """Return how many tokens of the script the prompt ends with; the answer continues from there, as a model's would."""
    for count in range(min(len(script), len(prompt)), 0, -1):
        if prompt[-count:] == script[:count]:
            return count
    return 0
