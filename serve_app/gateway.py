"""The one path of every request: admit, resolve the model, classify, render, choose a group, attempt, turn tokens into text.

Knows groups only as things that generate token events, and clients only as `GenerateRequest`s. No web framework, no Ray.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from serve_app.chat.template import ChatTemplate
from serve_app.chat.text_stream import TextStream
from serve_app.chat.tokenizer import Tokenizer
from serve_app.config import AppSettings
from serve_app.conversation import Chat, GenerateRequest, Prompt, RawText, RouteTrial, TaskDecision, TextDelta, TextEvent
from serve_app.errors import (
    ContextOverflow,
    DeadlineExceeded,
    IncompleteGeneration,
    InvalidRequest,
    NoEngine,
    Overloaded,
    ServeError,
)
from serve_app.models.catalog import Catalog
from serve_app.routing.fleet import Fleet
from serve_app.routing.policy import Policy
from serve_app.routing.tasks import decide
from serve_app.types import MAX_SEED, Finished, FinishReason, InvalidValue, Sampling, Task, Timings, TokenEvent, TokenRequest, Usage

_RETRY_PAUSE_S = 0.1
"""Mean pause before a group is asked again."""


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


@dataclass(slots=True)
class _Job:
    """One choice on its way: the engine's request, its route and its stop strings."""

    request: TokenRequest
    candidates: tuple[str, ...]
    text: TextStream
    prefix: str
    telling: Telling
    deadline: float


@dataclass(slots=True)
class Gateway:
    """Turns text requests into text events; see the module's docstring for the steps."""

    settings: AppSettings
    tokenizer: Tokenizer
    catalog: Catalog
    generators: Mapping[str, Generator]
    fleet: Callable[[], Fleet]
    """Returns the groups' state now."""
    active: int = 0
    """Generations being worked on."""
    _template: ChatTemplate = field(init=False)
    _policy: Policy = field(init=False)

    def __post_init__(self) -> None:
        """Prepare template and policy."""
        self._template = ChatTemplate(self.tokenizer)
        self._policy = Policy(self.settings.routing)

    async def generate(self, request: GenerateRequest, telling: Telling) -> AsyncGenerator[TextEvent, None]:
        """Yield any number of `TextDelta`s and one `Finished` per choice; closing the iterator aborts everything.

        `telling` is complete when the first event is out. Raises `ServeError` only.
        """
        cost = len(request.prompts) * request.n
        if self.active and self.active + cost > self.settings.limits.max_concurrent_generations:
            raise Overloaded("too many requests are being served; try again later", retry_after_s=1.0)
        self.active += cost
        try:
            jobs = await self._prepare(request, telling)
            async with aclosing(_merge([self._run(job) for job in jobs])) as events:
                async for event in events:
                    yield event
        finally:
            self.active -= cost

    async def render(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids that engines would get for `prompt`; raises `ContextOverflow` when no group could take it."""
        return await self._render(prompt, self.fleet())

    async def route(self, request: GenerateRequest) -> RouteTrial:
        """Return where `request` would go now; asks no engine. Raises what would refuse the request itself."""
        self.catalog.resolve(request.model)
        fleet = self.fleet()
        decision = self._decide(request)
        prompts = [await self._render(prompt, fleet) for prompt in request.prompts]
        try:
            route = self._policy.choose(request, decision.task, max(len(ids) for ids in prompts), fleet)
        except NoEngine as error:
            return RouteTrial(decision=decision, candidates=(), reason=error.code)
        return RouteTrial(decision=decision, candidates=route.candidates, reason=route.reason)

    def _decide(self, request: GenerateRequest) -> TaskDecision:
        return decide(request.task, request.prompts[0], self.settings.routing.task_threshold)

    async def _prepare(self, request: GenerateRequest, telling: Telling) -> list[_Job]:
        limits = self.settings.limits
        self.catalog.resolve(request.model)
        if request.n > limits.max_choices:
            raise InvalidRequest(f"n must be at most {limits.max_choices}, got {request.n}", param="n")
        if len(request.prompts) > limits.max_prompts:
            raise InvalidRequest(f"at most {limits.max_prompts} prompts per call, got {len(request.prompts)}", param="prompt")
        fleet = self.fleet()
        task = telling.task = self._decide(request).task
        prompts = [await self._render(prompt, fleet) for prompt in request.prompts]
        route = self._policy.choose(request, task, max(len(ids) for ids in prompts), fleet)
        telling.reason = route.reason
        timeout_s = min(request.timeout_s or limits.request_timeout_s, limits.request_timeout_s)
        deadline = time.monotonic() + timeout_s
        jobs = []
        for choice in range(len(prompts) * request.n):
            number, copy = divmod(choice, request.n)
            token_request = self._token_request(request, prompts[number], choice, copy, timeout_s)
            text = TextStream(
                self.tokenizer,
                request.stop,
                choice=choice,
                min_tokens=request.sampling.min_tokens,
                tools=_offered(request.prompts[number]),
            )
            prefix = self._echo(request.prompts[number], prompts[number]) if request.echo else ""
            jobs.append(_Job(token_request, route.candidates, text, prefix, telling, deadline))
        return jobs

    async def _render(self, prompt: Prompt, fleet: Fleet) -> tuple[int, ...]:
        """Return the prompt's token ids, refusing early what cannot fit whatever its tokens are."""
        if isinstance(prompt, Chat):
            control_tokens = 2 * len(prompt.messages)
            text_bytes = sum(len(message.content.encode()) for message in prompt.messages)
            text_bytes += sum(len(tool.function.encode()) for tool in prompt.tools)
            self._require_room(text_bytes, control_tokens, fleet)
            return await self._template.render(prompt)
        if isinstance(prompt, RawText):
            self._require_room(len(prompt.text.encode()), 0, fleet)
            return tuple(await self.tokenizer.encode_async(prompt.text, special=True))
        return prompt.ids

    def _require_room(self, text_bytes: int, control_tokens: int, fleet: Fleet) -> None:
        lengths = [group.info.context_length for group in fleet.groups if group.info is not None]
        least = control_tokens + text_bytes // self.tokenizer.longest_token_bytes
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
        stops = sampling.stop_token_ids if sampling.ignore_eos else (*sampling.stop_token_ids, *self.tokenizer.stop_ids)
        seed = None if sampling.seed is None else (sampling.seed + copy) % MAX_SEED
        try:
            return TokenRequest(
                request_id=request.request_id if choice == 0 else f"{request.request_id}-{choice}",
                prompt=prompt,
                sampling=replace(sampling, stop_token_ids=tuple(dict.fromkeys(stops)), seed=seed),
                constraint=request.constraint,
                timeout_s=timeout_s,
            )
        except InvalidValue as error:
            raise InvalidRequest(str(error), param=error.field) from error

    async def _run(self, job: _Job) -> AsyncGenerator[TextEvent, None]:
        """One choice, from the first attempt to its `Finished`."""
        began = time.monotonic()
        tokens = self._attempt(job)
        echoed = not job.prefix
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
                    if job.text.calls and reason is FinishReason.STOP:
                        reason = FinishReason.TOOL_CALLS
                    yield replace(event, reason=reason, choice=job.text.choice)
                    return
                for part in job.text.push(event):
                    yield part
                if job.text.stopped:
                    usage = Usage(prompt_tokens=len(job.request.prompt), completion_tokens=job.text.tokens)
                    timings = Timings(decode_s=time.monotonic() - began)
                    yield Finished(reason=FinishReason.STOP, usage=usage, timings=timings, choice=job.text.choice)
                    return
        finally:
            await tokens.aclose()
        raise IncompleteGeneration("the engine's stream ended before the answer did; try again")

    async def _attempt(self, job: _Job) -> AsyncGenerator[TokenEvent, None]:
        """Try the candidates in turn until one yields; after its first token, its failures are final.

        A group that is full is not asked again; one that failed is, after a short pause.
        """
        last: ServeError = NoEngine("no attempt was made")
        full: set[str] = set()
        for attempt in range(self.settings.routing.max_attempts):
            group = job.candidates[attempt % len(job.candidates)]
            if group in full:
                break
            if attempt >= len(job.candidates):
                await asyncio.sleep(random.uniform(0.5, 1.5) * _RETRY_PAUSE_S)
            job.telling.attempts = max(job.telling.attempts, attempt + 1)
            job.telling.engine = group
            if group != job.candidates[0]:
                job.telling.reason = "failover"
            stream = self.generators[group].generate(job.request)
            yielded = False
            try:
                while (event := await _next(stream, job.deadline)) is not None:
                    yield event
                    yielded = True
                return
            except ServeError as error:
                if yielded or not error.retryable:
                    raise
                last = error
                if isinstance(error, Overloaded):
                    full.add(group)
            finally:
                await stream.aclose()
        raise last


def _offered(prompt: Prompt) -> tuple[str, ...] | None:
    """Return the names of the tools that an answer may call; None when it may not."""
    return tuple(tool.name for tool in prompt.tools) if isinstance(prompt, Chat) and prompt.tools else None


async def _next(stream: AsyncGenerator[TokenEvent, None], deadline: float) -> TokenEvent | None:
    """Return the next event or None at the end; raises `DeadlineExceeded` at the monotonic `deadline`."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await anext(stream, None)
    except TimeoutError as error:
        raise DeadlineExceeded("the time for this request is over; ask for fewer tokens or allow more time") from error


async def _merge(streams: list[AsyncGenerator[TextEvent, None]]) -> AsyncGenerator[TextEvent, None]:
    """Interleave several streams as their events come; the first failure ends all."""
    if len(streams) == 1:
        try:
            async for event in streams[0]:
                yield event
        finally:
            await streams[0].aclose()
        return
    queue: asyncio.Queue[TextEvent | BaseException | None] = asyncio.Queue(maxsize=64)

    async def pump(stream: AsyncGenerator[TextEvent, None]) -> None:
        try:
            async for event in stream:
                await queue.put(event)
            await queue.put(None)
        except Exception as error:
            await queue.put(error)
        finally:
            await stream.aclose()

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    running = len(tasks)
    try:
        while running:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
