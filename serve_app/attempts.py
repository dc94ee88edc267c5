"""The one retry loop: sends a request to its candidates until one has completed the answer.

Knows groups as generators of token events, or as encoders; reads no text, and knows no dialect and no Ray. Before the first token
any candidate may take over; after it another group continues from the prompt and the tokens so far, where that gives the same text
(`routing.continuation`).
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, TypeVar, cast

from serve_app.config import RoutingSettings
from serve_app.encoding import Encoded, EncodeRequest
from serve_app.errors import EngineError, GenerationFailed, IncompleteGeneration, NoEngine, Overloaded, ServeError
from serve_app.generation import Generation
from serve_app.metrics import IngressMetrics
from serve_app.record import AttemptRecord, RequestRecord
from serve_app.routing.continuation import Continuation, find_obstacle
from serve_app.routing.fleet import Fleet, Workload
from serve_app.routing.health import Admission, Health
from serve_app.routing.policy import find_constraint_needs
from serve_app.routing.retry_budget import RetryBudget
from serve_app.stall_watch import StallWatch
from serve_app.types import Capability, EngineInfo, Finished, Placement, TokenDelta, TokenEvent, TokenRequest

_RETRY_PAUSE_S = 0.1
"""Mean pause before a group is tried again; doubles with each round."""

_ALL_BLOCKED = "every engine group that could answer failed too often lately; try again"
_Event = TypeVar("_Event", TokenEvent, Encoded)


class Generator(Protocol):
    """The part of an engine that the gateway uses; a group of replicas looks the same."""

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate for one request; see `serve_app.engines.base`."""
        ...


class Encoder(Protocol):
    """The part of an encoder that the gateway uses; a group of replicas looks the same."""

    async def encode(self, request: EncodeRequest) -> Encoded:
        """Return the vectors of one request; see `serve_app.engines.base`."""
        ...


GroupHandle: TypeAlias = Generator | Encoder
"""A group of either kind; the model that it serves says which."""


class Job(Protocol):
    """The parts of a generation or an encoding that choose where it is sent."""

    @property
    def candidates(self) -> tuple[str, ...]:
        """Groups that may answer, best first."""
        ...

    @property
    def record(self) -> RequestRecord:
        """The request's record."""
        ...

    @property
    def deadline(self) -> float:
        """Monotonic seconds at which the client's time limit ends."""
        ...

    @property
    def work(self) -> float:
        """Estimated work, in generated tokens."""
        ...

    @property
    def affinity(self) -> str:
        """See `Placement.affinity`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """One request for embeddings; see `Job` for the fields that it shares with generations."""

    request: EncodeRequest
    candidates: tuple[str, ...]
    record: RequestRecord
    deadline: float
    work: float
    affinity: str = ""
    width: int
    """Components of each vector that the client gets."""


@dataclass(slots=True)
class _Progress:
    """How far the attempts at a generation have come."""

    next: int = 0
    """Index of the candidate to try next."""
    full: set[str] = field(default_factory=set)
    failed: dict[str, set[str]] = field(default_factory=dict)
    """Replicas that failed the generation, by group."""


def _drop_unusable_guidance(request: TokenRequest, info: EngineInfo | None) -> TokenRequest:
    """Return the request, without an optional constraint that the engine cannot follow."""
    constraint = request.constraint
    if constraint is None or not constraint.optional:
        return request
    able = info is not None and find_constraint_needs(constraint, request.sampling) <= info.capabilities
    return request if able else replace(request, constraint=None)


class Attempts:
    """Runs generations. One per gateway: breakers and the retry budget span all of its requests."""

    def __init__(
        self,
        settings: RoutingSettings,
        generators: Mapping[str, GroupHandle],
        fleet: Callable[[], Fleet],
        metrics: IngressMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know the groups by name; `fleet` returns their state now, `clock` monotonic seconds."""
        self._generators = generators
        self._fleet = fleet
        self._metrics = metrics
        self._clock = clock
        self.workload = Workload()
        self.configure(settings)

    def configure(self, settings: RoutingSettings) -> None:
        """Use other settings from now on; breakers and budgets start anew."""
        self._settings = settings
        self.health = Health(settings.breaker)
        self._budgets: dict[str, RetryBudget] = {}

    def survey(self, model: str, groups: Collection[str]) -> Fleet:
        """Return the groups of a model with the work on its way, and with the blocked ones marked."""
        now = self._clock()
        return self.health.annotate(self.workload.annotate(self._fleet().select(groups), now, model), now)

    def _find_budget(self, model: str) -> RetryBudget:
        """Return the retry budget of a model: the failures of one model's engines leave the others their retries."""
        if model not in self._budgets:
            self._budgets[model] = RetryBudget(self._settings.retry_ratio, self._settings.retry_reserve)
        return self._budgets[model]

    async def run(self, generation: Generation) -> AsyncGenerator[TokenEvent, None]:
        """Yield the answer's events, ending with `Finished`; raises `ServeError` when no attempt is left.

        A full group is not tried again. A failed replica is not tried again while its group has another one, which comes before the
        next group.
        """
        answer, progress = Continuation(generation.choice.request), _Progress()
        obstacle = "it may call tools" if generation.choice.tools else find_obstacle(generation.choice.request)
        error: ServeError | None = None
        budget = self._find_budget(generation.record.served_model)
        budget.deposit(self._clock())
        for attempt in range(1, self._settings.max_attempts + 1):
            await self._pause_before_retry(generation, progress)
            admission = self._admit(generation.candidates, progress, answer.length)
            if admission is None or (error is not None and not self._may_retry(error, admission, budget)):
                break
            request = _drop_unusable_guidance(
                answer.build_request(self._placement(generation, admission), attempt), admission.group.info
            )
            self._record_attempt(generation, attempt, admission.group.name)
            try:
                stream = self._generate(admission.group.name, request)
                async with aclosing(self._attempt_once(generation, stream, request.placement, admission)) as events:
                    async for event in events:
                        yield answer.add(event, self._clock())
                return
            except ServeError as failure:
                error = failure
                info = admission.group.info
                if info is not None and Capability.EXACT_IDS not in info.capabilities:
                    obstacle = obstacle or "that engine returns its text, and not the tokens that it drew"
                elif info is not None and answer.is_complete(info.context_length):
                    yield answer.finish(self._clock())
                    return
                if not error.retryable:
                    raise
                if answer.begun and obstacle:
                    raise type(error)(f"{error.message}; the answer could not continue elsewhere, since {obstacle}") from error
                self._record_failure(progress, admission, request.placement.replica, error)
        raise error or NoEngine(_ALL_BLOCKED, retry_after_s=5.0)

    async def encode(self, encoding: Encoding) -> Encoded:
        """Return the vectors; raises `ServeError` when no attempt is left. They are the same wherever they are computed."""
        progress, error = _Progress(), None
        needed = max(map(len, encoding.request.inputs)) - 1  # a group takes as many tokens as its context has
        budget = self._find_budget(encoding.record.served_model)
        budget.deposit(self._clock())
        for attempt in range(1, self._settings.max_attempts + 1):
            await self._pause_before_retry(encoding, progress)
            admission = self._admit(encoding.candidates, progress, needed)
            if admission is None or (error is not None and not self._may_retry(error, admission, budget)):
                break
            request = encoding.request.with_placement(self._placement(encoding, admission))
            self._record_attempt(encoding, attempt, admission.group.name)
            try:
                stream = self._encode(admission.group.name, request, encoding.width)
                async with aclosing(self._attempt_once(encoding, stream, request.placement, admission)) as results:
                    return await anext(results)
            except ServeError as failure:
                error = failure
                if not error.retryable:
                    raise
                self._record_failure(progress, admission, request.placement.replica, error)
        raise error or NoEngine(_ALL_BLOCKED, retry_after_s=5.0)

    def _generate(self, group: str, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        return cast(Generator, self._generators[group]).generate(request)

    async def _encode(self, group: str, request: EncodeRequest, width: int) -> AsyncGenerator[Encoded, None]:
        """Yield the one result of an encoder; raises `GenerationFailed` for vectors that do not belong to the request."""
        encoded = await cast(Encoder, self._generators[group]).encode(request)
        if not encoded.fits(len(request.inputs), width):
            raise GenerationFailed(f"group {group} made vectors of another shape, or with values that are not finite; try again")
        yield encoded

    def _admit(self, candidates: tuple[str, ...], progress: _Progress, length: int) -> Admission | None:
        """Find the next admitted group with room after `length` tokens, and point `progress.next` to it."""
        fleet, now = self._fleet(), self._clock()
        for offset in range(len(candidates)):
            name = candidates[(progress.next + offset) % len(candidates)]
            group = fleet.group(name)
            if name in progress.full or group is None or (group.info is not None and length >= group.info.context_length):
                continue
            admission = self.health.admit(group, progress.failed.get(name, ()), now)
            if admission is not None:
                progress.next += offset
                return admission
        return None

    def _may_retry(self, error: ServeError, admission: Admission, budget: RetryBudget) -> bool:
        """Return whether the retry budget allows one more attempt; after a full group, which did no work, it is free."""
        now = self._clock()
        if isinstance(error, Overloaded) or budget.withdraw(now):
            return True
        self.health.settle(admission, "", ok=None, now=now)
        return False

    def _placement(self, job: Job, admission: Admission) -> Placement:
        return Placement(affinity=job.affinity, prefer=admission.probe, avoid=admission.avoid)

    async def _pause_before_retry(self, job: Job, progress: _Progress) -> None:
        """Pause once every candidate has been tried; another replica of the same group needs no pause."""
        rounds = progress.next // len(job.candidates)
        if rounds:
            pause = random.uniform(0.5, 1.5) * _RETRY_PAUSE_S * 2 ** (rounds - 1)
            await asyncio.sleep(min(pause, max(0.0, job.deadline - self._clock())))

    def _record_attempt(self, job: Job, attempt: int, group: str) -> None:
        record = job.record
        record.attempts = max(record.attempts, record.earlier_attempts + attempt)
        record.group = group
        if group != job.candidates[0]:
            record.reason = "failover"

    def _record_failure(self, progress: _Progress, admission: Admission, replica: str, error: ServeError) -> None:
        """Record a failure, and point `progress.next` to the group to try next."""
        group = admission.group
        if isinstance(error, Overloaded):
            progress.full.add(group.name)
        failed = progress.failed.setdefault(group.name, set())
        if replica:
            failed.add(replica)
        untried = set(group.replica_ids) - failed - admission.avoid
        if not replica or not untried or isinstance(error, Overloaded):
            progress.next += 1

    async def _attempt_once(
        self, job: Job, stream: AsyncGenerator[_Event, None], placement: Placement, admission: Admission
    ) -> AsyncGenerator[_Event, None]:
        """Yield a group's events up to the last one, then report the outcome to breakers, workload and metrics."""
        name = admission.group.name
        sent = self.workload.send(name, job.work, self._clock())
        left_s = job.deadline - self._clock()
        watch = StallWatch(
            self._settings, name, asyncio.get_running_loop().time() + left_s, lambda: self._is_silent(name, placement)
        )
        ok: bool | None = None
        outcome = "cancelled"
        attempt = AttemptRecord(group=name, at_s=self._clock() - job.record.arrived_s)
        job.record.timeline.append(attempt)
        try:
            with job.record.cancellation.stopping(watch.stop):
                while (event := await watch.next(stream)) is not None:
                    ok = True  # the engine works, even if the client leaves
                    ended = isinstance(event, Finished | Encoded)
                    attempt.tokens += len(event.ids) if isinstance(event, TokenDelta) else 0
                    outcome = "ok" if ended else outcome  # now, since the consumer may never resume this generator
                    yield event
                    if ended:
                        return
            raise IncompleteGeneration("the engine's stream ended before the answer did; try again")
        except ServeError as error:
            outcome = error.code
            ok = False if isinstance(error, EngineError | NoEngine) else None
            raise
        finally:
            watch.close()
            await stream.aclose()
            self.workload.end(sent)
            self.health.settle(admission, placement.replica, ok=ok, now=self._clock())
            self._metrics.count_attempt(name, outcome)
            attempt.outcome, attempt.replica = outcome, placement.replica
            attempt.seconds = self._clock() - job.record.arrived_s - attempt.at_s

    def _is_silent(self, name: str, placement: Placement) -> bool:
        group = self._fleet().group(name)
        return group is not None and placement.replica in group.silent
