"""Chooses the groups to try for one request, best first. Pure: request, task and fleet in, route out."""

from dataclasses import dataclass

from serve_app.chat.constraint import names_unicode_patterns
from serve_app.config import RoutingSettings
from serve_app.conversation import GenerateRequest
from serve_app.errors import ContextOverflow, InvalidRequest, NoEngine, Unsupported
from serve_app.routing.fleet import Fleet, Group
from serve_app.types import Capability, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Groups to try in order, and a slug that says why the first is first."""

    candidates: tuple[str, ...]
    reason: str


class Policy:
    """Preference per task, minus the groups that cannot."""

    def __init__(self, settings: RoutingSettings) -> None:
        """Use the configured preferences."""
        self._settings = settings

    def choose(self, request: GenerateRequest, task: Task, prompt_tokens: int, fleet: Fleet) -> Route:
        """Return the route for a request whose longest prompt has `prompt_tokens` tokens.

        Reasons: `requested` (the client named the group), `preferred` (first choice for the task), `not-ready`, `too-long` or
        `incapable` (why the first choice was passed over). Raises `InvalidRequest` for an unknown group, `ContextOverflow` when the
        prompt fits nowhere, `Unsupported` when no group can do it, `NoEngine` when those that could are not ready.
        """
        if request.group is not None and fleet.group(request.group) is None:
            known = ", ".join(group.name for group in fleet.groups)
            raise InvalidRequest(f"no engine group '{request.group[:100]}'; configured are: {known}", param="x-engine")
        order = self._order(request, task, fleet)
        needs = _needs(request)
        obstacles = {group.name: _obstacle(group, needs, prompt_tokens) for group in order}
        candidates = tuple(group.name for group in order if not obstacles[group.name])
        if not candidates:
            raise _refusal(order, obstacles, prompt_tokens)
        if request.group is not None:
            return Route(candidates=candidates, reason="requested")
        return Route(candidates=candidates, reason=obstacles[order[0].name] or "preferred")

    def _order(self, request: GenerateRequest, task: Task, fleet: Fleet) -> list[Group]:
        if request.group is not None:
            return [group for group in fleet.groups if group.name == request.group]
        preferred = self._settings.prefer.get(task, ())
        rank = {name: position for position, name in enumerate(preferred)}
        return sorted(fleet.groups, key=lambda group: rank.get(group.name, len(rank)))


def _needs(request: GenerateRequest) -> set[Capability]:
    needs = set()
    if request.sampling.logprobs is not None:
        needs.add(Capability.LOGPROBS)
    if request.sampling.logit_bias:
        needs.add(Capability.LOGIT_BIAS)
    if request.sampling.min_p > 0:
        needs.add(Capability.MIN_P)
    if request.sampling.presence_penalty or request.sampling.frequency_penalty:
        needs.add(Capability.OUTPUT_PENALTIES)
    if request.constraint is not None:
        needs.add(Capability.STRUCTURED)
        if names_unicode_patterns(request.constraint):
            needs.add(Capability.UNICODE_PATTERNS)
        if request.sampling.min_tokens:
            needs.add(Capability.STRUCTURED_MIN_TOKENS)
    return needs


def _obstacle(group: Group, needs: set[Capability], prompt_tokens: int) -> str:
    """Return why the group cannot take the request, empty when it can. What is lasting comes before what may pass."""
    if group.info is not None:
        if prompt_tokens >= group.info.context_length:
            return "too-long"
        if not needs <= group.info.capabilities:
            return "incapable"
    return "" if group.ready else "not-ready"


def _refusal(order: list[Group], obstacles: dict[str, str], prompt_tokens: int) -> ContextOverflow | Unsupported | NoEngine:
    found = set(obstacles.values())
    if found == {"too-long"}:
        longest = max(group.info.context_length for group in order if group.info)
        return ContextOverflow(
            f"This model's maximum context length is {longest} tokens, but the prompt has {prompt_tokens} tokens and one "
            "at least is needed for the answer. Shorten the prompt.",
        )
    if "not-ready" not in found:
        return Unsupported(f"no engine group can serve this request: {_list(obstacles)}")
    waiting = [group for group in order if obstacles[group.name] == "not-ready"]
    states = "; ".join(f"{group.name} is {group.phase}" for group in waiting)
    return NoEngine(f"No engine group is ready: {states}. GET /health shows when they are.", retry_after_s=5.0)


def _list(obstacles: dict[str, str]) -> str:
    return ", ".join(f"{name}: {why}" for name, why in obstacles.items())
