"""One choice of an answer: token events of engines in, text events out.

Knows what the choice was asked for and how its text is read; no group's name, no dialect.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from serve_app.chat.arguments import fits, invalid_calls
from serve_app.chat.constraint import lenient_schema
from serve_app.chat.text_stream import TextStream
from serve_app.conversation import AnswerDelta, Chat, ChoiceEnd, TextDelta, Tool
from serve_app.errors import IncompleteGeneration
from serve_app.models.served import PreparedRequest
from serve_app.record import RequestRecord
from serve_app.routing.affinity import affinity
from serve_app.routing.policy import Route
from serve_app.types import Finished, FinishReason, Timings, TokenEvent, TokenRequest, Usage


@dataclass(slots=True, kw_only=True)
class Generation:
    """One choice to be generated."""

    request: TokenRequest
    candidates: tuple[str, ...]
    """Groups that may answer, best first."""
    record: RequestRecord
    deadline: float
    """Monotonic seconds at which the client's time is over."""
    text: TextStream
    work: float = 0.0
    """Estimated work, in generated tokens."""
    affinity: str = ""
    """Generations of equal affinity share the beginning of their prompts."""
    tools: tuple[Tool, ...] = ()
    """Tools that the answer may call."""
    schema: str = ""
    """JSON schema that an answer without calls should fit, though its constraint may not enforce all of it; empty: none."""
    echo: str = ""
    """Text that stands before the answer."""
    with_tokens: bool = False
    """Whether the end should hold prompt and answer as token ids."""
    _began: float = field(default_factory=time.monotonic)
    _first_token: float = 0.0
    _ids: list[int] = field(default_factory=list)
    _answer: list[str] = field(default_factory=list)
    """The text so far, kept where it must fit a schema."""

    async def read(self, tokens: AsyncGenerator[TokenEvent, None]) -> AsyncGenerator[AnswerDelta | ChoiceEnd, None]:
        """Yield the choice's deltas and its `ChoiceEnd`; closing the iterator closes `tokens`.

        Raises what `tokens` raises, and `IncompleteGeneration` when they end without `Finished`.
        """
        self._began = self._first_token = time.monotonic()
        echo = self.echo
        async with aclosing(tokens):
            async for event in tokens:
                if echo:  # only now that an engine has answered: the first event commits the headers
                    yield TextDelta(text=echo, choice=self.text.choice)
                    echo = ""
                if isinstance(event, Finished):
                    for delta in self.text.flush():
                        yield self._seen(delta)
                    yield self._end(event)
                    return
                if self.with_tokens:
                    self._ids.extend(event.ids)
                if not self.text.tokens:
                    self._first_token = time.monotonic()
                for delta in self.text.push(event):
                    yield self._seen(delta)
                if self.text.stopped:
                    yield self._end(self._stopped())
                    return
        raise IncompleteGeneration("the engine's stream ended before the answer did; try again")

    def _seen(self, delta: AnswerDelta) -> AnswerDelta:
        if self.schema and isinstance(delta, TextDelta):
            self._answer.append(delta.text)
        return delta

    def _stopped(self) -> Finished:
        """Return the end of an answer that a stop string ended; the engine's timings and cached tokens are lost with its end."""
        usage = Usage(prompt_tokens=len(self.request.prompt), completion_tokens=self.text.tokens)
        timings = Timings(prefill_s=self._first_token - self._began, decode_s=time.monotonic() - self._first_token)
        return Finished(reason=FinishReason.STOP, usage=usage, timings=timings)

    def _end(self, finished: Finished) -> ChoiceEnd:
        calls = self.text.calls
        # Text that was held back may complete a stop string only in the flush.
        reason = FinishReason.STOP if self.text.stopped else finished.reason
        if calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        end = ChoiceEnd(
            reason=reason,
            usage=finished.usage,
            timings=finished.timings,
            stop_sequence=self.text.stop_sequence,
            choice=self.text.choice,
            tokens=(*self.request.prompt, *self._ids) if self.with_tokens else (),
            invalid_calls=invalid_calls(self.tools, calls),
            invalid_answer=bool(self.schema) and reason is FinishReason.STOP and not fits("".join(self._answer), self.schema),
        )
        self.record.add_end(end)
        return end


def build_generations(prepared: PreparedRequest, route: Route, record: RequestRecord, limit_s: float) -> list[Generation]:
    """Return one generation per choice of a request, which may take `limit_s` seconds; raises `InvalidValue`."""
    request = prepared.request
    timeout_s = min(request.timeout_s or limit_s, limit_s)
    deadline = time.monotonic() + timeout_s
    generations = []
    for choice in range(prepared.choices):
        prompt = prepared.prompt_of(choice).prompt
        generations.append(
            Generation(
                request=prepared.token_request(choice, timeout_s),
                candidates=route.candidates,
                record=record,
                deadline=deadline,
                text=prepared.text_stream(choice),
                work=route.work / prepared.choices,
                affinity=affinity(prompt, request.session),
                tools=prompt.tools if isinstance(prompt, Chat) else (),
                schema=lenient_schema(prepared.constraint),
                echo=prepared.echo(choice),
                with_tokens=request.with_tokens,
            )
        )
    return generations
