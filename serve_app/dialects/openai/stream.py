"""Encodes streamed answers of OpenAI's API as server-sent events. Pure."""

from collections.abc import Iterable

from serve_app.conversation import (
    AnswerDelta,
    AnswerEvent,
    ChoiceEnd,
    Started,
    TextLogprob,
    ThoughtDelta,
    ToolCallDelta,
    total_usage,
)
from serve_app.dialects.base import AnswerContext, JsonObject
from serve_app.dialects.openai.shapes import (
    encode_error,
    encode_event,
    show_chat_logprobs,
    show_finish_reason,
    show_head,
    show_text_logprobs,
    show_usage,
)
from serve_app.dialects.openai.wire import ChatBody, CompletionBody
from serve_app.dialects.shared_wire import show_invalid
from serve_app.errors import ServeError

MEDIA_TYPE = "text/event-stream"


class Encoder:
    """Server-sent events: a chunk per event, an optional usage chunk, `[DONE]`."""

    media_type = MEDIA_TYPE

    def __init__(self, context: AnswerContext[ChatBody] | AnswerContext[CompletionBody], kind: str) -> None:
        self._context = context
        self._head = show_head(context, kind)
        self._with_usage = bool(context.body.stream_options and context.body.stream_options.include_usage)
        if self._with_usage:
            self._head["usage"] = None
        self._expected_ends = len(context.request.prompts) * context.request.n
        self._ends: list[ChoiceEnd] = []

    def push(self, event: AnswerEvent) -> Iterable[bytes]:
        """See `StreamEncoder.push`."""
        if isinstance(event, Started):
            return
        for choice in self._show_choices(event):
            yield encode_event(self._head | {"choices": [choice]})
        if isinstance(event, ChoiceEnd):
            self._ends.append(event)
            if len(self._ends) == self._expected_ends:
                if self._with_usage:
                    usage = show_usage(total_usage(self._ends, self._context.request.n))
                    yield encode_event(self._head | {"choices": [], "usage": usage})
                yield b"data: [DONE]\n\n"

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """See `StreamEncoder.fail`."""
        yield encode_event(encode_error(error, self._context.request.request_id))
        yield b"data: [DONE]\n\n"

    def _show_choices(self, event: AnswerDelta | ChoiceEnd) -> list[JsonObject]:
        raise NotImplementedError


class ChatEncoder(Encoder):
    """Chunks of a chat."""

    def __init__(self, context: AnswerContext[ChatBody], kind: str) -> None:
        super().__init__(context, kind)
        self._with_logprobs = bool(context.body.logprobs)
        self._legacy = bool(context.body.functions)
        self._begun: set[int] = set()

    def _show_choices(self, event: AnswerDelta | ChoiceEnd) -> list[JsonObject]:
        choices = []
        if event.choice not in self._begun:
            self._begun.add(event.choice)
            choices.append(self._show_choice(event.choice, {"role": "assistant", "content": ""}))
        if isinstance(event, ChoiceEnd):
            choices.append(
                self._show_choice(event.choice, {}, reason=show_finish_reason(event, self._legacy)) | show_invalid(event)
            )
        elif isinstance(event, ToolCallDelta):
            delta = _show_legacy_delta(event) if self._legacy else {"tool_calls": [_show_call_delta(event)]}
            choices.append(self._show_choice(event.choice, delta))
        else:
            thought = isinstance(event, ThoughtDelta)
            delta = {"reasoning": event.text, "reasoning_content": event.text} if thought else {"content": event.text}
            choices.append(self._show_choice(event.choice, delta, logprobs=event.logprobs))
        return choices

    def _show_choice(
        self, index: int, delta: JsonObject, *, logprobs: tuple[TextLogprob, ...] = (), reason: str | None = None
    ) -> JsonObject:
        shown = {"content": show_chat_logprobs(logprobs), "refusal": None} if self._with_logprobs and logprobs else None
        return {"index": index, "delta": delta, "logprobs": shown, "finish_reason": reason}


class CompletionEncoder(Encoder):
    """Chunks of a completion."""

    def __init__(self, context: AnswerContext[CompletionBody], kind: str) -> None:
        super().__init__(context, kind)
        self._with_logprobs = context.body.logprobs is not None
        self._offsets: dict[int, int] = {}

    def _show_choices(self, event: AnswerDelta | ChoiceEnd) -> list[JsonObject]:
        if isinstance(event, ChoiceEnd):
            return [{"index": event.choice, "text": "", "logprobs": None, "finish_reason": event.reason}]
        if isinstance(event, ToolCallDelta):
            return []  # no tools are offered on this endpoint
        offset = self._offsets.get(event.choice, 0)
        self._offsets[event.choice] = offset + len(event.text)
        logprobs = show_text_logprobs(event.logprobs, offset) if self._with_logprobs and event.logprobs else None
        return [{"index": event.choice, "text": event.text, "logprobs": logprobs, "finish_reason": None}]


def _show_call_delta(delta: ToolCallDelta) -> JsonObject:
    """Return a piece of a call: the first piece has id, type and name, later pieces have arguments only."""
    if not delta.id:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    function = {"name": delta.name, "arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def _show_legacy_delta(delta: ToolCallDelta) -> JsonObject:
    """Return a piece of the one legacy call: the first piece has its name."""
    return {"function_call": ({"name": delta.name} if delta.id else {}) | {"arguments": delta.arguments}}
