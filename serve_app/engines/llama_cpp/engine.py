"""llama.cpp's embedded server, token-in/token-out, over a private unix socket.

The server accepts malformed requests: it wraps ids, applies samplers that were not named, and silently ignores grammars. So
requests are exact by construction, every sampler is sent, and a matcher of our own follows constrained answers. The end of an
answer is decided here, since llama.cpp knows only the model's own end tokens.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from serve_app.chat.grammar import wrap_tokens
from serve_app.chat.lark import wrap_lark
from serve_app.chat.lark_text import may_force_tokens
from serve_app.engine_config import LlamaCppSettings
from serve_app.engines.admission import compute_answer_limit
from serve_app.engines.guidance import Guidance, Guide
from serve_app.engines.llama_cpp.grammar import respell_constraint
from serve_app.engines.llama_cpp.server import LlamaServer, find_majority_type, measure_cache
from serve_app.engines.llama_cpp.stream import ServerEvent, read_events
from serve_app.engines.throughput import Throughput
from serve_app.errors import EngineDead, GenerationFailed, Overloaded
from serve_app.files.gguf_header import read_header
from serve_app.files.gguf_vocabulary import LoadedVocabulary, load_gguf_vocabulary
from serve_app.files.names import GGUF_FILE
from serve_app.types import (
    MAX_TOKENS,
    Capability,
    EngineInfo,
    EngineKind,
    EngineLoad,
    Finished,
    FinishReason,
    Grammar,
    Sampling,
    Timings,
    TokenDelta,
    TokenEvent,
    TokenRequest,
    Usage,
)

_UNSUPPORTED = frozenset({Capability.OUTPUT_PENALTIES, Capability.UNICODE_PATTERNS, Capability.STRUCTURED_MIN_TOKENS})
"""llama.cpp counts the prompt's tokens in presence and frequency penalties. For patterns see `grammar`; for min_tokens under a
constraint see `_Generation.min_tokens_left`."""
_MAX_SEED = (1 << 32) - 1
"""llama.cpp's seeds have 32 bits, and the last of them asks for a random one."""


@dataclass
class _Counters:
    """Totals since the engine's start; see `serve_app.metrics`."""

    decode_tokens: int = 0
    prefill_tokens: int = 0
    reused_tokens: int = 0
    prefix_hits: int = 0
    admitted: int = 0
    queue_s: float = 0.0


@dataclass(eq=False)
class _Generation:
    """One request and what it has generated."""

    request: TokenRequest
    limit: int
    """Most tokens that may be generated."""
    end_ids: frozenset[int]
    """The model's own end tokens."""
    guide: Guide | None = None
    lark: str = ""
    """The grammar that the server gets; empty: none."""
    arrived_s: float = field(default_factory=time.monotonic)
    started_s: float = 0.0
    """When the request got a slot."""
    first_token_s: float = 0.0
    ids: list[int] = field(default_factory=list)
    """Everything generated, end tokens included."""
    drawn: int = 0
    """Tokens generated, end tokens included."""
    cached: int | None = None
    """Prompt tokens found in the slot's cache; None until the server reports it."""
    seed: int = field(default_factory=lambda: random.getrandbits(31))

    def __post_init__(self) -> None:
        """Take the request's seed, if it has one."""
        if self.request.sampling.seed is not None:
            self.seed = self.request.sampling.seed

    @property
    def min_tokens_left(self) -> int:
        """Tokens to generate before a stop token is allowed; 0 under a constraint, which a second call would start again."""
        return 0 if self.guide else max(0, min(self.request.sampling.min_tokens, self.limit) - self.drawn)

    def follow(self, ids: tuple[int, ...]) -> None:
        """Check tokens against the constraint, which llama.cpp may silently break; see `Guide.follow`."""
        constraint = self.request.constraint
        if self.guide is None or constraint is None or not ids:
            return
        if not self.guide.follow(ids, ended=ids[-1] in self.end_ids, optional=constraint.optional):
            self.guide = None

    def finish(self, reason: FinishReason) -> Finished:
        """Return the last event."""
        now = time.monotonic()
        usage = Usage(prompt_tokens=len(self.request.prompt), completion_tokens=self.drawn, cached_tokens=self.cached or 0)
        first = self.first_token_s or now
        timings = Timings(queue_s=self.started_s - self.arrived_s, prefill_s=first - self.started_s, decode_s=now - first)
        return Finished(reason=reason, usage=usage, timings=timings)


class LlamaCppEngine:
    """A GGUF file behind the engine contract; see `serve_app.engines.base`."""

    def __init__(self, settings: LlamaCppSettings, model_dir: Path) -> None:
        """Keep the settings; `model_dir` holds the model's tokenizer and `model.gguf`, or the file that `gguf` names by its name.

        See `serve_app.models.export.derive`.
        """
        self._settings = settings
        self._model_dir = model_dir
        self._file = model_dir / (Path(settings.gguf).name if settings.gguf else GGUF_FILE)
        self._server = LlamaServer(settings)
        self._vocabulary: LoadedVocabulary | None = None
        self._single_token_characters: frozenset[str] = frozenset()
        self._guidance: Guidance | None = None
        self._precision: str = settings.precision if not settings.gguf else "gguf"
        self._kv_bytes = 0
        self._slots = asyncio.Semaphore(settings.slots)
        self._waiting: set[_Generation] = set()
        self._running: set[_Generation] = set()
        self._salts: dict[int, str | None] = {}
        self._counters = _Counters()
        self._throughput = Throughput()

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return EngineInfo(
            kind=EngineKind.LLAMA_CPP,
            context_length=self._settings.max_model_len,
            capabilities=frozenset(Capability) - _UNSUPPORTED,
            max_concurrency=self._settings.slots,
            precision=self._precision,
            kv_tokens=self._settings.slots * self._settings.max_model_len,
            kv_bytes=self._kv_bytes,
        )

    async def start(self) -> None:
        """Check the file, load it and start the server; raises `ModelUnusable` with the reason when it cannot be."""
        header = await asyncio.to_thread(read_header, self._file)
        vocabulary = await asyncio.to_thread(load_gguf_vocabulary, header.keys, self._model_dir)
        self._vocabulary = vocabulary
        if self._settings.gguf:
            self._precision = find_majority_type(header)
        tokenizer = await asyncio.to_thread(wrap_tokens, vocabulary.texts, vocabulary.control_ids, vocabulary.end_ids)
        self._guidance = Guidance(tokenizer, len(vocabulary.texts))
        plain = (text for at, text in enumerate(vocabulary.texts) if at not in vocabulary.control_ids)
        self._single_token_characters = frozenset(char for char in (text.decode() for text in plain) if len(char) == 1)
        await self._server.start(self._file, header)
        self._kv_bytes = measure_cache(header, self._settings)

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """See `Engine.generate`. Raises `Overloaded` when too many wait, `ContextOverflow` when the prompt leaves no room."""
        generation = await self._admit(request)
        self._waiting.add(generation)
        try:
            await self._slots.acquire()
        finally:
            self._waiting.discard(generation)
        generation.started_s = time.monotonic()
        self._counters.admitted += 1
        self._counters.queue_s += generation.started_s - generation.arrived_s
        self._running.add(generation)
        try:
            async with aclosing(self._generate(generation)) as events:
                async for event in events:
                    yield event
        finally:
            self._running.discard(generation)
            self._slots.release()

    async def _admit(self, request: TokenRequest) -> _Generation:
        _ = self._server.session  # raises unless it runs
        assert self._vocabulary is not None
        limit = compute_answer_limit(request, self._settings.max_model_len, len(self._vocabulary.texts))
        generation = _Generation(request, limit, frozenset(self._vocabulary.end_ids))
        if request.constraint and self._guidance:
            lark, end_ids = respell_constraint(request.constraint, self._single_token_characters), self._vocabulary.end_ids
            generation.guide = await self._guidance.start(Grammar(wrap_lark(lark, end_ids), optional=request.constraint.optional))
            # Outside ASCII llama.cpp's BPE looks for halves of characters by the names they have in other files, and drops them.
            forcing = lark.isascii() and may_force_tokens(lark, self._vocabulary.control_tokens)
            generation.lark = wrap_lark(lark, end_ids, forcing=forcing) if generation.guide else ""
        if len(self._running) + len(self._waiting) >= self._settings.slots + self._settings.max_waiting:
            raise Overloaded("the llama.cpp group's queue is full; try again later", retry_after_s=1.0)
        return generation

    async def _generate(self, generation: _Generation) -> AsyncGenerator[TokenEvent, None]:
        """Call the server until the answer ends: once, unless min_tokens forbids stop tokens or the model's own do not end it."""
        stops = frozenset(generation.request.sampling.stop_token_ids)
        if generation.guide is not None:
            stops |= generation.end_ids  # a constraint allows an end token only where the answer is complete
        while True:
            before = generation.drawn
            async with aclosing(self._complete(generation)) as events:
                async for event in events:
                    ended = next((at for at, token in enumerate(event.ids) if token in stops), None)
                    kept = event.ids[:ended]
                    generation.follow(event.ids if ended is None else event.ids[: ended + 1])
                    if kept:
                        yield TokenDelta(kept, event.logprobs[: len(kept)])
                    if ended is not None:
                        yield generation.finish(FinishReason.STOP)
                        return
            if generation.drawn >= generation.limit:
                yield generation.finish(FinishReason.LENGTH)
                return
            if generation.drawn == before:
                raise GenerationFailed("llama.cpp generated nothing")

    async def _complete(self, generation: _Generation) -> AsyncGenerator[ServerEvent, None]:
        """Call the server once and yield its events, counted."""
        base = generation.drawn
        body = self._encode_request(generation)
        salt = generation.request.cache_salt
        with _translate_errors():
            async with self._server.session.post("http://llama/completion", data=body) as response:
                try:
                    async with aclosing(read_events(response, generation.request.sampling.logprobs)) as events:
                        async for event in events:
                            if event.reused is not None and generation.cached is None:
                                self._count_prompt(generation, event.reused)
                            if event.ids or event.drawn:
                                generation.first_token_s = generation.first_token_s or time.monotonic()
                                self._count_answer(generation, base + event.drawn)
                                generation.ids.extend(event.ids)
                                yield event
                            if event.slot is not None:
                                self._salts[event.slot] = salt
                finally:
                    response.close()  # at once: the server sees it within 50 ms and frees the slot

    def _count_prompt(self, generation: _Generation, reused: int) -> None:
        generation.cached = reused
        self._counters.reused_tokens += reused
        self._counters.prefix_hits += reused > 0
        self._counters.prefill_tokens += len(generation.request.prompt) - reused

    def _count_answer(self, generation: _Generation, drawn: int) -> None:
        self._counters.decode_tokens += drawn - generation.drawn
        self._throughput.add(drawn - generation.drawn)
        generation.drawn = drawn

    def _encode_request(self, generation: _Generation) -> bytes:
        """Return the request for the missing tokens; it names every sampler, since the server's defaults are not neutral."""
        assert self._vocabulary is not None
        request, sampling = generation.request, generation.request.sampling
        bias: dict[int, float | bool] = dict(sampling.logit_bias)
        if generation.min_tokens_left:
            bias |= dict.fromkeys(sampling.stop_token_ids, False)  # the server forbids the token
        body: dict[str, Any] = {
            "prompt": [*request.prompt, *generation.ids],
            "n_predict": generation.min_tokens_left or generation.limit - generation.drawn,
            "stream": True,
            "return_tokens": True,
            "return_progress": True,
            "cache_prompt": self._settings.prefix_cache and self._may_reuse_cache(generation),
            "logit_bias": [[token, value] for token, value in bias.items()],
            "response_fields": ["stop", "stop_type", "id_slot", "tokens", "tokens_predicted"],
            **_build_samplers(sampling),
            "seed": (generation.seed + generation.drawn) % _MAX_SEED,
        }
        if generation.lark:
            body["grammar"] = generation.lark
        return json.dumps(body).encode()

    def _may_reuse_cache(self, generation: _Generation) -> bool:
        """Return whether every slot has computed for this salt only; the server would share caches between salts."""
        salt = generation.request.cache_salt
        running = (other.request.cache_salt for other in self._running)
        return all(other == salt for other in (*self._salts.values(), *running))

    async def check_health(self) -> None:
        """Raise `EngineDead` unless the server's loop answers in time; waits for a step in progress."""
        await self._server.probe()

    def load(self) -> EngineLoad:
        """See `Engine.load`."""
        used = sum(len(generation.request.prompt) + len(generation.ids) for generation in self._running)
        return EngineLoad(
            running=len(self._running),
            waiting=len(self._waiting),
            waiting_tokens=sum(len(generation.request.prompt) for generation in self._waiting),
            kv_usage=min(1.0, used / (self._settings.slots * self._settings.max_model_len)),
            tokens_per_second=self._throughput.rate(),
            counters=asdict(self._counters),
        )

    async def close(self) -> None:
        """Fail running requests and end the server."""
        await self._server.close()
        if self._guidance is not None:
            self._guidance.close()


def _build_samplers(sampling: Sampling) -> dict[str, Any]:
    """Return the sampling parameters under the server's names, in our order of application."""
    return {
        "samplers": ["penalties", "temperature", "min_p", "top_k", "top_p"],
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": MAX_TOKENS,  # all of them; by default the last 64
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "n_probs": 0 if sampling.logprobs is None else max(1, sampling.logprobs),
    }


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn aiohttp's exceptions into ours."""
    try:
        yield
    except aiohttp.ClientError as error:
        raise EngineDead("llama.cpp's server ended the connection") from error
