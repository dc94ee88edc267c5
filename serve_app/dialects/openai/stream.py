"""Streamed answers of OpenAI's API: events to server-sent events."""

from collections.abc import Iterable

from serve_app.conversation import TextDelta, TextEvent, TextLogprob, ToolCallDelta, total_usage
from serve_app.dialects.base import Call, JsonObject
from serve_app.dialects.openai.shapes import (
    chat_logprobs,
    encode_error,
    event,
    finish_reason,
    flagged,
    head,
    show_usage,
    text_logprobs,
)
from serve_app.dialects.openai.wire import ChatBody, CompletionBody
from serve_app.errors import ServeError
from serve_app.types import Finished

MEDIA_TYPE = "text/event-stream"


class Encoder:
    """Server-sent events: a chunk an event, an optional usage chunk, `[DONE]`."""

    media_type = MEDIA_TYPE

    def __init__(self, call: Call[ChatBody] | Call[CompletionBody], kind: str) -> None:
        self._call = call
        self._head = head(call, kind)
        self._with_usage = bool(call.body.stream_options and call.body.stream_options.include_usage)
        if self._with_usage:
            self._head["usage"] = None
        self._open = len(call.request.prompts) * call.request.n
        self._ends: list[Finished] = []

    def push(self, told: TextEvent) -> Iterable[bytes]:
        """See `StreamEncoder.push`."""
        choices = self._choices(told)
        for choice in choices:
            yield event(self._head | {"choices": [choice]})
        if isinstance(told, Finished):
            self._ends.append(told)
            if len(self._ends) == self._open:
                if self._with_usage:
                    usage = show_usage(total_usage(self._ends, self._call.request.n))
                    yield event(self._head | {"choices": [], "usage": usage})
                yield b"data: [DONE]\n\n"

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """See `StreamEncoder.fail`."""
        yield event(encode_error(error, self._call.request.request_id))
        yield b"data: [DONE]\n\n"

    def _choices(self, told: TextEvent) -> list[JsonObject]:
        raise NotImplementedError


class ChatEncoder(Encoder):
    """Chunks of a chat."""

    def __init__(self, call: Call[ChatBody], kind: str) -> None:
        super().__init__(call, kind)
        self._with_logprobs = bool(call.body.logprobs)
        self._legacy = bool(call.body.functions)
        self._begun: set[int] = set()

    def _choices(self, told: TextEvent) -> list[JsonObject]:
        parts = []
        if told.choice not in self._begun:
            self._begun.add(told.choice)
            parts.append(self._choice(told.choice, {"role": "assistant", "content": ""}))
        if isinstance(told, TextDelta):
            delta = {"reasoning": told.text, "reasoning_content": told.text} if told.thought else {"content": told.text}
            parts.append(self._choice(told.choice, delta, logprobs=told.logprobs))
        elif isinstance(told, ToolCallDelta):
            parts.append(self._choice(told.choice, _legacy_delta(told) if self._legacy else {"tool_calls": [_call_delta(told)]}))
        else:
            parts.append(self._choice(told.choice, {}, reason=finish_reason(told, self._legacy)) | flagged(told))
        return parts

    def _choice(
        self, index: int, delta: JsonObject, *, logprobs: tuple[TextLogprob, ...] = (), reason: str | None = None
    ) -> JsonObject:
        shown = {"content": chat_logprobs(logprobs), "refusal": None} if self._with_logprobs and logprobs else None
        return {"index": index, "delta": delta, "logprobs": shown, "finish_reason": reason}


class CompletionEncoder(Encoder):
    """Chunks of a completion."""

    def __init__(self, call: Call[CompletionBody], kind: str) -> None:
        super().__init__(call, kind)
        self._with_logprobs = call.body.logprobs is not None
        self._offsets: dict[int, int] = {}

    def _choices(self, told: TextEvent) -> list[JsonObject]:
        if isinstance(told, Finished):
            return [{"index": told.choice, "text": "", "logprobs": None, "finish_reason": told.reason}]
        if isinstance(told, ToolCallDelta):
            return []  # no tools are offered on this endpoint
        offset = self._offsets.get(told.choice, 0)
        self._offsets[told.choice] = offset + len(told.text)
        logprobs = text_logprobs(told.logprobs, offset) if self._with_logprobs and told.logprobs else None
        return [{"index": told.choice, "text": told.text, "logprobs": logprobs, "finish_reason": None}]


def _call_delta(delta: ToolCallDelta) -> JsonObject:
    """The first piece of a call has id, type and name; those after it arguments only."""
    if not delta.id:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    function = {"name": delta.name, "arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def _legacy_delta(delta: ToolCallDelta) -> JsonObject:
    """The first piece of the one call has its name."""
    return {"function_call": ({"name": delta.name} if delta.id else {}) | {"arguments": delta.arguments}}
