"""Serves every request on one path: choose and resolve the model, admit, classify, prepare, choose a group, reserve, attempt.

Knows groups only as generators of token events, and clients only as `GenerateRequest`s. No web framework, no Ray.
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from serve_app import tracing
from serve_app.access.accounts import Accounts
from serve_app.accounting import account
from serve_app.attempts import Attempts, GroupHandle
from serve_app.background import BackgroundWork
from serve_app.caller import ANONYMOUS, Caller, Priority
from serve_app.config import AppSettings, RoutingSettings
from serve_app.conversation import (
    AnswerEvent,
    ChoiceEnd,
    GenerateRequest,
    Prompt,
    RenderedPrompt,
    RoutePreview,
    Started,
    TaskDecision,
)
from serve_app.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NoEngine,
    Overloaded,
    ServeError,
)
from serve_app.faults import client_faults
from serve_app.generation import Generation, build_generations
from serve_app.merge import merge
from serve_app.metrics import IngressMetrics, render_exposition
from serve_app.models.catalog import Catalog
from serve_app.models.resolved import AnyModel, Resolved
from serve_app.models.served import PreparedRequest, ServedModel
from serve_app.record import RequestRecord
from serve_app.request_book import RequestBook
from serve_app.routing.auto import ModelChoice, choose_failure, choose_model
from serve_app.routing.fleet import Fleet
from serve_app.routing.policy import Policy, Route
from serve_app.routing.tasks import decide
from serve_app.types import Task

_PRIORITY_SHARES = MappingProxyType({Priority.HIGH: 1.0, Priority.NORMAL: 0.9, Priority.BATCH: 0.5})
"""The shares of `max_concurrent_generations` up to which a key's requests are admitted."""


@dataclass(slots=True)
class Gateway:
    """Turns requests into events; see the module's docstring for the steps."""

    settings: AppSettings
    catalog: Catalog
    generators: Mapping[str, GroupHandle]
    fleet: Callable[[], Fleet]
    """Returns the current state of the groups."""
    metrics: IngressMetrics = field(default_factory=IngressMetrics)
    accounts: Accounts = field(default_factory=Accounts.in_memory)
    """Limits and usage of callers."""
    book: RequestBook = field(default_factory=RequestBook)
    """The requests of now, and the last ones."""
    background: BackgroundWork = field(default_factory=BackgroundWork)
    """Requests whose clients do not wait."""
    active_by_model: Counter[str] = field(default_factory=Counter)
    """Generations in progress, by model."""
    _policy: Policy = field(init=False)
    _attempts: Attempts = field(init=False)

    def __post_init__(self) -> None:
        """Prepare policy and attempts."""
        self._policy = Policy(self.settings.routing)
        self._attempts = Attempts(self.settings.routing, self.generators, self.fleet, self.metrics)

    @property
    def policy(self) -> Policy:
        """The policy that chooses groups, as it is configured now."""
        return self._policy

    @property
    def attempts(self) -> Attempts:
        """The retry loop, with breakers, budgets and the work on its way."""
        return self._attempts

    def configure(self, routing: RoutingSettings) -> None:
        """Use other routing settings from the next request on; requests under way keep the old ones."""
        self.settings = self.settings.model_copy(update={"routing": routing})
        self.catalog.configure(routing)
        self._policy = Policy(routing)
        self._attempts.configure(routing)

    def use(self, catalog: Catalog) -> None:
        """Serve these models from the next request on."""
        catalog.configure(self.settings.routing)
        self.catalog = catalog

    async def generate(self, request: GenerateRequest, record: RequestRecord) -> AsyncGenerator[AnswerEvent, None]:
        """Yield one `Started`, any number of deltas and one `ChoiceEnd` per choice; closing the iterator aborts everything.

        The routing in `record` is complete when the first event is out. Without prompts it yields nothing, and raises the
        error that a generation would meet. Raises `ServeError` only.
        """
        names = self._choose_models(request, record.caller).names
        if not request.prompts:
            self._check_route(names[0], request, record)
            return
        longest_s = self.settings.limits.request_timeout_s
        deadline = time.monotonic() + min(request.timeout_s or longest_s, longest_s)
        record.choices_per_prompt = request.n
        span = tracing.begin(request, record.model or record.served_model)
        with account(span, record, self.metrics, self.accounts.usage, self.book) as finish:
            failure: ServeError | None = None
            tried: set[str] = set()
            started = False
            for name in names:
                if failure is not None:
                    if self.catalog.find_model(name) in tried:
                        continue
                    request = replace(request, timeout_s=max(0.001, round(deadline - time.monotonic(), 3)))
                    record.falls_back, record.group, record.earlier_attempts = True, None, record.attempts
                    record.set_aside()
                try:
                    async with aclosing(self._generate_by(name, request, record)) as events:
                        async for event in events:
                            started = True
                            if record.outcome == "ok":  # the last event: what is counted now survives this process
                                finish()
                            yield event
                    return
                except ServeError as error:
                    if started:
                        raise
                    failure = choose_failure(failure, error)
                    tried.add(record.served_model)
            assert failure is not None
            raise failure

    def _choose_models(self, request: GenerateRequest, caller: Caller) -> ModelChoice:
        """Return the names of the models to try: the client's, or for `auto` those of the task among the caller's models."""
        prompt = request.prompts[0] if request.prompts else None
        if (
            self.settings.routing.require_model
            and request.demands_model
            and request.model is None
            and not self.catalog.is_auto(None)
        ):
            known = ", ".join(name for name in self.settings.models if self.catalog.allows(name, caller))
            raise InvalidRequest(f"model: name the model that answers; served here: {known}", param="model")
        if request.group in self.settings.engines and (request.model is None or self.catalog.is_auto(request.model)):
            model = self.settings.model_of(request.group)
            if not self.catalog.allows(model, caller):
                raise Forbidden(f"the API key '{caller.name}' may not use the engine group '{request.group}'", param="x-engine")
            return ModelChoice(names=(model,), reason="group")
        if self.catalog.is_auto(request.model):
            choice = choose_model(self.settings.routing, request.task, prompt)
            return choice if not caller.models else self._keep_allowed(choice, caller)
        return ModelChoice(names=(request.model,), reason="default" if request.model is None else "named")

    def _keep_allowed(self, choice: ModelChoice, caller: Caller) -> ModelChoice:
        """Return the choice without the models that the caller may not use, its own ones in their place."""
        names = tuple(name for name in choice.names if self.catalog.allows(name, caller))
        if names:
            return ModelChoice(names=names, reason=choice.reason)
        encoders = self.settings.embedding_models
        others = tuple(name for name in self.settings.models if name not in encoders and self.catalog.allows(name, caller))
        if not others:
            raise Forbidden(f"the API key '{caller.name}' may use none of the models among which 'auto' chooses", param="model")
        return ModelChoice(names=others[:1], reason="key")

    async def _generate_by(
        self, name: str | None, request: GenerateRequest, record: RequestRecord
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the events of one model's answer; `name` is the model or variant."""
        resolved = self._resolve(name, request, record)
        request = resolved.apply_to(request)
        with self.showing_allowances(resolved.model.name, record):
            self.accounts.limiter.require_room(record.caller, resolved.model.name)
        with self.admit(len(request.prompts) * request.n, resolved.model.name, record.caller.priority):
            with client_faults():
                prepared, generations = await self._prepare(request, resolved, record)
            record.prompt_tokens = prepared.prompt_tokens
            streams = [generation.read(self._attempts.run(generation)) for generation in generations]
            answer_tokens = self._expect_answer_tokens(prepared.request, resolved.model.name, record)
            reservation = self.reserve(prepared.prompt_tokens, answer_tokens, resolved.model.name, record)
            async with reservation, aclosing(merge(streams)) as events:
                started, ended = False, 0
                async for event in events:
                    if not started:  # not earlier: the first event commits the headers
                        started = record.has_begun = True
                        record.first_token_s = time.monotonic() - record.arrived_s
                        yield Started(prompt_tokens=prepared.prompt_tokens)
                    if isinstance(event, ChoiceEnd):
                        task, tokens = record.task or Task.GENERAL, event.usage.completion_tokens
                        self._attempts.workload.record_answer(task, tokens, resolved.model.name)
                        ended += 1  # those that leave here: others may have ended that the client does not wait for
                        record.outcome = "ok" if ended == len(generations) else record.outcome
                    yield event

    @contextmanager
    def showing_allowances(self, model: str, record: RequestRecord) -> Iterator[None]:
        """Let the answer show what is left of the caller's limits after the block, refusals included."""
        try:
            yield
        finally:
            record.allowances = self.accounts.limiter.show_allowances(record.caller, model)

    def _expect_answer_tokens(self, request: GenerateRequest, model: str, record: RequestRecord) -> int:
        """Return the tokens that all answers to a request may have together."""
        learned = self._attempts.workload.expect_answer(record.task or Task.GENERAL, model) or 0
        answer = max(learned, self.settings.routing.answer_tokens)  # no less: the answers of other keys may be short
        return len(request.prompts) * request.n * (request.sampling.max_tokens or round(answer))

    @asynccontextmanager
    async def reserve(
        self, prompt_tokens: int, answer_tokens: int, model: str, record: RequestRecord
    ) -> AsyncGenerator[None, None]:
        """Hold what a request needs of its limits, and count what it used at the end; raises `QuotaExceeded`.

        A request that we failed to serve is not counted, though its tokens are.
        """
        with self.showing_allowances(model, record):
            reservation = await self.accounts.limiter.reserve(
                record.caller, model, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens
            )
        counts = True
        try:
            yield
        except Exception as error:  # whatever it is: a request that failed before the client got anything is none
            counts = record.has_begun or isinstance(error, DeadlineExceeded)
            raise
        finally:
            used, before = record.consumed, record.aside
            reservation.settle(
                used.prompt_tokens + used.completion_tokens - before.prompt_tokens - before.completion_tokens, counts=counts
            )

    def _check_route(self, name: str | None, request: GenerateRequest, record: RequestRecord) -> None:
        """Raise the error that a generation would meet now, for a request without prompts."""
        resolved = self._resolve(name, request, record)
        request = resolved.apply_to(request)
        record.task = request.task or Task.GENERAL
        fleet = self._attempts.survey(resolved.model.name, resolved.held_by)
        record.reason = self._policy.choose(request, record.task, 0, fleet, allowed=resolved.groups).reason

    def _resolve(self, name: str | None, request: GenerateRequest, record: RequestRecord) -> Resolved[ServedModel]:
        """Return the model behind a name, and note it in the record.

        Raises `ModelNotFound`, `ModelUnusable`, and `InvalidRequest` where the client names a group of another model.
        """
        resolved = self.catalog.resolve(name, by_operator=name != request.model, caller=record.caller)
        self.note_resolved(resolved, request.group, record, is_named=name == request.model)
        return resolved

    def note_resolved(self, resolved: Resolved[AnyModel], group: str | None, record: RequestRecord, *, is_named: bool) -> None:
        """Note the model of a request in its record; `is_named`: whether the client named it, `group` is the group that it named.

        Raises `InvalidRequest` where that group serves another model.
        """
        record.served_model = resolved.model.name
        if not is_named:  # the client left the choice to us, and learns it
            record.model = resolved.variant.name
        if group in self.settings.engines and group not in resolved.held_by:
            owner = self.settings.model_of(group)
            served = f"serves the model '{owner}', not" if self.catalog.allows(owner, record.caller) else "does not serve"
            raise InvalidRequest(
                f"engine group '{group}' {served} '{resolved.model.name}', whose groups are: {', '.join(resolved.held_by)}",
                param="x-engine",
            )

    @contextmanager
    def admit(self, cost: int, model: str, priority: Priority) -> Iterator[None]:
        """Count the `cost` generations of a request for a model while they run; raises `Overloaded` when the model has too many.

        The last places are kept for keys of higher priority.
        """
        active = self.active_by_model[model]
        if active and active + cost > self.settings.limits.max_concurrent_generations * _PRIORITY_SHARES[priority]:
            raise Overloaded("too many requests are being served; try again later", retry_after_s=1.0)
        self.active_by_model[model] = active + cost
        try:
            yield
        finally:
            self.active_by_model[model] -= cost

    @property
    def active(self) -> int:
        """Generations in progress."""
        return sum(self.active_by_model.values())

    async def _prepare(
        self, request: GenerateRequest, resolved: Resolved[ServedModel], record: RequestRecord
    ) -> tuple[PreparedRequest, list[Generation]]:
        """Classify the request, let its model prepare it, choose its groups, and return its generations."""
        self._require_within_limits(request)
        task = record.task = self._classify(request).task
        fleet = self._attempts.survey(resolved.model.name, resolved.held_by)
        prepared = await resolved.model.prepare(request, fleet.limits(request.group))
        record.dropped_messages = prepared.dropped_messages
        route = self._choose(prepared, task, fleet, resolved)
        record.reason = "auto-fallback" if record.falls_back else route.reason
        record.candidates = route.considered
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

    def _choose(self, prepared: PreparedRequest, task: Task, fleet: Fleet, resolved: Resolved[ServedModel]) -> Route:
        return self._policy.choose(
            prepared.request, task, prepared.longest_prompt, fleet, allowed=resolved.groups, constraint=prepared.constraint
        )

    async def render(self, model: str | None, prompt: Prompt, caller: Caller = ANONYMOUS) -> RenderedPrompt:
        """Return a prompt in the form that engines would get; raises `ContextOverflow`."""
        request = GenerateRequest(request_id="", prompts=(prompt,), model=model)
        resolved = self.catalog.resolve(self._choose_models(request, caller).names[0], caller=caller)
        fleet = self.fleet().select(resolved.held_by)
        with client_faults():
            ids = await resolved.model.render(resolved.variant.complete_prompt(prompt), fleet.limits())
        text = resolved.model.decode_ids(ids)
        return RenderedPrompt(ids=ids, text=text, context_length=self.measure_context(resolved.model.name))

    def measure_context(self, model: str) -> int:
        """Return the longest context of a model's groups in tokens; before any has reported, the longest configured one."""
        engines = {name: group for name, group in self.settings.engines.items() if self.settings.model_of(name) == model}
        return self.fleet().select(engines).limits().longest or max(group.max_model_len for group in engines.values())

    async def preview_route(self, request: GenerateRequest, record: RequestRecord) -> RoutePreview:
        """Return the route that `request` would take now, without asking an engine; raises the errors of the request itself."""
        choice = self._choose_models(request, record.caller)
        preview, failure = None, None
        for at, name in enumerate(choice.names):
            try:
                found = await self._preview_route_to(name, request, record, choice.reason if at == 0 else "auto-fallback")
            except ServeError as error:
                failure = failure if preview is not None else choose_failure(failure, error)
                continue
            preview = found if preview is None or found.candidates else preview
            if preview.candidates:
                break
        if preview is None:
            assert failure is not None
            raise failure
        record.served_model = preview.model
        return preview

    async def _preview_route_to(
        self, name: str | None, request: GenerateRequest, record: RequestRecord, model_reason: str
    ) -> RoutePreview:
        """Return the route to one model."""
        resolved = self._resolve(name, request, record)
        request = resolved.apply_to(request)
        decision, fleet = self._classify(request), self._attempts.survey(resolved.model.name, resolved.held_by)
        with client_faults():
            prepared = await resolved.model.prepare(request, fleet.limits(request.group))
        try:
            route = self._choose(prepared, decision.task, fleet, resolved)
            candidates, reason = route.candidates, route.reason
        except NoEngine as error:
            candidates, reason = (), error.code
        return RoutePreview(
            decision=decision,
            model=resolved.model.name,
            model_reason=model_reason,
            candidates=candidates,
            reason=reason,
            prompt_tokens=prepared.prompt_tokens,
            answer_tokens=self._expect_answer_tokens(prepared.request, resolved.model.name, record),
        )

    def render_exposition(self) -> bytes:
        """Return the metrics of replicas, requests and breakers in Prometheus' text format."""
        fleet = self.fleet()
        states = self._attempts.health.states(fleet, time.monotonic())
        self.metrics.breakers = {key: str(state) for key, state in states.items()}
        return render_exposition((report for group in fleet.groups for report in group.reports), self.metrics)
