"""A conversation as the variables of a chat template, in the form that `transformers` documents; a client's text is marked."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from serve_app.chat.formats.jinja.tracked_text import CLIENT, CUT, find_origins, mark, track
from serve_app.conversation import Chat, Ending, Message, Tool, ToolCall

CONTINUE_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
"""Stands after the text that an answer continues; `transformers` uses the same, so templates trim and measure the same text."""
EARLIER_ANSWER = "Earlier answer."
"""Stands for the conversation before `Chat.messages`."""
_ROLES = frozenset(("system", "developer", "user", "assistant", "tool"))
_SHORT_ID_CHARS = 9
_PART_CHARS = 50
_CACHED_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class CallEncoding:
    """How a template takes tool calls; `transformers` documents the default."""

    short_ids: bool = False
    """Whether ids have 9 letters and digits."""
    text_arguments: bool = False
    """Whether arguments are JSON text, not an object."""


def build_messages(chat: Chat, *, developer: bool, encoding: CallEncoding) -> list[dict[str, Any]]:
    """Return the messages of a chat, calls in the given encoding.

    Without `developer` the template does not know that role, and its messages become the system's. A tool's message has name and
    id of the call whose result it is: results follow calls in order.
    """
    messages = list(_build_earlier(chat))
    pending: Iterator[ToolCall] = iter(())
    for message in chat.messages:
        fields = _build_message(message, developer=developer)
        if message.tool_calls:
            fields["tool_calls"] = [_build_call(call, encoding) for call in message.tool_calls]
        if message.role == "assistant":
            pending = iter(message.tool_calls)
        elif message.role == "tool" and (call := next(pending, None)) is not None:
            fields["name"] = mark(call.name)
            fields["tool_call_id"] = _write_id(call, encoding)
        messages.append(fields)
    if chat.ending is Ending.CONTINUED and messages:
        content = messages[-1]["content"]
        messages[-1]["content"] = track(content + CONTINUE_MARK, find_origins(content) + CUT * len(CONTINUE_MARK))
    return messages


def _build_earlier(chat: Chat) -> Iterator[dict[str, Any]]:
    """Yield an exchange that stands for `Chat.context`."""
    if chat.context:
        yield {"role": "user", "content": mark("Earlier question.")}
        yield {"role": "assistant", "content": mark(EARLIER_ANSWER, CUT)}


def _build_message(message: Message, *, developer: bool) -> dict[str, Any]:
    role = "system" if message.role == "developer" and not developer else message.role
    return {"role": role if role in _ROLES else mark(role), "content": mark(message.content)}


def _build_call(call: ToolCall, encoding: CallEncoding) -> dict[str, Any]:
    arguments = call.arguments or "{}"
    function = {"name": mark(call.name), "arguments": mark(arguments) if encoding.text_arguments else mark_json(arguments)}
    return {"id": _write_id(call, encoding), "type": "function", "function": function}


def _write_id(call: ToolCall, encoding: CallEncoding) -> str:
    if not encoding.short_ids or (len(call.id) == _SHORT_ID_CHARS and call.id.isalnum()):
        return mark(call.id)
    return mark(hashlib.sha256(call.id.encode()).hexdigest()[:_SHORT_ID_CHARS])


def build_tools(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """Return the tools as a template gets them; None without any."""
    return [{"type": "function", "function": mark_json(tool.function)} for tool in tools] or None


def mark_json(text: str) -> Any:
    """Return a client's JSON as a value of which every string is marked; text that is no JSON becomes a string.

    The value is shared between calls; the sandbox lets no template change it.
    """
    return _mark_cached(text) if len(text) <= _CACHED_CHARS else _mark_json(text)


@lru_cache(512)
def _mark_cached(text: str) -> Any:
    return _mark_json(text)


def _mark_json(text: str) -> Any:
    try:
        return _mark_strings(json.loads(text))
    except (ValueError, RecursionError):
        return mark(text)


def _mark_strings(value: Any) -> Any:
    if isinstance(value, str):
        return mark(value, CLIENT)
    if isinstance(value, dict):
        return {mark(key, CLIENT): _mark_strings(part) for key, part in value.items()}
    return [_mark_strings(part) for part in value] if isinstance(value, list) else value


def measure(chat: Chat) -> int:
    """Return the size of a chat in characters, in which a message, a call or a tool counts at least as many as its fields need."""
    calls = [call for message in chat.messages for call in message.tool_calls]
    chars = sum(len(call.name) + len(call.arguments) for call in calls) + sum(len(message.content) for message in chat.messages)
    return (
        chars + sum(len(tool.function) for tool in chat.tools) + _PART_CHARS * (len(chat.messages) + len(calls) + len(chat.tools))
    )
