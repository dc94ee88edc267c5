"""One choice of an answer: token events of engines in, text events out.

Knows the prepared choice and its text stream; no group's name, no dialect.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from serve_app.chat.arguments import find_invalid_calls, fits_schema
from serve_app.conversation import AnswerDelta, ChoiceEnd, TextDelta
from serve_app.errors import DeadlineExceeded, IncompleteGeneration
from serve_app.models.served import PreparedChoice
from serve_app.record import RequestRecord
from serve_app.routing.affinity import derive_affinity
from serve_app.routing.policy import Route
from serve_app.types import Finished, FinishReason, Timings, TokenEvent, Usage


@dataclass(slots=True, kw_only=True)
class Generation:
    """One choice to be generated."""

    choice: PreparedChoice
    candidates: tuple[str, ...]
    """Groups that may answer, best first."""
    record: RequestRecord
    deadline: float
    """Monotonic seconds at which the client's time limit ends."""
    work: float = 0.0
    """Estimated work, in generated tokens."""
    affinity: str = ""
    """Generations of equal affinity share the beginning of their prompts, and go to one replica."""
    _started_s: float = 0.0
    _first_token_s: float = 0.0
    _has_ended: bool = False
    _ids: list[int] = field(default_factory=list)
    _answer: list[str] = field(default_factory=list)
    """The text so far, kept where it must fit a schema."""

    async def read(self, tokens: AsyncGenerator[TokenEvent, None]) -> AsyncGenerator[AnswerDelta | ChoiceEnd, None]:
        """Yield the choice's deltas and its `ChoiceEnd`; closing the iterator closes `tokens`.

        Raises what `tokens` raises, and `IncompleteGeneration` when they end without `Finished`.
        """
        self._started_s = self._first_token_s = time.monotonic()
        choice, text, echo = self.choice, self.choice.text, self.choice.echo
        try:
            async with aclosing(tokens):
                async for event in tokens:
                    if echo:  # not before an engine has answered: the first event commits the headers
                        yield TextDelta(text=echo, choice=text.choice)
                        echo = ""
                    if isinstance(event, Finished):
                        for delta in text.flush():
                            yield self._note_text(delta)
                        yield self._end_choice(event)
                        return
                    self.record.generated += len(event.ids)
                    if choice.with_tokens:
                        self._ids.extend(event.ids)
                    if not text.tokens:
                        self._first_token_s = time.monotonic()
                    for delta in text.push(event):
                        yield self._note_text(delta)
                    if text.stopped:
                        yield self._end_choice(self._finish_early())
                        return
        except Exception as error:  # whatever it is, the client is not to blame for the time that an engine spent
            self.record.has_failed |= not isinstance(error, DeadlineExceeded)
            raise
        finally:
            # A prompt that an engine had counts, also where the client did not wait for the first token.
            was_read = not self.record.has_failed and self.record.attempts > self.record.earlier_attempts
            if not self._has_ended and (text.tokens or was_read):
                self.record.broken[text.choice] = self._count_tokens()
                self.record.broken_s += time.monotonic() - self._started_s
        raise IncompleteGeneration("the engine's stream ended before the answer did; try again")

    def _note_text(self, delta: AnswerDelta) -> AnswerDelta:
        if self.choice.schema and isinstance(delta, TextDelta):
            self._answer.append(delta.text)
        return delta

    def _finish_early(self) -> Finished:
        """Return the end of an answer that a stop string ended; the engine's timings and cached tokens are then unknown."""
        timings = Timings(prefill_s=self._first_token_s - self._started_s, decode_s=time.monotonic() - self._first_token_s)
        return Finished(reason=FinishReason.STOP, usage=self._count_tokens(), timings=timings)

    def _count_tokens(self) -> Usage:
        return Usage(prompt_tokens=len(self.choice.request.prompt), completion_tokens=self.choice.text.tokens)

    def _end_choice(self, finished: Finished) -> ChoiceEnd:
        choice, text = self.choice, self.choice.text
        # Only the flush may reveal that text held back completes a stop string.
        reason = FinishReason.STOP if text.stopped else finished.reason
        if text.calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        is_whole = bool(choice.schema) and reason is FinishReason.STOP
        end = ChoiceEnd(
            reason=reason,
            usage=finished.usage,
            timings=finished.timings,
            stop_sequence=text.stop_sequence,
            choice=text.choice,
            tokens=(*choice.request.prompt, *self._ids) if choice.with_tokens else (),
            invalid_calls=find_invalid_calls(choice.tools, text.calls),
            invalid_answer=is_whole and not fits_schema("".join(self._answer), choice.schema),
        )
        self._has_ended = True
        self.record.add_end(end)
        return end


def build_generations(
    choices: Sequence[PreparedChoice], route: Route, session: str | None, record: RequestRecord
) -> list[Generation]:
    """Return one generation per choice of a request; `session` is the client's name of the conversation."""
    return [
        Generation(
            choice=choice,
            candidates=route.candidates,
            record=record,
            deadline=time.monotonic() + (choice.request.timeout_s or 0.0),
            work=route.work / len(choices),
            affinity=derive_affinity(choice.prompt, session),
        )
        for choice in choices
    ]
