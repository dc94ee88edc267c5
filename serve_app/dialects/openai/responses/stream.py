"""Encodes streamed answers of the Responses API as server-sent events, numbered from 0. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from serve_app.conversation import AnswerEvent, ChoiceEnd, Started, TextDelta, TextLogprob, ThoughtDelta, ToolCallDelta
from serve_app.dialects.base import JsonObject, dump
from serve_app.dialects.openai.responses import shapes
from serve_app.dialects.openai.responses.exchange import Exchange
from serve_app.dialects.openai.shapes import show_chat_logprobs
from serve_app.dialects.openai.stream import MEDIA_TYPE
from serve_app.dialects.shared_wire import show_invalid
from serve_app.errors import ServeError


@dataclass(slots=True)
class _OpenItem:
    """The output item that is being written."""

    kind: str | int
    """`text`, `thought`, or the number of a call."""
    id: str
    call_id: str = ""
    name: str = ""
    text: list[str] = field(default_factory=list)
    """The pieces of its text or arguments."""
    logprobs: list[TextLogprob] = field(default_factory=list)


class ResponsesEncoder:
    """One response: created, its items one after the other, completed."""

    media_type = MEDIA_TYPE

    def __init__(self, exchange: Exchange) -> None:
        """Encode the answer of `exchange`."""
        self._exchange = exchange
        self._events = 0
        self._open: _OpenItem | None = None
        self._done: list[JsonObject] = []
        self._closing: list[bytes] = []
        self._last: JsonObject | None = None
        """The final response object, once it is made."""
        self._with_logprobs = shapes.wants_logprobs(exchange.context.body)

    def push(self, event: AnswerEvent) -> Iterable[bytes]:
        """See `StreamEncoder.push`."""
        if not self._events:
            opening = shapes.show_response(self._exchange, "in_progress")
            yield self._event("response.created", {"response": opening})
            yield self._event("response.in_progress", {"response": opening})
        if isinstance(event, Started):
            return
        if isinstance(event, ChoiceEnd):
            yield from self._finish(event)
        elif isinstance(event, ToolCallDelta):
            yield from self._push_call(event)
        elif event.text:
            yield from self._push_text(event)

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """See `StreamEncoder.fail`."""
        yield from self._finish(error)

    async def keep(self, ending: ChoiceEnd | ServeError) -> None:
        """See `KeepingEncoder.keep`."""
        response = self._make_last(ending)
        self._last = response | {"store": await self._exchange.keep(response)}

    def _finish(self, ending: ChoiceEnd | ServeError) -> Iterable[bytes]:
        last = self._last or self._make_last(ending)
        yield from self._closing
        yield self._event(f"response.{last['status']}", {"response": last})

    def _make_last(self, ending: ChoiceEnd | ServeError) -> JsonObject:
        """Return the final response object; `_closing` are the events before it."""
        if isinstance(ending, ServeError):
            return shapes.show_response(self._exchange, "failed", self._done) | {"error": shapes.show_error(ending)}
        status = shapes.find_status(ending)
        if self._open is None and not self._done:
            self._closing += self._switch("text", "msg")
        self._closing += self._close(status)
        return shapes.show_response(self._exchange, status, self._done, ending) | show_invalid(ending)

    def _event(self, kind: str, fields: JsonObject) -> bytes:
        data = {"type": kind, "sequence_number": self._events} | fields
        self._events += 1
        return f"event: {kind}\ndata: ".encode() + dump(data) + b"\n\n"

    def _push_text(self, event: TextDelta | ThoughtDelta) -> Iterable[bytes]:
        is_thought = isinstance(event, ThoughtDelta)
        yield from self._switch("thought" if is_thought else "text", "rs" if is_thought else "msg")
        assert self._open is not None
        self._open.text.append(event.text)
        fields: JsonObject = self._place() | {"content_index": 0, "delta": event.text}
        if is_thought:
            yield self._event("response.reasoning_text.delta", fields)
            return
        shown = event.logprobs if self._with_logprobs else ()
        self._open.logprobs.extend(shown)
        yield self._event("response.output_text.delta", fields | {"logprobs": show_chat_logprobs(shown)})

    def _push_call(self, event: ToolCallDelta) -> Iterable[bytes]:
        yield from self._switch(event.index, "fc", call_id=event.id, name=event.name)
        if event.arguments:
            assert self._open is not None
            self._open.text.append(event.arguments)
            yield self._event("response.function_call_arguments.delta", self._place() | {"delta": event.arguments})

    def _place(self) -> JsonObject:
        assert self._open is not None
        return {"item_id": self._open.id, "output_index": len(self._done)}

    def _switch(self, kind: str | int, prefix: str, *, call_id: str = "", name: str = "") -> Iterable[bytes]:
        """Open an item, after the end of another one."""
        if self._open is not None and self._open.kind == kind:
            return
        yield from self._close("completed")
        item_id = shapes.name_item(prefix, self._exchange, len(self._done))
        self._open = _OpenItem(kind, item_id, call_id, name)
        added = self._show(self._open, "in_progress", whole=False)
        yield self._event("response.output_item.added", {"output_index": len(self._done), "item": added})
        if kind == "text":
            part = {"content_index": 0, "part": shapes.show_part("")}
            yield self._event("response.content_part.added", self._place() | part)
        elif kind == "thought":
            part = {"content_index": 0, "part": {"type": "reasoning_text", "text": ""}}
            yield self._event("response.content_part.added", self._place() | part)

    def _show(self, item: _OpenItem, status: str, *, whole: bool = True) -> JsonObject:
        text = "".join(item.text) if whole else ""
        if item.kind == "text":
            content = [shapes.show_part(text, tuple(item.logprobs))] if whole else []
            return shapes.show_message(item.id, content, status)
        if item.kind == "thought":
            return shapes.show_thought(item.id, text)
        return shapes.show_call(item.id, item.call_id, item.name, text, status)

    def _close(self, status: str) -> Iterable[bytes]:
        item = self._open
        if item is None:
            return
        text, place = "".join(item.text), self._place()
        if item.kind == "text":
            logprobs = show_chat_logprobs(tuple(item.logprobs))
            yield self._event("response.output_text.done", place | {"content_index": 0, "text": text, "logprobs": logprobs})
            part = shapes.show_part(text, tuple(item.logprobs))
            yield self._event("response.content_part.done", place | {"content_index": 0, "part": part})
        elif item.kind == "thought":
            yield self._event("response.reasoning_text.done", place | {"content_index": 0, "text": text})
            part = {"type": "reasoning_text", "text": text}
            yield self._event("response.content_part.done", place | {"content_index": 0, "part": part})
        else:
            yield self._event("response.function_call_arguments.done", place | {"arguments": text, "name": item.name})
        shown = self._show(item, status)
        yield self._event("response.output_item.done", {"output_index": len(self._done), "item": shown})
        self._done.append(shown)
        self._open = None
