"""A scripted engine: a real engine kind without a model, so that the whole app runs in a second and faults are configuration."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from serve_app.chat.tokenizer import Tokenizer
from serve_app.config import FakeSettings
from serve_app.engines.throughput import Throughput
from serve_app.errors import EngineDead, GenerationFailed
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

_NEEDS_A_MODEL = frozenset({Capability.STRUCTURED, Capability.UNICODE_PATTERNS, Capability.STRUCTURED_MIN_TOKENS})


class FakeEngine:
    """Answers every request with the configured text, at the configured pace, with the configured fault."""

    def __init__(self, settings: FakeSettings, model_dir: Path) -> None:
        """Take the script from `settings` and the tokenizer from `model_dir`."""
        self._settings = settings
        self._model_dir = model_dir
        self._script: tuple[int, ...] = ()
        self._slots = asyncio.Semaphore(settings.slots)
        self._running = 0
        self._waiting = 0
        self._throughput = Throughput()
        self.requests: list[TokenRequest] = []
        """Every request it was given, for tests."""

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return EngineInfo(
            kind=EngineKind.FAKE,
            context_length=self._settings.max_model_len,
            capabilities=frozenset(Capability) - _NEEDS_A_MODEL,
            max_concurrency=self._settings.slots,
            precision="none",
        )

    async def start(self) -> None:
        """Tokenize the script after the configured loading time."""
        await asyncio.sleep(self._settings.load_s)
        if self._settings.fault == "fail_start":
            raise EngineDead("the fake engine was told to fail at start; set fault: none")
        self._script = tuple(Tokenizer.load(self._model_dir).encode(self._settings.text, special=True))

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Play the script; see `Engine.generate`."""
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
            async with aclosing(self._play(request, started - arrived)) as events:
                async for event in events:
                    yield event
        finally:
            self._running -= 1
            self._slots.release()

    async def _play(self, request: TokenRequest, queue_s: float) -> AsyncGenerator[TokenEvent, None]:
        fault = self._settings.fault
        if fault == "fail_first":
            raise GenerationFailed("the fake engine was told to fail")
        started = time.monotonic()
        room = self._settings.max_model_len - len(request.prompt)
        limit = min(room, request.sampling.max_tokens or room)
        wanted = self._script * (limit // max(1, len(self._script)) + 1) if request.sampling.ignore_eos else self._script
        for count, token in enumerate(wanted[:limit]):
            await asyncio.sleep(1 / self._settings.tokens_per_second)
            if count >= 2 and fault == "die_midway":
                raise EngineDead("the fake engine was told to die")
            if count >= 2 and fault == "truncate":
                return
            if count >= 2 and fault == "hang":
                await asyncio.Event().wait()
            self._throughput.add(1)
            logprobs = () if request.sampling.logprobs is None else (TokenLogprob(token, 0.0, ((token, 0.0),)),)
            yield TokenDelta((token,), logprobs)
        ended_itself = len(wanted) < limit
        generated = len(wanted) + 1 if ended_itself else limit
        yield Finished(
            reason=FinishReason.STOP if ended_itself else FinishReason.LENGTH,
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
