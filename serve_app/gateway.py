"""Serves every request on one path: resolve the model, admit, classify, prepare, choose a group, attempt.

Knows groups only as generators of token events, and clients only as `GenerateRequest`s. No web framework, no Ray.
"""

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from serve_app.accounting import account
from serve_app.attempts import Attempts, Generator
from serve_app.config import AppSettings, RoutingSettings
from serve_app.conversation import AnswerEvent, ChoiceEnd, GenerateRequest, Prompt, RoutePreview, Started, TaskDecision
from serve_app.errors import InvalidRequest, NoEngine, Overloaded
from serve_app.faults import client_faults
from serve_app.generation import Generation, build_generations
from serve_app.merge import merge
from serve_app.metrics import IngressMetrics, render_exposition
from serve_app.models.catalog import Catalog, Resolved
from serve_app.models.served import PreparedRequest
from serve_app.record import RequestRecord
from serve_app.routing.fleet import Fleet
from serve_app.routing.policy import Policy, Route
from serve_app.routing.tasks import decide
from serve_app.types import Task


@dataclass(slots=True)
class Gateway:
    """Turns requests into events; see the module's docstring for the steps."""

    settings: AppSettings
    catalog: Catalog
    generators: Mapping[str, Generator]
    fleet: Callable[[], Fleet]
    """Returns the current state of the groups."""
    metrics: IngressMetrics = field(default_factory=IngressMetrics)
    active: int = 0
    """Generations in progress."""
    _policy: Policy = field(init=False)
    _attempts: Attempts = field(init=False)

    def __post_init__(self) -> None:
        """Prepare policy and attempts."""
        self._policy = Policy(self.settings.routing)
        self._attempts = Attempts(self.settings.routing, self.generators, self.fleet, self.metrics)

    def configure(self, routing: RoutingSettings) -> None:
        """Use other routing settings from the next request on; requests under way keep the old ones."""
        self.settings = self.settings.model_copy(update={"routing": routing})
        self.catalog.configure(routing)
        self._policy = Policy(routing)
        self._attempts.configure(routing)

    async def generate(self, request: GenerateRequest, record: RequestRecord) -> AsyncGenerator[AnswerEvent, None]:
        """Yield one `Started`, any number of deltas and one `ChoiceEnd` per choice; closing the iterator aborts everything.

        The routing in `record` is complete when the first event is out. Without prompts it yields nothing, and raises the
        error that a generation would meet. Raises `ServeError` only.
        """
        resolved = self.catalog.resolve(request.model)
        request = resolved.apply_to(request)
        if not request.prompts:
            record.task = request.task or Task.GENERAL
            record.reason = self._policy.choose(request, record.task, 0, self.fleet(), allowed=resolved.groups).reason
            return
        with self._admit(request), account(request, record.model or resolved.model.name, record, self.metrics):
            with client_faults():
                prepared, generations = await self._prepare(request, resolved, record)
            streams = [generation.read(self._attempts.run(generation)) for generation in generations]
            async with aclosing(merge(streams)) as events:
                started, ended = False, 0
                async for event in events:
                    if not started:  # not earlier: the first event commits the headers
                        started = True
                        yield Started(prompt_tokens=prepared.prompt_tokens)
                    if isinstance(event, ChoiceEnd):
                        self._attempts.workload.record_answer(record.task or Task.GENERAL, event.usage.completion_tokens)
                        ended += 1  # those that leave here: others may have ended that the client does not wait for
                        record.outcome = "ok" if ended == len(generations) else record.outcome
                    yield event

    @contextmanager
    def _admit(self, request: GenerateRequest) -> Iterator[None]:
        """Count the generations of a request while they run; raises `Overloaded` when there are too many."""
        cost = len(request.prompts) * request.n
        if self.active and self.active + cost > self.settings.limits.max_concurrent_generations:
            raise Overloaded("too many requests are being served; try again later", retry_after_s=1.0)
        self.active += cost
        try:
            yield
        finally:
            self.active -= cost

    async def _prepare(
        self, request: GenerateRequest, resolved: Resolved, record: RequestRecord
    ) -> tuple[PreparedRequest, list[Generation]]:
        """Classify the request, let its model prepare it, choose its groups, and return its generations."""
        self._require_within_limits(request)
        task = record.task = self._classify(request).task
        fleet = self._attempts.survey()
        prepared = await resolved.model.prepare(request, fleet.limits(request.group))
        record.dropped_messages = prepared.dropped_messages
        route = self._choose(prepared, task, fleet, resolved)
        record.reason, record.candidates = route.reason, route.considered
        longest_s = self.settings.limits.request_timeout_s
        choices = resolved.model.build_choices(prepared, min(request.timeout_s or longest_s, longest_s))
        return prepared, build_generations(choices, route, request.session, record)

    def _require_within_limits(self, request: GenerateRequest) -> None:
        limits = self.settings.limits
        if request.n > limits.max_choices:
            raise InvalidRequest(f"n must be at most {limits.max_choices}, got {request.n}", param="n")
        if len(request.prompts) > limits.max_prompts:
            raise InvalidRequest(f"at most {limits.max_prompts} prompts per call, got {len(request.prompts)}", param="prompt")

    def _classify(self, request: GenerateRequest) -> TaskDecision:
        return decide(request.task, request.prompts[0], self.settings.routing.task_threshold)

    def _choose(self, prepared: PreparedRequest, task: Task, fleet: Fleet, resolved: Resolved) -> Route:
        return self._policy.choose(
            prepared.request, task, prepared.longest_prompt, fleet, allowed=resolved.groups, constraint=prepared.constraint
        )

    async def render(self, model: str | None, prompt: Prompt) -> tuple[tuple[int, ...], str]:
        """Return the token ids that engines would get for `prompt`, and their text; raises `ContextOverflow`."""
        resolved = self.catalog.resolve(model)
        with client_faults():
            ids = await resolved.model.render(resolved.variant.complete_prompt(prompt), self.fleet().limits())
        return ids, resolved.model.decode_ids(ids)

    async def preview_route(self, request: GenerateRequest) -> RoutePreview:
        """Return the route that `request` would take now, without asking an engine; raises the errors of the request itself."""
        resolved = self.catalog.resolve(request.model)
        request = resolved.apply_to(request)
        decision, fleet = self._classify(request), self._attempts.survey()
        with client_faults():
            prepared = await resolved.model.prepare(request, fleet.limits(request.group))
        try:
            route = self._choose(prepared, decision.task, fleet, resolved)
        except NoEngine as error:
            return RoutePreview(decision=decision, candidates=(), reason=error.code)
        return RoutePreview(decision=decision, candidates=route.candidates, reason=route.reason)

    def render_exposition(self) -> bytes:
        """Return the metrics of replicas, requests and breakers in Prometheus' text format."""
        fleet = self.fleet()
        states = self._attempts.health.states(fleet, time.monotonic())
        self.metrics.breakers = {key: str(state) for key, state in states.items()}
        return render_exposition((report for group in fleet.groups for report in group.reports), self.metrics)
