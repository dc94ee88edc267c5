"""One replica of an engine group: loads the engine, warms it up, then serves token events, or vectors if it is an encoder.

A plain class; `deployments.groups` makes it a Serve deployment. Construction includes loading, so that Serve routes only to
replicas that can answer; meanwhile the replica reports its phase to every ingress.
"""

import asyncio
import gc
import logging
import os
import platform
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import cast

from serve_app.config import ModelSettings
from serve_app.encoding import Encoded, EncodeRequest
from serve_app.engine_config import ENCODERS, EngineSettings
from serve_app.engines.base import Encoder, Engine
from serve_app.engines.registry import build_engine, require_installed
from serve_app.engines.throughput import DrainRate
from serve_app.errors import EngineDead, EngineError, ServeError, explain
from serve_app.files.cache import Progress
from serve_app.memory import measure_tree_bytes
from serve_app.models.export import derive, needs_checkpoint
from serve_app.models.locate import locate
from serve_app.replica_metrics import MetricSink, ReplicaMetrics
from serve_app.reports import Mishap, PhaseChange, ReplicaAction, ReplicaProcess, ReplicaReport
from serve_app.types import (
    Capability,
    Constraint,
    EngineLoad,
    Finished,
    FinishReason,
    OneOf,
    Phase,
    Sampling,
    TokenDelta,
    TokenEvent,
    TokenRequest,
    Usage,
)

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
_MEASURE_EVERY_S = 15.0
"""Seconds between two measurements of memory. One takes some milliseconds per gigabyte."""
_SHOWN_PHASES = 20
_FLUSH_AFTER_S = 0.02
_SERVING = (Phase.READY, Phase.DRAINING)
"""Phases in which requests are computed: some may still be on their way to a replica that drains."""
_WARM_PROMPT = (0,)
_WARM_CONSTRAINT = OneOf(("yes", "no"))
_RETRY_S = 10.0
"""Seconds between the first two attempts to start the engine; doubled each time."""
_LONGEST_PAUSE_S = 60.0

Report = Callable[[ReplicaReport], Awaitable[bool]]
"""Sends a report to every ingress and returns whether it arrived; must not raise."""
Batch = tuple[TokenEvent | ServeError, ...]
"""One message through Ray. A `ServeError` comes last as a value: Serve would log a raised client error as a fault of ours."""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """The model that a group serves."""

    name: str
    settings: ModelSettings


class EngineReplica:
    """Runs an engine, reports its phase, and streams its events in batches."""

    async def __init__(  # type: ignore[misc]  # Serve awaits asynchronous constructors
        self, group: str, settings: EngineSettings, model: NamedModel, identity: Callable[[], tuple[str, Report]]
    ) -> None:
        """Load and warm up the engine, and repeat until that succeeds; meanwhile the reports contain the reason of the failure.

        Exceptions would make Serve give up: after three failures per configured replica it starts no more replicas of this version,
        even if the cause is gone. `identity` is called in the replica's process and returns its id and its function to send
        reports.
        """
        self._group = group
        self._replica_id, self._send = identity()
        self._phase, self._reason = Phase.STARTING, ""
        self._timeline = deque([PhaseChange(phase=Phase.STARTING, at=time.time())], maxlen=_SHOWN_PHASES)
        self._process = ReplicaProcess(node=platform.node(), pid=os.getpid())
        self._mishap: Mishap | None = None
        self._is_draining = self._restarts = False
        self._engine: Engine | Encoder | None = None
        self._drain = DrainRate()
        self._metrics = ReplicaMetrics(model.name, self._build_sink(model.name))
        self._phase_changed = asyncio.Event()
        self._tasks = [asyncio.create_task(self._report_forever()), asyncio.create_task(self._measure_forever())]
        began, pause_s = time.monotonic(), _RETRY_S
        while not await self._try_to_load(settings, model):
            gc.collect()  # before the next attempt needs the memory
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        logger.info("group %s ready after %.1f s", group, time.monotonic() - began)

    def _build_sink(self, model: str) -> MetricSink | None:
        """Return another receiver of the metrics of the served model's requests; None, unless a subclass has one."""
        return None

    async def _try_to_load(self, settings: EngineSettings, model: NamedModel) -> bool:
        try:
            await self._load(settings, model)
        except Exception as error:
            logger.exception("group %s could not start", self._group)
            self._enter(Phase.FAILED, explain(error))
            return False
        return True

    async def _load(self, settings: EngineSettings, model: NamedModel) -> None:
        self._enter(Phase.LOADING)
        require_installed(self._group, settings)
        model_dir = await asyncio.to_thread(locate, model.settings, weights=needs_checkpoint(settings))
        # Off the loop: an export takes minutes and importing a runtime 10 s, and the phase must be reported meanwhile.
        folder = await asyncio.to_thread(derive, model_dir, settings, self._build_progress_reporter())
        self._enter(Phase.LOADING)
        engine = await asyncio.to_thread(build_engine, settings, folder)
        try:
            await engine.start()
            self._enter(Phase.WARMING)
            await _warm_up(engine, None)
            if Capability.STRUCTURED in engine.info.capabilities:
                # vLLM and llama.cpp read the vocabulary at their first constraint: 200,000 tokens take seconds.
                await _warm_up(engine, _WARM_CONSTRAINT)
        except BaseException:
            await engine.close()
            raise
        self._engine = engine
        self._enter(Phase.READY)

    def _build_progress_reporter(self) -> Progress:
        """Return a function, for another thread, that reports progress as the phase's reason, at most once a second."""
        loop = asyncio.get_running_loop()
        last_work, reported_s = "", 0.0

        def report_progress(work: str, fraction: float) -> None:
            nonlocal last_work, reported_s
            now = time.monotonic()
            if work == last_work and now < reported_s + REPORT_EVERY_S:
                return
            last_work, reported_s = work, now
            # A replica that is being closed has no loop any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._enter, Phase.LOADING, f"{work}: {100 * fraction:.0f} %" if fraction else work)

        return report_progress

    def _enter(self, phase: Phase, reason: str = "") -> None:
        if phase is self._phase:
            self._timeline[-1] = replace(self._timeline[-1], reason=reason)
        else:
            self._timeline.append(PhaseChange(phase=phase, at=time.time(), reason=reason))
        if phase is Phase.FAILED:
            self._mishap = Mishap(at=time.time(), message=reason)
        self._phase, self._reason = phase, reason
        self._phase_changed.set()

    def report(self) -> ReplicaReport:
        """Return the report for the ingresses."""
        engine = self._engine
        return ReplicaReport(
            group=self._group,
            replica_id=self._replica_id,
            phase=self._phase,
            reason=self._reason,
            info=engine.info if engine else None,
            load=self._add_rates(engine.load()) if engine else EngineLoad(),
            requests=self._metrics.counts(),
            process=self._process,
            timeline=tuple(self._timeline),
            mishap=self._mishap,
        )

    def _add_rates(self, load: EngineLoad) -> EngineLoad:
        return replace(load, drain_rate=self._drain.rate(), stream_rate=self._drain.stream_rate())

    async def _report_forever(self) -> None:
        """Report every second, and at once when the phase changes."""
        while True:
            self._phase_changed.clear()
            await self._send(self.report())
            # Not wait_for: Python 3.11's loses a cancellation that arrives with the event, and `close` would hang.
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_EVERY_S):
                    await self._phase_changed.wait()

    async def _measure_forever(self) -> None:
        while True:
            self._process = replace(self._process, memory_bytes=await asyncio.to_thread(measure_tree_bytes, os.getpid()))
            await asyncio.sleep(_MEASURE_EVERY_S)

    async def generate(self, request: TokenRequest) -> AsyncGenerator[Batch, None]:
        """Yield an empty batch on acceptance, then batches of events, the last ending with `Finished`.

        The first token is sent at once; later tokens are collected for at most 20 ms, since each batch costs a message. A failure
        is the last item, after all events before it.
        """
        yield ()
        if self._engine is None or self._phase not in _SERVING:
            yield (EngineDead(f"a replica of group {self._group} is {self._phase}"),)
            return
        stream = cast(Engine, self._engine).generate(request)
        self._drain.enter()
        meter = self._metrics.start_meter(request)
        try:
            async with aclosing(coalesce(stream, _FLUSH_AFTER_S)) as batches:
                async for batch in batches:
                    self._drain.add(sum(len(event.ids) for event in batch if isinstance(event, TokenDelta)))
                    meter.push(batch)
                    yield batch
        except ServeError as error:
            self._note_failure(error)
            yield (error,)
        finally:
            self._drain.leave()
            meter.end()
            await stream.aclose()

    async def encode(self, request: EncodeRequest) -> AsyncGenerator[tuple[Encoded | ServeError, ...], None]:
        """Yield an empty batch on acceptance, then one with the vectors or the failure."""
        yield ()
        if self._engine is None or self._phase not in _SERVING:
            yield (EngineDead(f"a replica of group {self._group} is {self._phase}"),)
            return
        self._drain.enter()
        meter = self._metrics.start_meter(request)
        try:
            encoded = await cast(Encoder, self._engine).encode(request)
            self._drain.add(request.tokens)
            usage = Usage(prompt_tokens=request.tokens, completion_tokens=0)
            meter.push((Finished(reason=FinishReason.STOP, usage=usage, timings=encoded.timings),))
            yield (encoded,)
        except ServeError as error:
            self._note_failure(error)
            yield (error,)
        finally:
            self._drain.leave()
            meter.end()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the statistics for `deployments.autoscaling`; Serve calls this."""
        load = self.load()
        return {
            "running": load.running,
            "waiting": load.waiting,
            "waiting_tokens": load.waiting_tokens,
            "tokens_per_second": load.tokens_per_second,
        }

    def load(self) -> EngineLoad:
        """Return the engine's current load."""
        return self.report().load

    async def check_health(self) -> None:
        """Raise `EngineDead` when the engine died or hangs; Serve then replaces this replica.

        Serve acts on the third failure. The first one is reported to the ingresses, so that requests go elsewhere meanwhile.
        """
        if self._engine is None:
            return
        if self._restarts and not self._drain.running:
            raise EngineDead(f"an operator restarts this replica of group {self._group}")
        try:
            await self._engine.check_health()
        except ServeError as error:
            self._enter(Phase.FAILED, error.message)
            raise
        if self._phase is Phase.FAILED:
            self._enter(Phase.DRAINING if self._is_draining else Phase.READY)

    async def act(self, action: ReplicaAction, replica: str | None = None) -> str:
        """Do what an operator asks of `replica`, or of every replica; return this replica's id, empty where it is not meant.

        A replica that does not serve yet, or failed, has nothing to drain and is not meant by that.
        """
        if replica not in (None, self._replica_id) or self._phase not in _SERVING:
            return ""
        if self._restarts:
            return self._replica_id  # it ends soon, whatever is asked
        self._is_draining = action is not ReplicaAction.RESUME
        self._restarts = action is ReplicaAction.RESTART
        self._enter(Phase.DRAINING if self._is_draining else Phase.READY, "it restarts when it is idle" if self._restarts else "")
        return self._replica_id

    def _note_failure(self, error: ServeError) -> None:
        if isinstance(error, EngineError):
            self._mishap = Mishap(at=time.time(), message=error.message)

    async def close(self) -> None:
        """Release the engine."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._engine is not None:
            await self._engine.close()


async def _warm_up(engine: Engine | Encoder, constraint: Constraint | None) -> None:
    """Generate one token, or encode one; raises `EngineDead` when nothing comes."""
    if engine.info.kind in ENCODERS:
        await cast(Encoder, engine).encode(EncodeRequest(request_id="warm-up", inputs=(_WARM_PROMPT,)))
        return
    sampling = Sampling(temperature=0.0, max_tokens=1)
    request = TokenRequest(request_id="warm-up", prompt=_WARM_PROMPT, sampling=sampling, constraint=constraint)
    events = [event async for event in cast(Engine, engine).generate(request)]
    if not events or not isinstance(events[-1], Finished):
        raise EngineDead("the engine loaded but generated nothing")


async def coalesce(stream: AsyncGenerator[TokenEvent, None], wait_s: float) -> AsyncGenerator[tuple[TokenEvent, ...], None]:
    """Yield the stream's events in batches, neighbouring deltas merged.

    The first event is yielded at once. A later batch contains the events that came while the previous one was sent, or within
    `wait_s`.
    """
    buffer: list[TokenEvent] = []
    arrived = asyncio.Event()
    failure: list[BaseException] = []
    ended = False

    async def pump() -> None:
        nonlocal ended
        try:
            async for event in stream:
                buffer.append(event)
                arrived.set()
        except Exception as error:
            failure.append(error)
        finally:
            ended = True
            arrived.set()

    task = asyncio.create_task(pump())
    sent_s = 0.0
    try:
        while not ended or buffer:
            await arrived.wait()
            pause = sent_s + wait_s - time.monotonic()
            if pause > 0 and not ended:
                await asyncio.sleep(pause)
            arrived.clear()
            batch, buffer[:] = merge(buffer), []
            if batch:
                sent_s = time.monotonic()
                yield batch
            if ended:
                arrived.set()
        if failure:
            raise failure[0]
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def merge(events: list[TokenEvent]) -> tuple[TokenEvent, ...]:
    """Join neighbouring `TokenDelta`s without changing the meaning."""
    merged: list[TokenEvent] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, TokenDelta) and isinstance(last, TokenDelta):
            merged[-1] = TokenDelta(last.ids + event.ids, last.logprobs + event.logprobs)
        else:
            merged.append(event)
    return tuple(merged)
