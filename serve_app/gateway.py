"""The one path of every request: admit, resolve the model, classify, render, choose a group, attempt, turn tokens into text.

Knows groups only as things that generate token events, and clients only as `GenerateRequest`s. No web framework, no Ray.
"""

import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from serve_app import tracing
from serve_app.attempts import Attempts, Generator, Order
from serve_app.attempts import Telling as Telling
from serve_app.chat.arguments import fits, invalid_calls
from serve_app.chat.constraint import lenient_schema
from serve_app.chat.grammar import GrammarCheck
from serve_app.chat.template import ChatTemplate
from serve_app.chat.text_stream import TextStream
from serve_app.chat.tokenizer import Tokenizer
from serve_app.chat.window import fitted
from serve_app.config import AppSettings, RoutingSettings
from serve_app.conversation import (
    Chat,
    Ending,
    GenerateRequest,
    Prompt,
    RawText,
    RouteTrial,
    TaskDecision,
    TextDelta,
    TextEvent,
    Tool,
    total_usage,
)
from serve_app.errors import (
    ContextOverflow,
    IncompleteGeneration,
    InvalidRequest,
    NoEngine,
    Overloaded,
    ServeError,
    Unsupported,
)
from serve_app.faults import client_faults
from serve_app.merge import merge
from serve_app.metrics import Traffic, exposition
from serve_app.models.catalog import Catalog
from serve_app.models.names import shown
from serve_app.models.usable import require_usable
from serve_app.prompts import begun, bounded_window, without_thoughts
from serve_app.routing.affinity import affinity
from serve_app.routing.fleet import Fleet
from serve_app.routing.policy import Policy
from serve_app.routing.tasks import decide
from serve_app.types import (
    MAX_SEED,
    MAX_TOKENS,
    Constraint,
    Finished,
    FinishReason,
    Sampling,
    Task,
    Timings,
    TokenRequest,
    Usage,
)

REQUEST_LOG = logging.getLogger("serve_app.requests")
"""One line of JSON a request, without its text."""


@dataclass(slots=True)
class _Job:
    """One choice on its way: what is ordered of the engines, its stop strings, and what an echo puts before it."""

    order: Order
    text: TextStream
    tools: tuple[Tool, ...]
    prefix: str
    with_tokens: bool
    schema: str = ""
    """JSON schema that an answer without calls should fit though its constraint may not keep all of it; empty: none."""


@dataclass(slots=True)
class Gateway:
    """Turns text requests into text events; see the module's docstring for the steps."""

    settings: AppSettings
    tokenizer: Tokenizer
    catalog: Catalog
    generators: Mapping[str, Generator]
    fleet: Callable[[], Fleet]
    """Returns the groups' state now."""
    traffic: Traffic = field(default_factory=Traffic)
    """What it counts."""
    active: int = 0
    """Generations being worked on."""
    _template: ChatTemplate = field(init=False)
    _grammars: GrammarCheck = field(init=False)
    _policy: Policy = field(init=False)
    _attempts: Attempts = field(init=False)

    def __post_init__(self) -> None:
        """Prepare template, policy and attempts; raises `InvalidValue` for a configured variant that could answer nothing."""
        self.catalog.count_tokens = lambda text: len(self.tokenizer.encode(text, special=False))
        for variant in self.catalog.models:
            if not variant.stored:
                require_usable(variant, self.catalog.count_tokens)
        self._template = ChatTemplate(self.tokenizer)
        self._grammars = GrammarCheck(self.tokenizer, self._longest)
        self._policy = Policy(self.settings.routing)
        self._attempts = Attempts(self.settings.routing, self.generators, self.fleet, self.traffic)

    def configure(self, routing: RoutingSettings) -> None:
        """Route by other settings from the next request on; those under way end by the old ones."""
        self.settings = self.settings.model_copy(update={"routing": routing})
        self._policy = Policy(routing)
        self._attempts.configure(routing)

    def exposition(self) -> bytes:
        """Return Prometheus' text of replicas, requests and breakers."""
        fleet = self.fleet()
        states = self._attempts.health.states(fleet, time.monotonic())
        self.traffic.breakers = {key: str(state) for key, state in states.items()}
        return exposition((report for group in fleet.groups for report in group.reports), self.traffic)

    async def generate(self, request: GenerateRequest, telling: Telling) -> AsyncGenerator[TextEvent, None]:
        """Yield any number of `TextDelta`s and one `Finished` per choice; closing the iterator aborts everything.

        `telling` is complete when the first event is out. Without prompts it yields nothing, and raises what would keep it from
        generating. Raises `ServeError` only.
        """
        request = self._resolved(request)
        if not request.prompts:
            telling.task = request.task or Task.GENERAL
            telling.reason = self._policy.choose(request, telling.task, 0, self.fleet()).reason
            return
        cost = len(request.prompts) * request.n
        if self.active and self.active + cost > self.settings.limits.max_concurrent_generations:
            raise Overloaded("too many requests are being served; try again later", retry_after_s=1.0)
        span = tracing.begin(request, request.model or self.settings.model.name)
        self.active += cost
        began, outcome, ends = time.monotonic(), "cancelled", []
        try:
            with client_faults():
                jobs = await self._prepare(request, telling)
            async with aclosing(merge([self._checked(job) if job.schema else self._run(job) for job in jobs])) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        ends.append(event)
                    if len(ends) == cost:
                        outcome = "ok"
                    yield event
        except ServeError as error:
            outcome = error.code
            raise
        except Exception:
            outcome = "internal_error"
            raise
        finally:
            self.active -= cost
            told = self._account(telling, outcome, total_usage(ends, request.n), time.monotonic() - began)
            tracing.end(span, told, [event.reason for event in ends])

    def _account(self, telling: Telling, outcome: str, usage: Usage, seconds: float) -> dict[str, str | int | float]:
        """Count and log a request that has ended, nothing of its text; return what the log tells."""
        task, engine, reason = telling.task or "none", telling.engine or "none", telling.reason or "none"
        self.traffic.served(task=task, engine=engine, reason=reason, outcome=outcome, seconds=seconds)
        self.traffic.generated(task, engine, prompt=usage.prompt_tokens, completion=usage.completion_tokens)
        told: dict[str, str | int | float] = {
            "request_id": telling.request_id,
            "task": task,
            "engine": engine,
            "reason": reason,
            "attempts": telling.attempts,
            "outcome": outcome,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "seconds": round(seconds, 4),
        }
        REQUEST_LOG.info("%s", json.dumps(told))
        return told

    async def render(self, model: str | None, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids that engines would get for `prompt`; raises `ContextOverflow` when no group could take it."""
        with client_faults():
            return await self._render(self.catalog.resolve(model).prompted(prompt), self.fleet())

    async def route(self, request: GenerateRequest) -> RouteTrial:
        """Return where `request` would go now; asks no engine. Raises what would refuse the request itself."""
        request = self._resolved(request)
        fleet = self._attempts.survey()
        request = replace(request, window=bounded_window(request, fleet))
        decision = self._decide(request)
        with client_faults():
            prompts = [(await self._fitted(prompt, request, fleet))[0] for prompt in request.prompts]
        try:
            route = self._policy.choose(request, decision.task, max(len(ids) for ids in prompts), fleet)
        except NoEngine as error:
            return RouteTrial(decision=decision, candidates=(), reason=error.code)
        return RouteTrial(decision=decision, candidates=route.candidates, reason=route.reason)

    def _resolved(self, request: GenerateRequest) -> GenerateRequest:
        """Return the request with what its model adds; raises `ModelNotFound`, or `InvalidRequest` when the two do not fit.

        `Unsupported` where it asks for thoughts that nothing marks.
        """
        model, tags = self.catalog.resolve(request.model), self.settings.model.think_tags
        filled = replace(model.applied(request), names=self.catalog.equal_names(request.model))
        if request.think and tags is None:
            raise Unsupported(f'"{shown(request.model or model.name)}" does not support thinking', param="think")
        if request.think is False and tags is not None:
            filled = replace(filled, prompts=tuple(without_thoughts(prompt, tags) for prompt in filled.prompts))
        return filled

    def _decide(self, request: GenerateRequest) -> TaskDecision:
        return decide(request.task, request.prompts[0], self.settings.routing.task_threshold)

    async def _prepare(self, request: GenerateRequest, telling: Telling) -> list[_Job]:
        limits = self.settings.limits
        if request.n > limits.max_choices:
            raise InvalidRequest(f"n must be at most {limits.max_choices}, got {request.n}", param="n")
        if len(request.prompts) > limits.max_prompts:
            raise InvalidRequest(f"at most {limits.max_prompts} prompts per call, got {len(request.prompts)}", param="prompt")
        constraint = request.constraint
        if constraint is not None and not (self._wants(constraint, request) and await self._grammars.passes(constraint)):
            request = replace(request, constraint=None)
        fleet = self._attempts.survey()
        request = replace(request, window=bounded_window(request, fleet))
        task = telling.task = self._decide(request).task
        rendered = [await self._fitted(prompt, request, fleet) for prompt in request.prompts]
        prompts = [ids for ids, _ in rendered]
        telling.dropped_messages = sum(dropped for _, dropped in rendered)
        route = self._policy.choose(request, task, max(len(ids) for ids in prompts), fleet)
        telling.reason, telling.weighed = route.reason, route.weighed
        timeout_s = min(request.timeout_s or limits.request_timeout_s, limits.request_timeout_s)
        deadline = time.monotonic() + timeout_s
        jobs = []
        for choice in range(len(prompts) * request.n):
            number, copy = divmod(choice, request.n)
            prompt = request.prompts[number]
            tools = prompt.tools if isinstance(prompt, Chat) else ()
            order = Order(
                request=self._token_request(request, prompts[number], choice, copy, timeout_s),
                candidates=route.candidates,
                telling=telling,
                deadline=deadline,
                tokens=route.tokens / (len(prompts) * request.n),
                affinity=affinity(prompt, request.session),
                tools=bool(tools),
            )
            text = TextStream(
                self.tokenizer,
                request.stop,
                choice=choice,
                min_tokens=request.sampling.min_tokens,
                tools=tuple(tool.name for tool in tools) or None,
                strict=any(tool.strict for tool in tools),
                one_call=request.one_call,
                think_tags=self.settings.model.think_tags if isinstance(prompt, Chat) or request.think else None,
                hide_thoughts=request.think is False,
                prefill=begun(prompt, prompts[number], self.tokenizer, self.settings.model.think_tags),
            )
            prefix = self._echo(prompt, prompts[number]) if request.echo else ""
            jobs.append(_Job(order, text, tools, prefix, request.with_tokens, lenient_schema(request.constraint)))
        return jobs

    def _wants(self, constraint: Constraint, request: GenerateRequest) -> bool:
        """Tell whether a constraint is wanted here; an optional one would forbid thoughts whose marks are control tokens."""
        model = self.settings.model
        thinks = model.think_tags is not None and request.think is not False
        return not constraint.optional or (model.guided_calls and not thinks and not request.sampling.ignore_eos)

    async def _fitted(self, prompt: Prompt, request: GenerateRequest, fleet: Fleet) -> tuple[tuple[int, ...], int]:
        """Return the prompt's token ids, within the context that the client asked for, and how many turns were left out for it.

        Raises `ContextOverflow` when it cannot be made to fit.
        """
        window = request.window
        if window is None:
            return await self._render(prompt, fleet), 0
        if isinstance(prompt, Chat) and not prompt.context:
            ids, dropped = await fitted(self._template, prompt, window)
        else:
            ids, dropped = await self._render(prompt, fleet), 0
        if len(ids) >= window:
            raise ContextOverflow(
                f"The context asked for (num_ctx) is {window} tokens, but the prompt has {len(ids)} tokens and one at least is "
                "needed for the answer. Ask for more, or shorten the prompt.",
            )
        return ids, dropped

    async def _render(self, prompt: Prompt, fleet: Fleet) -> tuple[int, ...]:
        """Return the prompt's token ids, refusing early what cannot fit whatever its tokens are."""
        if isinstance(prompt, Chat):
            control_tokens = 2 * len(prompt.messages) + len(prompt.context) - (prompt.ending is Ending.CONTINUED)
            text_bytes = sum(len(message.content.encode()) for message in prompt.messages)
            text_bytes += sum(len(tool.function.encode()) for tool in prompt.tools)
            self._require_room(0 if prompt.template else text_bytes, control_tokens, fleet)
            return await self._template.render(prompt)
        if isinstance(prompt, RawText):
            self._require_room(len(prompt.text.encode()), 0, fleet)
            return tuple(await self.tokenizer.encode_async(prompt.text, special=True))
        return prompt.ids

    def _longest(self) -> int | None:
        """Return the longest context of a group that has said how long it is."""
        return max((group.info.context_length for group in self.fleet().groups if group.info is not None), default=None)

    def _require_room(self, text_bytes: int, control_tokens: int, fleet: Fleet) -> None:
        lengths = [group.info.context_length for group in fleet.groups if group.info is not None]
        least = control_tokens + text_bytes // self.tokenizer.vocabulary.longest_token_bytes
        if len(lengths) == len(fleet.groups) and least > max(lengths):
            raise ContextOverflow(
                f"This model's maximum context length is {max(lengths)} tokens, but the prompt has at least {least} tokens. "
                "Shorten the prompt.",
            )

    def _echo(self, prompt: Prompt, ids: tuple[int, ...]) -> str:
        return prompt.text if isinstance(prompt, RawText) else b"".join(map(self.tokenizer.raw, ids)).decode("utf-8", "replace")

    def _token_request(
        self, request: GenerateRequest, prompt: tuple[int, ...], choice: int, copy: int, timeout_s: float
    ) -> TokenRequest:
        sampling: Sampling = request.sampling
        stops = sampling.stop_token_ids if sampling.ignore_eos else (*sampling.stop_token_ids, *self.tokenizer.vocabulary.stop_ids)
        seed = None if sampling.seed is None else (sampling.seed + copy) % MAX_SEED
        if request.window is not None:
            room = min(max(1, request.window - len(prompt)), MAX_TOKENS)
            limit = min(sampling.max_tokens or room, room)
            sampling = replace(sampling, max_tokens=limit, min_tokens=min(sampling.min_tokens, limit))
        return TokenRequest(
            request_id=request.request_id if choice == 0 else f"{request.request_id}-{choice}",
            prompt=prompt,
            sampling=replace(sampling, stop_token_ids=tuple(dict.fromkeys(stops)), seed=seed),
            constraint=request.constraint,
            timeout_s=timeout_s,
        )

    async def _checked(self, job: _Job) -> AsyncGenerator[TextEvent, None]:
        """Do as `_run`, and flag an answer that ended by itself and is not what its schema allows."""
        said: list[str] = []
        async with aclosing(self._run(job)) as events:
            async for event in events:
                if isinstance(event, TextDelta) and not event.thought:
                    said.append(event.text)
                elif (
                    isinstance(event, Finished)
                    and event.reason is FinishReason.STOP
                    and not fits("".join(said).removeprefix(job.prefix), job.schema)
                ):
                    event = replace(event, invalid_answer=True)
                    job.order.telling.invalid_answers += (event.choice,)
                yield event

    async def _run(self, job: _Job) -> AsyncGenerator[TextEvent, None]:
        """One choice, from the first attempt to its `Finished`."""
        began = first = time.monotonic()
        tokens = self._attempts.run(job.order)
        echoed = not job.prefix
        kept = list(job.order.request.prompt) if job.with_tokens else []
        try:
            async for event in tokens:
                if not echoed:
                    echoed = True  # only now that an engine has answered: what comes first commits the headers
                    yield TextDelta(text=job.prefix, choice=job.text.choice)
                if isinstance(event, Finished):
                    for part in job.text.flush():
                        yield part
                    # What was held back may complete a stop string only now.
                    reason = FinishReason.STOP if job.text.stopped else event.reason
                    yield self._end(job, replace(event, reason=reason, tokens=tuple(kept)))
                    return
                if job.with_tokens:
                    kept.extend(event.ids)
                if not job.text.tokens:
                    first = time.monotonic()
                for part in job.text.push(event):
                    yield part
                if job.text.stopped:
                    usage = Usage(prompt_tokens=len(job.order.request.prompt), completion_tokens=job.text.tokens)
                    # The engine's own timings are lost with its end; these include its queue and the way there.
                    timings = Timings(prefill_s=first - began, decode_s=time.monotonic() - first)
                    yield self._end(job, Finished(reason=FinishReason.STOP, usage=usage, timings=timings, tokens=tuple(kept)))
                    return
        finally:
            await tokens.aclose()
        raise IncompleteGeneration("the engine's stream ended before the answer did; try again")

    def _end(self, job: _Job, end: Finished) -> Finished:
        """Return a choice's end with what is known of its calls, and learn how long it was."""
        telling, calls = job.order.telling, job.text.calls
        self._attempts.workload.answered(telling.task or Task.GENERAL, end.usage.completion_tokens)
        invalid = invalid_calls(job.tools, calls)
        telling.invalid_calls += invalid
        reason = FinishReason.TOOL_CALLS if calls and end.reason is FinishReason.STOP else end.reason
        return replace(end, reason=reason, choice=job.text.choice, invalid_calls=invalid)
