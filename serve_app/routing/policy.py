"""Chooses the groups to try for one request, best first. Pure: request, task and fleet in, route out.

Work is counted in generated tokens. A new request would wait in a group for the group's work divided by its observed rate. So a GPU
and a CPU group compare fairly, as their numbers of requests would not.
"""

import math
from collections.abc import Collection, Set
from dataclasses import dataclass, field

from serve_app.chat.lark_text import names_unicode_patterns
from serve_app.config import RoutingSettings
from serve_app.conversation import GenerateRequest
from serve_app.errors import ContextOverflow, InvalidRequest, NoEngine, Overloaded, Unsupported
from serve_app.record import Candidate
from serve_app.routing.fleet import Fleet, Group
from serve_app.types import Capability, Constraint, Sampling, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Groups to try in order, and a slug that says why the first is first."""

    candidates: tuple[str, ...]
    reason: str
    considered: tuple[Candidate, ...] = field(default=(), compare=False)
    """Every group in the order of preference, with the estimates for it."""
    work: float = field(default=0.0, compare=False)
    """Estimated work of the request, in generated tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a request asks of a group, whatever it is for."""

    group: str | None
    """The only group that may answer; None: any."""
    timeout_s: float | None
    """Most seconds that the answer may take."""
    prompt_tokens: int
    """Tokens of its longest prompt; a group must have room for one more."""
    work: float
    """Estimated work, in generated tokens."""
    needs: Set[Capability] = frozenset()


class Policy:
    """Prefers groups per task, without those that cannot serve the request; a much shorter wait overrules the preference."""

    def __init__(self, settings: RoutingSettings) -> None:
        """Use the configured preferences and weights."""
        self._settings = settings

    def choose(
        self,
        request: GenerateRequest,
        task: Task,
        prompt_tokens: int,
        fleet: Fleet,
        *,
        allowed: Collection[str] | None = None,
        constraint: Constraint | None = None,
    ) -> Route:
        """Return the route for a request whose longest prompt has `prompt_tokens` tokens.

        `allowed` are the groups that may answer for its model, None meaning all; its answers must keep to `constraint`. Raises as
        `choose_for` does.
        """
        demand = Demand(
            group=request.group,
            timeout_s=request.timeout_s,
            prompt_tokens=prompt_tokens,
            work=self._estimate_work(request, task, prompt_tokens, fleet),
            needs=_find_needs(request, constraint),
        )
        return self.choose_for(demand, task, fleet, allowed=allowed)

    def choose_for(self, demand: Demand, task: Task, fleet: Fleet, *, allowed: Collection[str] | None = None) -> Route:
        """Return the route for a demand.

        Reasons: `requested` (the client named the group), `preferred` (first choice for the task), `shorter-wait` (another group
        would finish much earlier), `restricted`, `too-long`, `incapable`, `not-ready`, `asleep` or `breaker-open` (why the first
        choice was passed over), `waking` (awake groups cannot serve it, or not in time). Raises `InvalidRequest` for an unknown
        group, `ContextOverflow` when the prompt fits nowhere, `Unsupported` when no group can serve it, `NoEngine` when the groups
        that could are not ready, `Overloaded` when none would answer within the client's time: an early refusal is better
        than a late one, and leaves the engines to requests that can still be served.
        """
        if demand.group is not None and fleet.group(demand.group) is None:
            known = ", ".join(group.name for group in fleet.groups)
            raise InvalidRequest(f"no engine group '{demand.group[:100]}'; configured are: {known}", param="x-engine")
        ranked = self._rank_groups(demand.group, task, fleet)
        obstacles = [
            "restricted"
            if allowed is not None and group.name not in allowed
            else _find_obstacle(group, demand.needs, demand.prompt_tokens)
            for group in ranked
        ]
        considered = tuple(
            self._estimate(group, obstacle, demand.work, fleet) for group, obstacle in zip(ranked, obstacles, strict=True)
        )
        usable = [candidate for candidate in considered if not candidate.obstacle]
        asleep = [candidate for candidate in considered if candidate.obstacle == _ASLEEP]
        if not usable and not asleep:
            raise _build_refusal(ranked, {candidate.group: candidate.obstacle for candidate in considered}, demand.prompt_tokens)
        reason = "requested" if demand.group is not None else considered[0].obstacle or "preferred"
        faster = self._find_overruling(usable, demand.timeout_s)
        if faster is not None:
            usable.remove(faster)
            usable.insert(0, faster)
            reason = "shorter-wait"
        late_s = _measure_lateness_s(usable, demand.timeout_s)
        if late_s and not asleep:
            raise Overloaded(
                f"no engine group would answer this within its {demand.timeout_s:g} s; try again later", retry_after_s=late_s
            )
        wake = bool(late_s) or not usable
        if wake and demand.group is None:
            reason = "waking"
        names = tuple(candidate.group for candidate in ((*asleep, *usable) if wake else (*usable, *asleep)))
        return Route(candidates=names, reason=reason, considered=considered, work=demand.work)

    def _estimate_work(self, request: GenerateRequest, task: Task, prompt_tokens: int, fleet: Fleet) -> float:
        """Estimate a request's work in generated tokens."""
        mean = fleet.answer_tokens.get(None, float(self._settings.answer_tokens))
        answer = fleet.answer_tokens.get(task, mean)
        answer = min(answer, request.sampling.max_tokens or answer)
        return float(len(request.prompts) * request.n * (answer + self._settings.prompt_weight * prompt_tokens))

    def _estimate(self, group: Group, obstacle: str, tokens: float, fleet: Fleet) -> Candidate:
        load = group.load
        ahead = load.running + load.waiting + group.sent
        if not group.drain_rate or group.info is None:
            return Candidate(group=group.name, obstacle=obstacle, ahead=ahead, wait_s=None, finish_s=None)
        mean = fleet.answer_tokens.get(None, float(self._settings.answer_tokens))
        slots = group.info.max_concurrency * max(1, group.replicas)
        # Running requests are half done on average. A request that finds a free slot does not wait; its stream shares the rate.
        queued = (load.running / 2 + load.waiting) * mean + load.waiting_tokens * self._settings.prompt_weight + group.sent_tokens
        wait_s = max(0.0, ahead - slots + 1) / max(1, ahead) * queued / group.drain_rate
        pace = min(group.drain_rate / min(ahead + 1, slots), group.stream_rate or math.inf)
        return Candidate(group=group.name, obstacle=obstacle, ahead=ahead, wait_s=wait_s, finish_s=wait_s + tokens / pace)

    def _find_overruling(self, usable: list[Candidate], timeout_s: float | None) -> Candidate | None:
        """Return the candidate that overrules the first: it is much faster, or in time where the first is late.

        An idle group of unknown speed is tried, so that its speed becomes known.
        """
        first = usable[0].finish_s if usable else None
        if first is None or first <= self._settings.overrule_above_s:
            return None

        def finish_s(candidate: Candidate) -> float:
            if candidate.finish_s is not None:
                return candidate.finish_s
            return math.inf if candidate.ahead else 0.0

        best = min(usable[1:], key=finish_s, default=None)
        if best is None:
            return None
        in_time = timeout_s is not None and finish_s(best) <= timeout_s < first
        return best if in_time or finish_s(best) * self._settings.overrule_factor < first else None

    def _rank_groups(self, only: str | None, task: Task, fleet: Fleet) -> list[Group]:
        if only is not None:
            return [group for group in fleet.groups if group.name == only]
        preferred = self._settings.prefer.get(task, ())
        rank = {name: position for position, name in enumerate(preferred)}
        return sorted(fleet.groups, key=lambda group: rank.get(group.name, len(rank)))


_ASLEEP = "asleep"
"""The one obstacle that a request can remove, by waiting."""


def _find_obstacle(group: Group, needs: Set[Capability], prompt_tokens: int) -> str:
    """Return why the group cannot take a request, empty when it can. Lasting reasons come before temporary ones."""
    if group.info is not None:
        if prompt_tokens >= group.info.context_length:
            return "too-long"
        if not needs <= group.info.capabilities:
            return "incapable"
    if not group.ready and not group.wakes:
        return "not-ready"
    if group.blocked:
        return "breaker-open"
    return "" if group.ready else _ASLEEP


def _measure_lateness_s(usable: list[Candidate], timeout_s: float | None) -> float:
    """Return by how many seconds even the fastest group would be late, 0 when one would be in time.

    An idle group is always tried: its estimate may be wrong, and only work corrects it.
    """
    ends = [candidate.finish_s for candidate in usable if candidate.finish_s is not None and candidate.ahead]
    if timeout_s is None or not ends or len(ends) < len(usable):
        return 0.0
    return max(0.0, min(ends) - timeout_s)


def _find_needs(request: GenerateRequest, constraint: Constraint | None) -> set[Capability]:
    needs = set()
    if request.sampling.logprobs is not None:
        needs.add(Capability.LOGPROBS)
    if request.sampling.logit_bias:
        needs.add(Capability.LOGIT_BIAS)
    if request.sampling.min_p > 0:
        needs.add(Capability.MIN_P)
    if request.sampling.presence_penalty or request.sampling.frequency_penalty:
        needs.add(Capability.OUTPUT_PENALTIES)
    if constraint is not None and not constraint.optional:
        needs |= find_constraint_needs(constraint, request.sampling)
    return needs


def find_constraint_needs(constraint: Constraint, sampling: Sampling) -> set[Capability]:
    """Return the capabilities that an engine needs to follow a constraint."""
    needs = {Capability.STRUCTURED}
    if names_unicode_patterns(constraint):
        needs.add(Capability.UNICODE_PATTERNS)
    if sampling.min_tokens:
        needs.add(Capability.STRUCTURED_MIN_TOKENS)
    return needs


def _build_refusal(ranked: list[Group], obstacles: dict[str, str], prompt_tokens: int) -> ContextOverflow | Unsupported | NoEngine:
    reasons = set(obstacles.values())
    if reasons == {"too-long"}:
        longest = max(group.info.context_length for group in ranked if group.info)
        return ContextOverflow(
            f"This model's maximum context length is {longest} tokens, but the prompt has {prompt_tokens} tokens and one "
            "at least is needed for the answer. Shorten the prompt.",
        )
    if not reasons & {"not-ready", "breaker-open"}:
        return Unsupported(f"no engine group can serve this request: {_list_obstacles(obstacles)}")
    waiting = [group for group in ranked if obstacles[group.name] == "not-ready"]
    states = "; ".join(
        [f"{group.name} is {group.phase}" for group in waiting]
        + [f"{name} failed too often lately" for name, why in obstacles.items() if why == "breaker-open"]
    )
    return NoEngine(f"No engine group is ready: {states}. GET /health shows when they are.", retry_after_s=5.0)


def _list_obstacles(obstacles: dict[str, str]) -> str:
    return ", ".join(f"{name}: {why}" for name, why in obstacles.items())
