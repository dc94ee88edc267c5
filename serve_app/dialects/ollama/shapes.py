"""Objects that Ollama's answers, lines and errors have in common. Pure."""

import json
from datetime import UTC, datetime
from typing import Any

from serve_app.conversation import ChoiceEnd, TextLogprob, ToolCall
from serve_app.dialects.base import AnswerContext, JsonObject, dump
from serve_app.dialects.ollama.wire import ChatBody, GenerateBody
from serve_app.errors import ModelNotFound, Overloaded, ServeError
from serve_app.strict_json import load
from serve_app.types import FinishReason

MEDIA_TYPE = "application/x-ndjson"
_NS = 1_000_000_000
ERROR_SCHEMA: JsonObject = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
"""What `encode_error` returns."""


def encode_error(error: ServeError, request_id: str) -> JsonObject:
    """Return Ollama's error object; its clients compare some of the texts."""
    if isinstance(error, ModelNotFound) and error.model:
        return {"error": f"model '{error.model}' not found"}
    if isinstance(error, Overloaded):
        return {"error": "server busy, please try again.  maximum pending requests exceeded"}
    return {"error": error.message}


def line(value: JsonObject) -> bytes:
    """Return one line of a streamed answer."""
    return dump(value) + b"\n"


def moment(unix_s: float) -> str:
    """Return an instant as Ollama writes it."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def head(call: AnswerContext[ChatBody] | AnswerContext[GenerateBody]) -> JsonObject:
    """Return what every answer and line begins with."""
    return {"model": call.model, "created_at": moment(call.created + call.elapsed())}


def figures(end: ChoiceEnd, call: AnswerContext[ChatBody] | AnswerContext[GenerateBody]) -> JsonObject:
    """Return what the last line tells of the generation, times in nanoseconds.

    The model is loaded before any request comes, so that takes none of its time. What the total has beyond the other two was spent
    waiting and on the way.
    """
    timings, usage = end.timings, end.usage
    flagged: JsonObject = {"invalid_tool_arguments": list(end.invalid_calls)} if end.invalid_calls else {}
    flagged |= {"invalid_answer": True} if end.invalid_answer else {}
    return flagged | {
        "done": True,
        "done_reason": "length" if end.reason is FinishReason.LENGTH else "stop",
        "total_duration": round(call.elapsed() * _NS),
        "load_duration": 0,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": round(timings.prefill_s * _NS),
        "eval_count": usage.completion_tokens,
        "eval_duration": round(timings.decode_s * _NS),
    }


def loaded(call: AnswerContext[ChatBody] | AnswerContext[GenerateBody]) -> JsonObject:
    """Return how a request without a prompt ends."""
    return {"done": True, "done_reason": "unload" if seconds(call.body.keep_alive) == 0 else "load"}


def seconds(keep_alive: str | float | None) -> float | None:
    """Return the number in a duration that is known to be well-formed, 0 only for none at all; None when it is not given."""
    if isinstance(keep_alive, str):
        return 0.0 if not keep_alive.strip("+-0.hmsnuµ") else 1.0
    return keep_alive


def written(call: ToolCall) -> str:
    """Return a call that `show_call` cannot show as the text it is; Ollama too leaves as text what it cannot read."""
    text = f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments}'
    return text + "}" * _is_json(call.arguments)


def _is_json(text: str) -> bool:
    try:
        load(text)
    except (ValueError, RecursionError):
        return False
    return True


def show_call(call: ToolCall) -> JsonObject | None:
    """Return a tool call, its arguments as an object; None where they are none, or were cut off."""
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
