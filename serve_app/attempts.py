"""The one retry loop: sends a request to its candidates until one has answered it whole.

Knows groups as things that generate token events, and nothing of text, dialects or Ray. Before the first token any candidate may
take over; after it the answer goes on elsewhere from prompt and tokens so far, where that gives the same text
(`routing.continuation`).
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.config import RoutingSettings
from serve_app.errors import (
    DeadlineExceeded,
    EngineDead,
    EngineError,
    IncompleteGeneration,
    NoEngine,
    Overloaded,
    ServeError,
)
from serve_app.metrics import Traffic
from serve_app.routing.continuation import Continuation, obstacle
from serve_app.routing.fleet import Fleet, Workload
from serve_app.routing.health import Admission, Health
from serve_app.routing.policy import Candidate
from serve_app.routing.retry_budget import RetryBudget
from serve_app.types import Finished, Placement, Task, TokenEvent, TokenRequest

_RETRY_PAUSE_S = 0.1
"""Mean pause before a group is asked again; doubles with each round."""
_LOOK_EVERY_S = 1.0
"""How often it is asked whether the replica still reports, once an event has been awaited for as long as reports may take."""


class Generator(Protocol):
    """The part of an engine that the gateway uses; a group of replicas looks the same."""

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate for one request; see `serve_app.engines.base`."""
        ...


@dataclass(slots=True, kw_only=True)
class Telling:
    """What every answer tells about its way; filled in on the way, complete with the first event."""

    request_id: str
    task: Task | None = None
    engine: str | None = None
    """The group that answers."""
    reason: str | None = None
    """Why that group; see `Policy.choose`. `failover` when an earlier candidate failed."""
    attempts: int = 0
    invalid_calls: tuple[str, ...] = ()
    """Tools called with arguments that their schema does not allow; complete with the last event."""
    weighed: tuple[Candidate, ...] = ()
    """The groups as the policy saw them."""
    debug: bool = False
    """Whether the client wants to see them."""


@dataclass(slots=True, kw_only=True)
class Order:
    """One answer to be had."""

    request: TokenRequest
    candidates: tuple[str, ...]
    """Groups that may answer, best first."""
    telling: Telling
    deadline: float
    """Monotonic seconds at which the client's time is over."""
    tokens: float = 0.0
    """Its estimated work, in generated tokens."""
    affinity: str = ""
    tools: bool = False
    """Whether the answer may call tools."""


@dataclass(slots=True)
class _Trail:
    """Where an order has been."""

    at: int = 0
    """Index of the candidate to ask next."""
    asked: int = 0
    full: set[str] = field(default_factory=set)
    failed: dict[str, set[str]] = field(default_factory=dict)
    """Replicas that failed it, by group."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """How long an event may be awaited."""

    deadline: float
    stall_s: float
    """Seconds without any."""


class Attempts:
    """Carries out orders. One per gateway: breakers and the retry budget are about all its traffic."""

    def __init__(
        self,
        settings: RoutingSettings,
        generators: Mapping[str, Generator],
        fleet: Callable[[], Fleet],
        traffic: Traffic,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know the groups by name; `fleet` tells their state now, `clock` is its monotonic one."""
        self._generators = generators
        self._fleet = fleet
        self._traffic = traffic
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

    async def run(self, order: Order) -> AsyncGenerator[TokenEvent, None]:
        """Yield the answer's events, ending with `Finished`; raises `ServeError` when no attempt is left.

        A group that is full is not asked again. A replica that failed is not asked again as long as its group has another, which
        then comes before the next group.
        """
        answer, trail = Continuation(order.request), _Trail()
        fixed = "it may call tools" if order.tools else obstacle(order.request)
        error: ServeError | None = None
        self._budget.deposit(self._clock())
        for attempt in range(1, self._settings.max_attempts + 1):
            await self._pause(order, trail)
            admission = self._admit(order.candidates, trail, answer.length)
            if admission is None or (error is not None and not self._pays(error, admission)):
                break
            request = answer.rest(self._placement(order, admission), attempt)
            self._tell(order, attempt, admission.group.name)
            try:
                async with aclosing(self._once(order, request, admission)) as events:
                    async for event in events:
                        yield answer.take(event, self._clock())
                return
            except ServeError as failure:
                error = failure
                info = admission.group.info
                if info is not None and answer.complete(info.context_length):
                    yield answer.full(self._clock())
                    return
                if not error.retryable:
                    raise
                if answer.begun and fixed:
                    raise type(error)(f"{error.message}; the answer could not go on elsewhere, since {fixed}") from error
                self._note(trail, admission, request.placement.replica, error)
        raise error or NoEngine("every engine group that could answer failed too often lately; try again", retry_after_s=5.0)

    def _admit(self, candidates: tuple[str, ...], trail: _Trail, length: int) -> Admission | None:
        """Find the next group that may be asked and has room after `length` tokens; `trail.at` then points to it."""
        fleet, now = self._fleet(), self._clock()
        for turn in range(len(candidates)):
            name = candidates[(trail.at + turn) % len(candidates)]
            group = fleet.group(name)
            if name in trail.full or group is None or (group.info is not None and length >= group.info.context_length):
                continue
            admission = self.health.admit(group, trail.failed.get(name, ()), now)
            if admission is not None:
                trail.at += turn
                return admission
        return None

    def _pays(self, error: ServeError, admission: Admission) -> bool:
        """Whether the retry budget has one more; a group that was full had no work from it, so the next one is free."""
        now = self._clock()
        if isinstance(error, Overloaded) or self._budget.withdraw(now):
            return True
        self.health.settle(admission, "", ok=None, now=now)
        return False

    def _placement(self, order: Order, admission: Admission) -> Placement:
        return Placement(affinity=order.affinity, prefer=admission.probe, avoid=admission.avoid)

    async def _pause(self, order: Order, trail: _Trail) -> None:
        """Wait before a group is asked again; another replica of it counts as another."""
        rounds = trail.at // len(order.candidates)
        if rounds:
            pause = random.uniform(0.5, 1.5) * _RETRY_PAUSE_S * 2 ** (rounds - 1)
            await asyncio.sleep(min(pause, max(0.0, order.deadline - self._clock())))

    def _tell(self, order: Order, attempt: int, group: str) -> None:
        telling = order.telling
        telling.attempts = max(telling.attempts, attempt)
        telling.engine = group
        if group != order.candidates[0]:
            telling.reason = "failover"

    def _note(self, trail: _Trail, admission: Admission, replica: str, error: ServeError) -> None:
        """Remember a failure and point to whom to ask next."""
        group = admission.group
        if isinstance(error, Overloaded):
            trail.full.add(group.name)
        failed = trail.failed.setdefault(group.name, set())
        if replica:
            failed.add(replica)
        others = set(group.replica_ids) - failed - admission.avoid
        if not replica or not others or isinstance(error, Overloaded):
            trail.at += 1

    async def _once(self, order: Order, request: TokenRequest, admission: Admission) -> AsyncGenerator[TokenEvent, None]:
        """Yield one engine's events up to `Finished`, and settle with breakers and workload what came of it."""
        name, placement = admission.group.name, request.placement
        sent = self.workload.send(name, order.tokens, self._clock())
        stream = self._generators[name].generate(request)
        ok: bool | None = None
        outcome = "cancelled"
        try:
            limits = _Limits(order.deadline, math.inf)  # the first token may have to wait behind others and a long prompt
            while (event := await self._next(stream, name, placement, limits)) is not None:
                limits = _Limits(order.deadline, self._settings.stall_timeout_s)
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
            await stream.aclose()
            self.workload.end(sent)
            self.health.settle(admission, placement.replica, ok=ok, now=self._clock())
            self._traffic.attempted(name, outcome)

    async def _next(
        self, stream: AsyncGenerator[TokenEvent, None], group: str, placement: Placement, limits: _Limits
    ) -> TokenEvent | None:
        """Return the next event or None at the end.

        Raises `DeadlineExceeded`, or `EngineDead` when nothing comes for too long, or nothing while the replica reports no more.
        """
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def silent() -> bool:
            known = self._fleet().group(group)
            return known is not None and placement.replica in known.silent

        def look(due: float) -> None:
            # After a time in which this very process did not run, reports may be waiting to be taken.
            awake = loop.time() - due < _LOOK_EVERY_S
            if awake and silent():
                patience.reschedule(loop.time())
            else:
                arm(_LOOK_EVERY_S)

        def arm(after_s: float) -> None:
            nonlocal timer
            timer = loop.call_later(after_s, look, loop.time() + after_s)

        arm(self._settings.stale_after_s)
        try:
            async with asyncio.timeout(min(limits.deadline - self._clock(), limits.stall_s)) as patience:
                return await anext(stream, None)
        except TimeoutError as error:
            if self._clock() >= limits.deadline:
                late = "the time for this request is over; ask for fewer tokens or allow more time"
                raise DeadlineExceeded(late) from error
            if silent():
                raise EngineDead(f"a replica of group {group} has fallen silent") from error
            raise EngineDead(f"a stream of group {group} sent nothing for {limits.stall_s:g} s") from error
        finally:
            if timer is not None:
                timer.cancel()
