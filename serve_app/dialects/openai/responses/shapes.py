"""Objects that whole and streamed answers of the Responses API share. Pure."""

from collections.abc import Sequence

from serve_app.conversation import ChoiceEnd, CompletedChoice, TextLogprob
from serve_app.dialects.base import AnswerContext, JsonObject
from serve_app.dialects.openai.responses.wire import ResponsesBody
from serve_app.dialects.openai.shapes import show_chat_logprobs
from serve_app.errors import ServeError
from serve_app.types import FinishReason, Usage

LOGPROBS = "message.output_text.logprobs"
"""The member of `include` that asks for logprobs."""


def show_response(
    context: AnswerContext[ResponsesBody], status: str, output: Sequence[JsonObject] = (), end: ChoiceEnd | None = None
) -> JsonObject:
    """Return the response object; `end` is the end of its answer, None while there is none."""
    body = context.body
    return {
        "id": f"resp_{context.request.request_id}",
        "object": "response",
        "created_at": int(context.created),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": context.model,
        "output": list(output),
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "store": False,
        "temperature": context.request.sampling.temperature,
        "text": {"format": _show_format(body)},
        "tool_choice": body.tool_choice.model_dump(exclude_none=True)
        if body.tool_choice is not None and not isinstance(body.tool_choice, str)
        else body.tool_choice or "auto",
        "tools": [tool.model_dump() for tool in body.tools or () if tool.type == "function"],
        "top_p": context.request.sampling.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None if end is None else show_usage(end.usage),
        "user": body.user,
        "metadata": body.metadata or {},
    }


def _show_format(body: ResponsesBody) -> JsonObject:
    given = body.text.format if body.text else None
    return {"type": "text"} if given is None else given.model_dump(by_alias=True, exclude_none=True)


def show_error(error: ServeError) -> JsonObject:
    """Return the error of a failed response."""
    code = "rate_limit_exceeded" if error.status == 429 else "server_error"
    return {"code": code, "message": error.message}


def find_status(end: ChoiceEnd) -> str:
    """Return the status of a response with this end."""
    return "incomplete" if end.reason is FinishReason.LENGTH else "completed"


def show_usage(usage: Usage) -> JsonObject:
    """Return the usage object."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def show_output(choice: CompletedChoice, context: AnswerContext[ResponsesBody]) -> list[JsonObject]:
    """Return the items of a whole answer."""
    status = find_status(choice.end)
    items: list[JsonObject] = []
    if choice.thoughts:
        items.append(show_thought(name_item("rs", context, 0), choice.thoughts))
    if choice.text or not choice.tool_calls:
        part = show_part(choice.text, choice.logprobs if wants_logprobs(context) else ())
        items.append(show_message(name_item("msg", context, len(items)), [part], status))
    for call in choice.tool_calls:
        items.append(show_call(name_item("fc", context, len(items)), call.id, call.name, call.arguments, status))
    return items


def wants_logprobs(context: AnswerContext[ResponsesBody]) -> bool:
    """Return whether the client asks for logprobs."""
    return context.body.top_logprobs is not None or LOGPROBS in (context.body.include or ())


def name_item(prefix: str, context: AnswerContext[ResponsesBody], index: int) -> str:
    """Return the id of the output item at `index`."""
    return f"{prefix}_{context.request.request_id}_{index}"


def show_part(text: str, logprobs: tuple[TextLogprob, ...] = ()) -> JsonObject:
    """Return a content part."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": show_chat_logprobs(logprobs)}


def show_message(item_id: str, content: list[JsonObject], status: str) -> JsonObject:
    """Return a message item."""
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def show_call(item_id: str, call_id: str, name: str, arguments: str, status: str) -> JsonObject:
    """Return a call item."""
    return {"id": item_id, "type": "function_call", "status": status, "call_id": call_id, "name": name, "arguments": arguments}


def show_thought(item_id: str, text: str) -> JsonObject:
    """Return a reasoning item."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content}
