"""Objects that Anthropic's answers, events and errors share. Pure but for the clock in headers."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from serve_app.conversation import ChoiceEnd, CompletedChoice, ToolCall
from serve_app.dialects.anthropic.wire import MessagesBody
from serve_app.dialects.base import AnswerContext, JsonObject, dump
from serve_app.errors import (
    CapacityError,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    QuotaExceeded,
    RequestError,
    ServeError,
    TooLarge,
    Unauthenticated,
)
from serve_app.record import RequestRecord
from serve_app.strict_json import load
from serve_app.types import FinishReason, Usage

OVERLOADED = 529
"""Anthropic's own status for a server that is too busy; its clients retry it as they do 503."""
_ERROR_TYPES: tuple[tuple[type[ServeError], str], ...] = (
    (Unauthenticated, "authentication_error"),
    (Forbidden, "permission_error"),
    (NotFound, "not_found_error"),
    (TooLarge, "request_too_large"),
    (QuotaExceeded, "rate_limit_error"),
    (DeadlineExceeded, "timeout_error"),
    (RequestError, "invalid_request_error"),
)
ERROR_SCHEMA: JsonObject = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}
"""JSON schema of the result of `encode_error`."""


def encode_error(error: ServeError, request_id: str) -> JsonObject:
    """Return Anthropic's error object."""
    return {"type": "error", "error": {"type": _find_type(error), "message": error.message}, "request_id": request_id}


def _find_type(error: ServeError) -> str:
    for kind, name in _ERROR_TYPES:
        if isinstance(error, kind):
            return name
    return "overloaded_error" if show_status(error) == OVERLOADED else "api_error"


def show_status(error: ServeError) -> int:
    """Return the status of an error in Anthropic's API."""
    return OVERLOADED if isinstance(error, CapacityError) and error.status == 503 else error.status


def write_headers(record: RequestRecord) -> dict[str, str]:
    """Return the request's id and what is left of the caller's limits, under Anthropic's names."""
    headers = {"request-id": record.request_id}
    for allowance in record.allowances:
        prefix = f"anthropic-ratelimit-{allowance.kind}"
        resets = datetime.now(UTC) + timedelta(seconds=allowance.resets_in_s)
        headers |= {
            f"{prefix}-limit": str(allowance.limit),
            f"{prefix}-remaining": str(allowance.remaining),
            f"{prefix}-reset": resets.strftime("%Y-%m-%dT%H:%M:%SZ"),  # RFC 3339
        }
    return headers


def show_head(context: AnswerContext[MessagesBody], usage: JsonObject) -> JsonObject:
    """Return a message without content."""
    return {
        "id": f"msg_{context.request.request_id}",
        "type": "message",
        "role": "assistant",
        "model": context.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": usage,
    }


def show_usage(usage: Usage) -> JsonObject:
    """Return the usage; Anthropic counts prompt tokens from a cache apart."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_creation": None,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": None,
        "inference_geo": None,
        "server_tool_use": None,
        "service_tier": None,
    }


def show_stop(end: ChoiceEnd) -> JsonObject:
    """Return why the answer ended."""
    if end.stop_sequence is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stop_sequence}
    reasons = {FinishReason.LENGTH: "max_tokens", FinishReason.TOOL_CALLS: "tool_use"}
    return {"stop_reason": reasons.get(end.reason, "end_turn"), "stop_sequence": None}


def show_content(choice: CompletedChoice) -> list[JsonObject]:
    """Return the blocks of a whole answer."""
    blocks: list[JsonObject] = []
    if choice.thoughts:
        blocks.append({"type": "thinking", "thinking": choice.thoughts, "signature": ""})
    if choice.text or (not blocks and not choice.tool_calls):
        blocks.append({"type": "text", "text": choice.text, "citations": []})
    return blocks + [show_call(call) for call in choice.tool_calls]


def show_call(call: ToolCall) -> JsonObject:
    """Return a call; arguments that are no object, or were cut off, stand as text under `_raw`."""
    return show_call_start(call.id, call.name) | {"input": _read_arguments(call.arguments)}


def show_call_start(call_id: str, name: str) -> JsonObject:
    """Return a call without arguments."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": {}, "caller": {"type": "direct"}}


def _read_arguments(text: str) -> JsonObject:
    try:
        value: Any = load(text or "{}")
    except (ValueError, RecursionError):
        return {"_raw": text}
    return value if isinstance(value, dict) else {"_raw": json.dumps(value, ensure_ascii=False, allow_nan=False)}


def encode_event(kind: str, fields: JsonObject) -> bytes:
    """Return a server-sent event with its name."""
    return f"event: {kind}\ndata: ".encode() + dump({"type": kind} | fields) + b"\n\n"
