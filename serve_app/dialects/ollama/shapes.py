"""Objects that Ollama's answers, lines and errors share. Pure."""

import json
from datetime import UTC, datetime
from typing import Any

from serve_app.conversation import ChoiceEnd, TextLogprob, ToolCall
from serve_app.dialects.base import AnswerContext, JsonObject, dump
from serve_app.dialects.ollama.wire import ChatBody, GenerateBody
from serve_app.dialects.shared_wire import show_invalid
from serve_app.errors import ModelNotFound, Overloaded, ServeError
from serve_app.strict_json import load
from serve_app.types import FinishReason

MEDIA_TYPE = "application/x-ndjson"
NS_PER_S = 1_000_000_000
ERROR_SCHEMA: JsonObject = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
"""JSON schema of the result of `encode_error`."""


def encode_error(error: ServeError, request_id: str) -> JsonObject:
    """Return Ollama's error object; its clients compare some of the texts."""
    if isinstance(error, ModelNotFound) and error.model:
        return {"error": f"model '{error.model}' not found"}
    if isinstance(error, Overloaded):
        return {"error": "server busy, please try again.  maximum pending requests exceeded"}
    return {"error": error.message}


def encode_line(value: JsonObject) -> bytes:
    """Return one line of a streamed answer."""
    return dump(value) + b"\n"


def format_time(unix_s: float) -> str:
    """Return a time in the format of Ollama."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def show_head(context: AnswerContext[ChatBody] | AnswerContext[GenerateBody]) -> JsonObject:
    """Return the first fields of every answer and line."""
    return {"model": context.model, "created_at": format_time(context.created + context.elapsed())}


def show_end(end: ChoiceEnd, context: AnswerContext[ChatBody] | AnswerContext[GenerateBody]) -> JsonObject:
    """Return the fields of the last line: reason, counts and times in nanoseconds.

    The model is loaded before any request arrives, so `load_duration` is 0. The rest of the total is time spent waiting and in
    transit.
    """
    timings, usage = end.timings, end.usage
    return show_invalid(end) | {
        "done": True,
        "done_reason": "length" if end.reason is FinishReason.LENGTH else "stop",
        "total_duration": round(context.elapsed() * NS_PER_S),
        "load_duration": 0,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": round(timings.prefill_s * NS_PER_S),
        "eval_count": usage.completion_tokens,
        "eval_duration": round(timings.decode_s * NS_PER_S),
    }


def show_loaded(context: AnswerContext[ChatBody] | AnswerContext[GenerateBody]) -> JsonObject:
    """Return the last fields of the answer to a request without a prompt."""
    return {"done": True, "done_reason": "unload" if _unloads(context.body.keep_alive) else "load"}


def _unloads(keep_alive: str | float | None) -> bool:
    """Return whether a well-formed `keep_alive` asks to unload: a duration of 0."""
    if isinstance(keep_alive, str):
        return not keep_alive.strip("+-0.hmsnuµ")
    return keep_alive == 0


def write_call(call: ToolCall) -> str:
    """Return a call that `show_call` cannot show as text; Ollama too leaves unreadable calls as text."""
    text = f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments}'
    return text + "}" * _is_json(call.arguments)


def _is_json(text: str) -> bool:
    try:
        load(text)
    except (ValueError, RecursionError):
        return False
    return True


def show_call(call: ToolCall) -> JsonObject | None:
    """Return a tool call, its arguments as an object; None where they are no object, or were cut off."""
    try:
        arguments: Any = load(call.arguments or "{}")
    except (ValueError, RecursionError):
        return None
    if not isinstance(arguments, dict):
        return None
    return {"id": call.id, "function": {"name": call.name, "arguments": arguments}}


def show_logprobs(logprobs: tuple[TextLogprob, ...]) -> list[JsonObject]:
    """Return the logprobs of an answer or a line."""
    return [
        {
            "token": entry.token,
            "logprob": entry.logprob,
            "bytes": list(entry.raw),
            "top_logprobs": [{"token": token, "logprob": value, "bytes": list(raw)} for token, raw, value in entry.top],
        }
        for entry in logprobs
    ]
