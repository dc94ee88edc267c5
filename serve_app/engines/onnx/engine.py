"""The ONNX engine: one thread owns graph, pool and batch; the event loop sends it commands through an inbox.

The thread runs a step, passes all its events to the loop in one call, and reads the inbox before the next step. onnxruntime
releases the GIL while it computes, so the loop stays responsive.
"""

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from serve_app.chat.grammar import wrap_tokenizer
from serve_app.chat.tokenizer import Tokenizer
from serve_app.engine_config import OnnxSettings
from serve_app.engines.admission import compute_answer_limit
from serve_app.engines.guidance import Guidance, Guide
from serve_app.engines.onnx.batch import Batch
from serve_app.engines.onnx.graph import Graph
from serve_app.engines.onnx.kv_pool import KvPool, plan_memory
from serve_app.engines.onnx.sequence import Sequence
from serve_app.engines.throughput import Throughput
from serve_app.errors import EngineDead, GenerationFailed, ModelUnusable, Overloaded, ServeError
from serve_app.memory import read_available_bytes
from serve_app.types import Capability, EngineInfo, EngineKind, EngineLoad, Finished, TokenDelta, TokenEvent, TokenRequest

logger = logging.getLogger(__name__)

_Outbox = asyncio.Queue[TokenEvent | ServeError]
_Events = Iterable[tuple[Sequence, TokenEvent | ServeError]]


class OnnxEngine:
    """Continuous batching over an exported graph; see `serve_app.engines.base` for the contract."""

    def __init__(self, settings: OnnxSettings, model_dir: Path) -> None:
        """Keep the settings; `model_dir` holds the exported `model.onnx`."""
        self._settings = settings
        self._model_dir = model_dir
        self._batch: Batch | None = None
        self._guidance: Guidance | None = None
        self._vocabulary_size = 0
        self._kv_bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._inbox: deque[Callable[[Batch], None]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._fatal: str | None = None
        self._step_began_s: float | None = None
        self._outboxes: dict[Sequence, _Outbox] = {}
        self._throughput = Throughput()

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return EngineInfo(
            kind=EngineKind.ONNX,
            context_length=self._settings.max_model_len,
            capabilities=frozenset(Capability),
            max_concurrency=self._settings.slots,
            precision=self._settings.precision,
            kv_tokens=self._settings.slots * self._settings.max_model_len,
            kv_bytes=self._kv_bytes,
        )

    async def start(self) -> None:
        """Load the graph, reserve the KV pool and start the thread."""
        self._loop = asyncio.get_running_loop()
        self._batch = await asyncio.to_thread(self._build_batch)
        self._thread = threading.Thread(target=self._run, args=(self._batch,), name="onnx-engine", daemon=True)
        self._thread.start()

    def _build_batch(self) -> Batch:
        settings = self._settings
        require_context(self._model_dir, settings.max_model_len)
        graph = Graph(
            self._model_dir,
            provider=settings.provider,
            threads=settings.threads or 1,
            spinning=settings.spinning,
        )
        budget = int(settings.max_kv_gib * 2**30) if settings.max_kv_gib else read_available_bytes()
        logger.info("onnx KV pool: %s", plan_memory(graph.kv_shape, settings.slots + 1, settings.max_model_len, budget))
        pool = KvPool(graph.kv_shape, settings.slots + 1, settings.max_model_len)
        self._kv_bytes = pool.slots * pool.max_len * pool.shape.bytes_per_token
        graph.attach(pool)
        row_multiple = graph.ensure_row_invariance() if settings.batch_invariant and settings.precision != "fp32" else 1
        self._vocabulary_size = graph.vocabulary_size
        tokenizer = Tokenizer.load(self._model_dir, control=False)
        if tokenizer.vocabulary.size != graph.vocabulary_size:
            raise ModelUnusable(
                f"model.onnx has logits for {graph.vocabulary_size} ids, but config.json says vocab_size: "
                f"{tokenizer.vocabulary.size}; export the model again"
            )
        self._guidance = Guidance(wrap_tokenizer(tokenizer), graph.vocabulary_size, tokenizer.vocabulary.stop_ids)
        return Batch(
            graph,
            pool,
            prefill_chunk=settings.prefill_chunk,
            row_multiple=row_multiple,
            target_step_s=settings.target_step_s,
            keep_prefixes=settings.prefix_cache,
            draft_tokens=settings.ngram_speculation if settings.precision == "fp32" else 0,
        )

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """See `Engine.generate`. Raises `Overloaded` when too many wait, `ContextOverflow` when the prompt leaves no room."""
        guide = await self._guidance.start(request.constraint) if request.constraint and self._guidance else None
        sequence = self._admit(request, guide)
        outbox: _Outbox = asyncio.Queue()
        self._outboxes[sequence] = outbox
        self._send(lambda batch: batch.submit(sequence))
        try:
            while True:
                event = await outbox.get()
                if isinstance(event, ServeError):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            del self._outboxes[sequence]
            self._send(lambda batch: batch.cancel(sequence))

    def _admit(self, request: TokenRequest, guide: Guide | None) -> Sequence:
        settings = self._settings
        if self._batch is None or self._closing or self._fatal is not None:
            raise EngineDead(f"the ONNX engine is not running{': ' + self._fatal if self._fatal else ''}")
        limit = compute_answer_limit(request, settings.max_model_len, self._vocabulary_size)
        if len(self._outboxes) >= settings.slots + settings.max_waiting:
            raise Overloaded("the ONNX group's queue is full; try again later", retry_after_s=1.0)
        return Sequence(request, limit, guide)

    async def check_health(self) -> None:
        """Raise `EngineDead` when the thread ended or a step takes longer than `step_timeout_s`."""
        if self._fatal is not None or self._thread is None or not self._thread.is_alive():
            raise EngineDead(f"the ONNX engine's thread ended: {self._fatal or 'no reason recorded'}")
        began = self._step_began_s
        if began is not None and time.monotonic() - began > self._settings.step_timeout_s:
            raise EngineDead(f"an ONNX step has taken over {self._settings.step_timeout_s:g} s")

    def load(self) -> EngineLoad:
        """See `Engine.load`."""
        batch, settings = self._batch, self._settings
        if batch is None:
            return EngineLoad()
        waiting = list(batch.waiting)
        return EngineLoad(
            running=batch.active,
            waiting=len(waiting),
            waiting_tokens=sum(sequence.unread for sequence in waiting),
            kv_usage=batch.cached_tokens / (settings.slots * settings.max_model_len),
            tokens_per_second=self._throughput.rate(),
            counters=dict(
                asdict(batch.counters),
                held_tokens=batch.prefix_tokens,
                drafted_tokens=batch.payoff.drafted,
                accepted_tokens=batch.payoff.accepted,
            ),
        )

    async def close(self) -> None:
        """Fail running requests and end the thread."""
        self._closing = True
        self._wake.set()
        if self._guidance is not None:
            self._guidance.close()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, self._settings.step_timeout_s)

    def _send(self, command: Callable[[Batch], None]) -> None:
        self._inbox.append(command)
        self._wake.set()

    def _run(self, batch: Batch) -> None:
        """Run commands and steps until the engine is closed."""
        reason = "the engine was closed"
        try:
            while not self._closing:
                self._wake.clear()
                while self._inbox:
                    self._inbox.popleft()(batch)
                if batch.active or batch.waiting:
                    self._step(batch)
                else:
                    self._wake.wait()
        except BaseException as error:
            logger.exception("the ONNX engine's thread ended")
            reason = type(error).__name__
        self._fatal = reason
        self._call_loop(self._fail_all)

    def _step(self, batch: Batch) -> None:
        self._step_began_s = time.monotonic()
        try:
            events = batch.step()
        except Exception:
            # A fault inside onnxruntime leaves the session usable: running requests fail, waiting ones continue.
            logger.exception("an ONNX step failed")
            self._post([(row, GenerationFailed("the ONNX engine failed while computing")) for row in batch.drop_active()])
            return
        finally:
            self._step_began_s = None
        self._throughput.add(sum(len(event.ids) for _, event in events if isinstance(event, TokenDelta)))
        self._post(events)

    def _post(self, events: _Events) -> None:
        self._call_loop(self._deliver, events)

    def _call_loop(self, function: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has closed, and its requests with it
                self._loop.call_soon_threadsafe(function, *arguments)

    def _fail_all(self) -> None:
        """Fail every request, also those that never left the inbox."""
        for outbox in self._outboxes.values():
            outbox.put_nowait(EngineDead("the ONNX engine stopped"))

    def _deliver(self, events: _Events) -> None:
        for sequence, event in events:
            outbox = self._outboxes.get(sequence)
            if outbox is not None:
                outbox.put_nowait(event)


def require_context(model_dir: Path, max_model_len: int) -> None:
    """Raise `ModelUnusable` when the context is longer than the graph's rotary tables, with LongRoPE the original context.

    The exported graph chooses the rotary factors by the longest row of a call, so above it a row's result would depend on its
    neighbours and on how its prompt is cut.
    """
    config = json.loads((model_dir / "config.json").read_text())
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    longest = config.get("max_position_embeddings")
    if type(longest) is int and max_model_len > longest:
        raise ModelUnusable(f"max_model_len: {max_model_len} is over the model's {longest} positions; set at most {longest}")
    if "longrope" in (rope.get("rope_type"), rope.get("type")) and original and max_model_len > original:
        raise ModelUnusable(
            f"max_model_len: {max_model_len} is over the {original} tokens of the model's original context, which the ONNX group "
            f"cannot batch exactly; set at most {original} here and serve longer prompts with a vllm group"
        )
