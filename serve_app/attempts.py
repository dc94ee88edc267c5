"""The one retry loop: sends a request to its candidates until one has answered it whole.

Knows groups as things that generate token events; reads nothing of the text and knows no dialect and no Ray. Before the first
token any candidate may take over; after it another group continues from the prompt and the tokens so far, where that gives the
same text (`routing.continuation`).
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from serve_app.config import RoutingSettings
from serve_app.errors import EngineError, IncompleteGeneration, NoEngine, Overloaded, ServeError
from serve_app.generation import Generation
from serve_app.metrics import IngressMetrics
from serve_app.routing.continuation import Continuation, find_obstacle
from serve_app.routing.fleet import Fleet, Workload
from serve_app.routing.health import Admission, Health
from serve_app.routing.policy import find_constraint_needs
from serve_app.routing.retry_budget import RetryBudget
from serve_app.stall_watch import StallWatch
from serve_app.types import Capability, EngineInfo, Finished, Placement, TokenEvent, TokenRequest

_RETRY_PAUSE_S = 0.1
"""Mean pause before a group is asked again; doubles with each round."""


class Generator(Protocol):
    """The part of an engine that the gateway uses; a group of replicas looks the same."""

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate for one request; see `serve_app.engines.base`."""
        ...


@dataclass(slots=True)
class _Progress:
    """How far the attempts at a generation have come."""

    next: int = 0
    """Index of the candidate to try next."""
    full: set[str] = field(default_factory=set)
    failed: dict[str, set[str]] = field(default_factory=dict)
    """Replicas that failed it, by group."""


def _drop_unusable_guidance(request: TokenRequest, info: EngineInfo | None) -> TokenRequest:
    """Return the request without an optional constraint that the engine could not follow."""
    constraint = request.constraint
    if constraint is None or not constraint.optional:
        return request
    able = info is not None and find_constraint_needs(constraint, request.sampling) <= info.capabilities
    return request if able else replace(request, constraint=None)


class Attempts:
    """Runs generations. One per gateway: breakers and the retry budget are about all its requests."""

    def __init__(
        self,
        settings: RoutingSettings,
        generators: Mapping[str, Generator],
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
        """Use other settings from now on; breakers and budget start anew."""
        self._settings = settings
        self.health = Health(settings.breaker)
        self._budget = RetryBudget(settings.retry_ratio, settings.retry_reserve)

    def survey(self) -> Fleet:
        """Return the fleet with all that is known here: work on its way, and who is left alone."""
        now = self._clock()
        return self.health.annotate(self.workload.annotate(self._fleet(), now), now)

    async def run(self, generation: Generation) -> AsyncGenerator[TokenEvent, None]:
        """Yield the answer's events, ending with `Finished`; raises `ServeError` when no attempt is left.

        A group that is full is not asked again. A replica that failed is not asked again as long as its group has another, which
        then comes before the next group.
        """
        answer, progress = Continuation(generation.choice.request), _Progress()
        fixed = "it may call tools" if generation.choice.tools else find_obstacle(generation.choice.request)
        error: ServeError | None = None
        self._budget.deposit(self._clock())
        for attempt in range(1, self._settings.max_attempts + 1):
            await self._pause(generation, progress)
            admission = self._admit(generation.candidates, progress, answer.length)
            if admission is None or (error is not None and not self._pays(error, admission)):
                break
            request = _drop_unusable_guidance(
                answer.build_request(self._placement(generation, admission), attempt), admission.group.info
            )
            self._record_attempt(generation, attempt, admission.group.name)
            try:
                async with aclosing(self._once(generation, request, admission)) as events:
                    async for event in events:
                        yield answer.add(event, self._clock())
                return
            except ServeError as failure:
                error = failure
                info = admission.group.info
                if info is not None and Capability.EXACT_IDS not in info.capabilities:
                    fixed = fixed or "that engine tells its text, and not the tokens that it drew"
                elif info is not None and answer.is_complete(info.context_length):
                    yield answer.finish(self._clock())
                    return
                if not error.retryable:
                    raise
                if answer.begun and fixed:
                    raise type(error)(f"{error.message}; the answer could not go on elsewhere, since {fixed}") from error
                self._record_failure(progress, admission, request.placement.replica, error)
        raise error or NoEngine("every engine group that could answer failed too often lately; try again", retry_after_s=5.0)

    def _admit(self, candidates: tuple[str, ...], progress: _Progress, length: int) -> Admission | None:
        """Find the next group that may be asked and has room after `length` tokens; `progress.next` then points to it."""
        fleet, now = self._fleet(), self._clock()
        for turn in range(len(candidates)):
            name = candidates[(progress.next + turn) % len(candidates)]
            group = fleet.group(name)
            if name in progress.full or group is None or (group.info is not None and length >= group.info.context_length):
                continue
            admission = self.health.admit(group, progress.failed.get(name, ()), now)
            if admission is not None:
                progress.next += turn
                return admission
        return None

    def _pays(self, error: ServeError, admission: Admission) -> bool:
        """Whether the retry budget has one more; a group that was full had no work from it, so the next one is free."""
        now = self._clock()
        if isinstance(error, Overloaded) or self._budget.withdraw(now):
            return True
        self.health.settle(admission, "", ok=None, now=now)
        return False

    def _placement(self, generation: Generation, admission: Admission) -> Placement:
        return Placement(affinity=generation.affinity, prefer=admission.probe, avoid=admission.avoid)

    async def _pause(self, generation: Generation, progress: _Progress) -> None:
        """Wait before a group is asked again; another replica of it counts as another."""
        rounds = progress.next // len(generation.candidates)
        if rounds:
            pause = random.uniform(0.5, 1.5) * _RETRY_PAUSE_S * 2 ** (rounds - 1)
            await asyncio.sleep(min(pause, max(0.0, generation.deadline - self._clock())))

    def _record_attempt(self, generation: Generation, attempt: int, group: str) -> None:
        record = generation.record
        record.attempts = max(record.attempts, attempt)
        record.group = group
        if group != generation.candidates[0]:
            record.reason = "failover"

    def _record_failure(self, progress: _Progress, admission: Admission, replica: str, error: ServeError) -> None:
        """Remember a failure and point to whom to ask next."""
        group = admission.group
        if isinstance(error, Overloaded):
            progress.full.add(group.name)
        failed = progress.failed.setdefault(group.name, set())
        if replica:
            failed.add(replica)
        others = set(group.replica_ids) - failed - admission.avoid
        if not replica or not others or isinstance(error, Overloaded):
            progress.next += 1

    async def _once(self, generation: Generation, request: TokenRequest, admission: Admission) -> AsyncGenerator[TokenEvent, None]:
        """Yield one engine's events up to `Finished`, and settle with breakers and workload what came of it."""
        name, placement = admission.group.name, request.placement
        sent = self.workload.send(name, generation.work, self._clock())
        stream = self._generators[name].generate(request)
        left_s = generation.deadline - self._clock()
        watch = StallWatch(
            self._settings, name, asyncio.get_running_loop().time() + left_s, lambda: self._is_silent(name, placement)
        )
        ok: bool | None = None
        outcome = "cancelled"
        try:
            while (event := await watch.next(stream)) is not None:
                ok = True  # it works, whatever becomes of the client
                ended = isinstance(event, Finished)
                outcome = "ok" if ended else outcome  # now, since nobody may come back for more
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

    def _is_silent(self, name: str, placement: Placement) -> bool:
        group = self._fleet().group(name)
        return group is not None and placement.replica in group.silent
