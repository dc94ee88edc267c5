"""Encodes streamed answers of Anthropic's API as server-sent events. Pure."""

from collections.abc import Iterable

from serve_app.conversation import AnswerEvent, ChoiceEnd, Started, ThoughtDelta, ToolCallDelta
from serve_app.dialects.anthropic.shapes import encode_error, encode_event, show_call_start, show_head, show_stop, show_usage
from serve_app.dialects.anthropic.wire import MessagesBody
from serve_app.dialects.base import AnswerContext, JsonObject
from serve_app.dialects.shared_wire import show_invalid
from serve_app.errors import ServeError
from serve_app.types import Usage

MEDIA_TYPE = "text/event-stream"


class MessagesEncoder:
    """One message: its start, its content blocks one after the other, its end."""

    media_type = MEDIA_TYPE

    def __init__(self, context: AnswerContext[MessagesBody]) -> None:
        """Encode the answer to `context`."""
        self._context = context
        self._has_begun = False
        self._open: str | int | None = None
        """The open block: `text`, `thinking`, or the number of a tool call."""
        self._blocks = 0

    def push(self, event: AnswerEvent) -> Iterable[bytes]:
        """See `StreamEncoder.push`."""
        if isinstance(event, Started):
            yield from self._begin(event.prompt_tokens)
            return
        if not self._has_begun:
            yield from self._begin(0)
        if isinstance(event, ChoiceEnd):
            yield from self._end(event)
        elif isinstance(event, ToolCallDelta):
            yield from self._switch(event.index, show_call_start(event.id, event.name))
            if event.arguments:
                yield self._delta({"type": "input_json_delta", "partial_json": event.arguments})
        elif isinstance(event, ThoughtDelta):
            yield from self._switch("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": event.text})
        elif event.text:
            yield from self._switch("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": event.text})

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """See `StreamEncoder.fail`."""
        shown = encode_error(error, self._context.request.request_id)
        yield encode_event("error", {name: value for name, value in shown.items() if name != "type"})

    def _begin(self, prompt_tokens: int) -> Iterable[bytes]:
        self._has_begun = True
        usage = show_usage(Usage(prompt_tokens=prompt_tokens, completion_tokens=0))
        yield encode_event("message_start", {"message": show_head(self._context, usage)})
        yield encode_event("ping", {})

    def _switch(self, block: str | int, opening: JsonObject) -> Iterable[bytes]:
        """Open a block, after the end of another one."""
        if self._open == block:
            return
        yield from self._close()
        self._open = block
        yield encode_event("content_block_start", {"index": self._blocks, "content_block": opening})

    def _delta(self, delta: JsonObject) -> bytes:
        return encode_event("content_block_delta", {"index": self._blocks, "delta": delta})

    def _close(self) -> Iterable[bytes]:
        if self._open is None:
            return
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": ""})
        yield encode_event("content_block_stop", {"index": self._blocks})
        self._open = None
        self._blocks += 1

    def _end(self, end: ChoiceEnd) -> Iterable[bytes]:
        if self._open is None and not self._blocks:
            yield from self._switch("text", {"type": "text", "text": ""})
        yield from self._close()
        yield encode_event("message_delta", {"delta": show_stop(end) | show_invalid(end), "usage": show_usage(end.usage)})
        yield encode_event("message_stop", {})
