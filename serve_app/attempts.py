"""The one retry loop: sends a request to its candidates until one has answered it whole.

Knows groups as things that generate token events, and nothing of text, dialects or Ray. Before the first token any candidate may
take over; after it the answer goes on elsewhere from prompt and tokens so far, where that gives the same text
(`routing.continuation`).
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
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
from serve_app.routing.policy import Candidate, constraint_needs
from serve_app.routing.retry_budget import RetryBudget
from serve_app.types import Capability, EngineInfo, Finished, Placement, Task, TokenEvent, TokenRequest

_RETRY_PAUSE_S = 0.1
"""Mean pause before a group is asked again; doubles with each round."""
_LOOK_EVERY_S = 1.0
"""How often it is asked whether the replica still reports, once an event has been awaited for as long as reports may take."""
_LEAST_PAUSE_S = 0.02
"""Between two looks, should something be due while nothing is awaited."""


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
    dropped_messages: int = 0
    """Turns left out of the prompt, so that it fits into the context that the client asked for."""
    invalid_calls: tuple[str, ...] = ()
    """Tools called with arguments that their schema does not allow; complete with the last event."""
    invalid_answers: tuple[int, ...] = ()
    """Choices that are not what the schema asked for allows; complete with the last event."""
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


class _Watch:
    """Awaits one engine's events, and gives up when the time is over, or nothing comes for too long.

    One timer for the whole stream instead of one per event: it fires when something may be due, looks, and is set again.
    """

    def __init__(self, settings: RoutingSettings, group: str, deadline: float, silent: Callable[[], bool]) -> None:
        """Begin; `deadline` is on the loop's clock, `silent` tells whether the replica has stopped reporting."""
        self._settings = settings
        self._group = group
        self._deadline = deadline
        self._silent = silent
        self._loop = asyncio.get_running_loop()
        self._awaiting: asyncio.Timeout | None = None
        self._since = self._loop.time()
        self._begun = False
        self._verdict: ServeError | None = None
        self._arm()

    async def next(self, stream: AsyncGenerator[TokenEvent, None]) -> TokenEvent | None:
        """Return the next event or None at the end; raises `DeadlineExceeded` or `EngineDead` when it gives up."""
        self._since = self._loop.time()
        if self._since >= self._deadline:
            raise _too_late()
        try:
            async with asyncio.timeout(None) as self._awaiting:
                event = await anext(stream, None)
        except TimeoutError as error:
            raise self._verdict or _too_late() from error
        finally:
            self._awaiting = None
        if not self._begun:
            self._begun = True
            self.close()
            self._arm()  # from now on a pause may be shorter
        return event

    def close(self) -> None:
        """Stop looking."""
        self._timer.cancel()

    def _arm(self) -> None:
        now, due = self._loop.time(), self._deadline
        if self._begun:
            # The first token may have to wait behind others and a long prompt; those after it may not.
            due = min(due, self._since + self._settings.stall_timeout_s)
        due = min(due, max(now + _LOOK_EVERY_S, self._since + self._settings.stale_after_s))
        due = max(due, now + _LEAST_PAUSE_S)
        self._timer = self._loop.call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        now = self._loop.time()
        waited_s = now - self._since
        # After a time in which this very process did not run, reports may be waiting to be taken.
        awake = now - due < _LOOK_EVERY_S
        if self._awaiting is None:
            pass  # it is the client that is slow
        elif now >= self._deadline:
            self._verdict = _too_late()
        elif self._begun and waited_s >= self._settings.stall_timeout_s:
            self._verdict = EngineDead(f"a stream of group {self._group} sent nothing for {waited_s:.1f} s")
        elif awake and waited_s >= self._settings.stale_after_s and self._silent():
            self._verdict = EngineDead(f"a replica of group {self._group} has fallen silent")
        if self._verdict is None or self._awaiting is None:
            self._arm()
        else:
            self._awaiting.reschedule(now)


def _followed(request: TokenRequest, info: EngineInfo | None) -> TokenRequest:
    """Return the request without an optional constraint that the engine could not follow."""
    constraint = request.constraint
    if constraint is None or not constraint.optional:
        return request
    able = info is not None and constraint_needs(constraint, request.sampling) <= info.capabilities
    return request if able else replace(request, constraint=None)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the time for this request is over; ask for fewer tokens or allow more time")


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
            request = _followed(answer.rest(self._placement(order, admission), attempt), admission.group.info)
            self._tell(order, attempt, admission.group.name)
            try:
                async with aclosing(self._once(order, request, admission)) as events:
                    async for event in events:
                        yield answer.take(event, self._clock())
                return
            except ServeError as failure:
                error = failure
                info = admission.group.info
                if info is not None and Capability.EXACT_IDS not in info.capabilities:
                    fixed = fixed or "that engine tells its text, and not the tokens that it drew"
                elif info is not None and answer.complete(info.context_length):
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
        left_s = order.deadline - self._clock()
        watch = _Watch(self._settings, name, asyncio.get_running_loop().time() + left_s, lambda: self._is_silent(name, placement))
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
            self._traffic.attempted(name, outcome)

    def _is_silent(self, name: str, placement: Placement) -> bool:
        group = self._fleet().group(name)
        return group is not None and placement.replica in group.silent
