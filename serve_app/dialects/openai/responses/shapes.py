"""Objects that whole and streamed answers of the Responses API share. Pure."""

from collections.abc import Sequence

from serve_app.conversation import ChoiceEnd, CompletedChoice, TextLogprob
from serve_app.dialects.base import JsonObject
from serve_app.dialects.openai.responses.exchange import Exchange
from serve_app.dialects.openai.responses.wire import CountBody, OfferedTool, ResponsesBody
from serve_app.dialects.openai.shapes import show_chat_logprobs
from serve_app.errors import ServeError
from serve_app.types import FinishReason, Usage

LOGPROBS = "message.output_text.logprobs"
"""The member of `include` that asks for logprobs."""


def show_response(exchange: Exchange, status: str, output: Sequence[JsonObject] = (), end: ChoiceEnd | None = None) -> JsonObject:
    """Return the response object; `end` is the end of its answer, None while there is none."""
    context, body, sampling = exchange.context, exchange.context.body, exchange.context.request.sampling
    ignored = list_ignored_tools(body)
    return {
        "id": f"resp_{exchange.name}",
        "object": "response",
        "created_at": int(context.created),
        "completed_at": None if end is None else int(context.created + context.elapsed()),
        "status": status,
        "background": bool(body.background),
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": context.model,
        "output": list(output),
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": bool(exchange.key),
        "temperature": sampling.temperature,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "text": {"format": _show_format(body)} | ({"verbosity": body.text.verbosity} if body.text and body.text.verbosity else {}),
        "tool_choice": body.tool_choice.model_dump(exclude_none=True)
        if body.tool_choice is not None and not isinstance(body.tool_choice, str)
        else body.tool_choice or "auto",
        "tools": [tool.model_dump() for tool in body.tools or () if tool.type == "function"],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None if end is None else show_usage(end.usage),
        "user": body.user,
        "metadata": body.metadata or {},
    } | ({"ignored_tools": ignored} if ignored else {})


def list_ignored_tools(body: CountBody) -> list[str]:
    """Return the types of the offered tools that cannot be run here, once each; those of functions have their names instead."""
    return sorted({_name_tool(tool) for tool in body.tools or () if tool.type != "function"})


def _name_tool(tool: OfferedTool) -> str:
    return f"{tool.type[:40]}:{tool.name[:64]}" if tool.name else tool.type[:40]


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


def show_output(choice: CompletedChoice, exchange: Exchange) -> list[JsonObject]:
    """Return the items of a whole answer, as its stream would show them: the last one is the one that was cut off."""
    status = find_status(choice.end)
    items: list[JsonObject] = []
    if choice.thoughts:
        items.append(show_thought(name_item("rs", exchange, 0), choice.thoughts))
    if choice.text or (not items and not choice.tool_calls):
        part = show_part(choice.text, choice.logprobs if wants_logprobs(exchange.context.body) else ())
        shown = "completed" if choice.tool_calls else status
        items.append(show_message(name_item("msg", exchange, len(items)), [part], shown))
    for at, call in enumerate(choice.tool_calls, 1):
        shown = status if at == len(choice.tool_calls) else "completed"
        items.append(show_call(name_item("fc", exchange, len(items)), call.id, call.name, call.arguments, shown))
    return items


def wants_logprobs(body: ResponsesBody) -> bool:
    """Return whether the client asks for logprobs."""
    return body.top_logprobs is not None or LOGPROBS in (body.include or ())


def name_item(prefix: str, exchange: Exchange, index: int) -> str:
    """Return the id of the output item at `index`."""
    return f"{prefix}_{exchange.name}_{index}"


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
