"""Objects that OpenAI's answers, chunks and errors share. Pure."""

from serve_app.conversation import ChoiceEnd, Completion, TextLogprob, ToolCall, total_usage
from serve_app.dialects.base import AnswerContext, JsonObject, dump
from serve_app.dialects.openai.wire import ChatBody, CompletionBody
from serve_app.errors import CapacityError, QuotaExceeded, RequestError, ServeError, Unauthenticated
from serve_app.types import FinishReason, Usage

_NULLABLE = {"type": ["string", "null"]}
ERROR_SCHEMA: JsonObject = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _NULLABLE,
                "code": {"type": "string"},
            },
        }
    },
}
"""JSON schema of the result of `encode_error`."""


def encode_error(error: ServeError, request_id: str) -> JsonObject:
    """Return OpenAI's error object; the request id is in a header and needs no field."""
    return {
        "error": {
            "message": error.message,
            "type": _error_type(error),
            "param": error.param,
            "code": _CODES.get(error.code, error.code),
        }
    }


_CODES = {Unauthenticated.code: "invalid_api_key", QuotaExceeded.code: "rate_limit_exceeded"}
"""OpenAI's own codes, which its clients' users look for, where ours differ."""


def _error_type(error: ServeError) -> str:
    if isinstance(error, Unauthenticated):
        return "authentication_error"
    if isinstance(error, QuotaExceeded):
        return "rate_limit_error"
    if isinstance(error, RequestError):
        return "invalid_request_error"
    return "service_unavailable_error" if isinstance(error, CapacityError) else "server_error"


def show_head(context: AnswerContext[ChatBody] | AnswerContext[CompletionBody], kind: str) -> JsonObject:
    """Return the first fields of every answer and chunk."""
    prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
    return {"id": f"{prefix}-{context.request.request_id}", "object": kind, "created": int(context.created), "model": context.model}


def show_finish_reason(end: ChoiceEnd, legacy: bool) -> str:
    """Return why a choice ended; `legacy` for a client that gave `functions`."""
    return "function_call" if legacy and end.reason is FinishReason.TOOL_CALLS else end.reason


def show_completion_usage(completion: Completion, context: AnswerContext[ChatBody] | AnswerContext[CompletionBody]) -> JsonObject:
    """Return the usage of a whole answer."""
    return show_usage(total_usage((choice.end for choice in completion.choices), context.request.n))


def show_usage(usage: Usage) -> JsonObject:
    """Return the usage object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def show_chat_logprobs(logprobs: tuple[TextLogprob, ...]) -> list[JsonObject]:
    """Return the logprobs of a chat answer."""
    return [
        {
            "token": entry.token,
            "bytes": list(entry.raw),
            "logprob": entry.logprob,
            "top_logprobs": [{"token": token, "bytes": list(raw), "logprob": value} for token, raw, value in entry.top],
        }
        for entry in logprobs
    ]


def show_text_logprobs(logprobs: tuple[TextLogprob, ...], offset: int) -> JsonObject:
    """Return the logprobs of a completion whose text begins at `offset`."""
    offsets = []
    for entry in logprobs:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in logprobs],
        "token_logprobs": [entry.logprob for entry in logprobs],
        "top_logprobs": [{token: value for token, _, value in entry.top} for entry in logprobs],
        "text_offset": offsets,
    }


def encode_event(value: JsonObject) -> bytes:
    """Return a server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


def show_call(call: ToolCall) -> JsonObject:
    """Return a tool call of a whole answer."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def show_function_call(call: ToolCall) -> JsonObject:
    """Return the legacy field of a message that calls a function."""
    return {"function_call": {"name": call.name, "arguments": call.arguments}}
