"""The encoder engine: one thread owns the graph and computes batches; the event loop adds requests to a queue and awaits them.

onnxruntime releases the GIL while it computes, so the loop stays responsive. The queue belongs to whoever holds the lock, which
nobody holds while computing.
"""

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from serve_app.encoding import Encoded, EncodeRequest, Vectors
from serve_app.engine_config import OnnxEncoderSettings
from serve_app.engines.encoder.graph import EncoderGraph, finish
from serve_app.engines.encoder.queue import InputQueue, Waiting
from serve_app.engines.throughput import Throughput
from serve_app.errors import ContextOverflow, EngineDead, EngineError, InvalidRequest, ModelUnusable, Overloaded, ServeError
from serve_app.files.encoder_folder import EncoderFolder
from serve_app.types import EngineInfo, EngineKind, EngineLoad, Timings

logger = logging.getLogger(__name__)

_COUNTERS = ("steps", "prefill_s", "prefill_tokens", "admitted", "queue_s")


@dataclass(slots=True, eq=False)
class _Job:
    """One request under way."""

    request: EncodeRequest
    done: asyncio.Future[Encoded]
    vectors: Vectors
    left: int
    """Inputs that are not computed yet."""
    came_s: float = field(default_factory=time.monotonic)
    began_s: float | None = None
    """When its first batch began."""


class OnnxEncoder:
    """Dynamic batching by length over an encoder's graph; see `serve_app.engines.base` for the contract."""

    def __init__(self, settings: OnnxEncoderSettings, model_dir: Path) -> None:
        """Keep the settings; `model_dir` holds the graph and the model's small files."""
        self._settings = settings
        self._model_dir = model_dir
        self._about: EncoderFolder | None = None
        self._graph: EncoderGraph | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._queue = InputQueue(settings.max_batch_tokens)
        self._changed = threading.Condition()
        self._jobs: set[_Job] = set()
        self._running = 0
        self._closing = False
        self._fatal: str | None = None
        self._step_began_s: float | None = None
        self._throughput = Throughput()
        self._counters = dict.fromkeys(_COUNTERS, 0.0)

    @property
    def info(self) -> EngineInfo:
        """See `Runtime.info`."""
        longest = self._settings.max_model_len if self._about is None else min(self._settings.max_model_len, self._about.max_tokens)
        return EngineInfo(
            kind=EngineKind.ONNX_ENCODER,
            context_length=longest,
            capabilities=frozenset(),
            max_concurrency=max(1, self._settings.max_batch_tokens // longest),
            precision="fp32",
        )

    async def start(self) -> None:
        """Load the graph and start the thread."""
        self._loop = asyncio.get_running_loop()
        self._about, self._graph = await asyncio.to_thread(self._load)
        self._thread = threading.Thread(target=self._run, args=(self._graph,), name="onnx-encoder", daemon=True)
        self._thread.start()

    def _load(self) -> tuple[EncoderFolder, EncoderGraph]:
        settings, about = self._settings, EncoderFolder.read(self._model_dir)
        pooling = settings.pooling or about.pooling
        if pooling not in ("mean", "cls"):
            raise ModelUnusable(f"1_Pooling/config.json asks for the pooling {pooling[:60]}; set pooling to mean or cls")
        graph = EncoderGraph(self._model_dir, about, pooling=pooling, provider=settings.provider, threads=settings.threads or 1)
        return about, graph

    async def encode(self, request: EncodeRequest) -> Encoded:
        """See `Encoder.encode`. Raises `Overloaded` when too many inputs wait, `ContextOverflow` for one that is too long."""
        about = self._require_running()
        self._check(request, about)
        if not request.inputs:
            return Encoded(vectors=np.empty((0, request.dimensions or about.dimensions), np.float32))
        assert self._loop is not None
        vectors = np.empty((len(request.inputs), about.dimensions), np.float32)
        job = _Job(request, self._loop.create_future(), vectors, len(request.inputs))
        with self._changed:
            self._require_running()
            if len(self._queue) and len(self._queue) + len(request.inputs) > self._settings.max_waiting:
                raise Overloaded("the encoder group's queue is full; try again later", retry_after_s=1.0)
            self._jobs.add(job)
            self._queue.add(job, list(map(len, request.inputs)))
            self._changed.notify()
        try:
            return await job.done
        finally:
            self._forget(job)

    def _require_running(self) -> EncoderFolder:
        if self._about is None or self._closing or self._fatal is not None:
            raise EngineDead(f"the encoder is not running{': ' + self._fatal if self._fatal else ''}")
        return self._about

    def _check(self, request: EncodeRequest, about: EncoderFolder) -> None:
        longest = self.info.context_length
        if request.dimensions is not None and not 0 < request.dimensions <= about.dimensions:
            raise InvalidRequest(f"dimensions must be between 1 and {about.dimensions}", param="dimensions")
        for at, ids in enumerate(request.inputs):
            if len(ids) > longest:
                raise ContextOverflow(f"input {at} has {len(ids)} tokens, and this group takes at most {longest}", param="input")
            if max(ids) >= about.vocabulary:
                raise InvalidRequest(f"input {at} has the token id {max(ids)}; ids are below {about.vocabulary}", param="input")

    async def check_health(self) -> None:
        """Raise `EngineDead` when the thread ended or a batch takes longer than `step_timeout_s`."""
        if self._fatal is not None or self._thread is None or not self._thread.is_alive():
            raise EngineDead(f"the encoder's thread ended: {self._fatal or 'no reason recorded'}")
        began = self._step_began_s
        if began is not None and time.monotonic() - began > self._settings.step_timeout_s:
            raise EngineDead(f"a batch of the encoder has taken over {self._settings.step_timeout_s:g} s")

    def load(self) -> EngineLoad:
        """See `Runtime.load`; `running` and `waiting` are inputs."""
        with self._changed:
            return EngineLoad(
                running=self._running,
                waiting=len(self._queue),
                waiting_tokens=self._queue.tokens,
                tokens_per_second=self._throughput.rate(),
                counters=dict(self._counters),
            )

    async def close(self) -> None:
        """Fail the requests under way and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, self._settings.step_timeout_s)

    def _forget(self, job: _Job) -> None:
        """Drop the inputs of a request that ended or was cancelled."""
        with self._changed:
            self._jobs.discard(job)
            if job.left:
                self._queue.drop(job)

    def _run(self, graph: EncoderGraph) -> None:
        """Compute batches until the engine is closed."""
        reason = "the encoder was closed"
        try:
            while (batch := self._await_batch()) is not None:
                self._step(graph, batch)
        except BaseException as error:  # of any kind: the requests that wait must end
            logger.exception("the encoder's thread ended")
            reason = type(error).__name__
        with self._changed:
            self._fatal = reason
            jobs = list(self._jobs)
        for job in jobs:
            self._settle(job, EngineDead("the encoder stopped"))

    def _await_batch(self) -> list[tuple[_Job, int]] | None:
        """Return the next inputs to compute; None when the engine is being closed."""
        with self._changed:
            self._running = 0
            self._changed.wait_for(lambda: self._closing or len(self._queue))
            if self._closing:
                return None
            batch = [_unpack(each) for each in self._queue.take()]
            self._running = len(batch)
        now = time.monotonic()
        for job, _ in batch:
            if job.began_s is None:
                job.began_s = now
                self._counters["admitted"] += 1
                self._counters["queue_s"] += now - job.came_s
        return batch

    def _step(self, graph: EncoderGraph, batch: list[tuple[_Job, int]]) -> None:
        """Compute a batch; a fault within onnxruntime fails its requests and leaves the session usable."""
        began = self._step_began_s = time.monotonic()
        inputs = [job.request.inputs[at] for job, at in batch]
        try:
            vectors = graph.run(inputs)
        except Exception:  # onnxruntime's exceptions have no class in common
            logger.exception("a batch of the encoder failed")
            for job in {id(job): job for job, _ in batch}.values():
                self._settle(job, EngineError("the encoder failed while computing"))
            return
        finally:
            self._step_began_s = None
        tokens = sum(map(len, inputs))
        self._throughput.add(tokens)
        self._counters["steps"] += 1
        self._counters["prefill_s"] += time.monotonic() - began
        self._counters["prefill_tokens"] += tokens
        for (job, at), vector in zip(batch, vectors, strict=True):
            job.vectors[at] = vector
            job.left -= 1
            if not job.left:
                self._settle(job, self._finish(job))

    def _finish(self, job: _Job) -> Encoded | EngineError:
        """Return the answer to a request all of whose inputs are computed."""
        request, now, about = job.request, time.monotonic(), self._about
        assert about is not None
        if not np.isfinite(job.vectors).all():
            return EngineError("the encoder computed a vector that is not finite")
        wanted = (request.normalized, self._settings.normalize, about.normalized)
        vectors = finish(job.vectors, dimensions=request.dimensions, normalized=next(each for each in wanted if each is not None))
        began = job.began_s or now
        return Encoded(vectors=vectors, timings=Timings(queue_s=began - job.came_s, prefill_s=now - began))

    def _settle(self, job: _Job, result: Encoded | ServeError) -> None:
        """Deliver a request's answer or error from the thread to the event loop."""

        def deliver() -> None:
            if job.done.done():
                return
            if isinstance(result, ServeError):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)

        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has closed, and its requests with it
                self._loop.call_soon_threadsafe(deliver)


def _unpack(waiting: Waiting) -> tuple[_Job, int]:
    assert isinstance(waiting.owner, _Job)
    return waiting.owner, waiting.index
