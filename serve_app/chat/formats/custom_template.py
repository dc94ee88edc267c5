"""Prompts from a client's own template in Ollama's language, and the lists of tools and calls that stand in it. Knows no model."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from serve_app.chat import go_template
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import Chat, Ending, Tool, ToolCall
from serve_app.types import InvalidValue

_FUNCTION_KEYS_FIRST = ("name", "description", "parameters")
_SCHEMA_KEYS_FIRST = ("type", "properties", "required")


async def render_custom(tokenizer: Tokenizer, chat: Chat) -> list[int]:
    """Return the token ids of `chat` by its own template.

    Raises `InvalidValue` for a template that cannot be run, or cannot end as the chat wants.
    """
    if chat.ending is Ending.CLOSED:
        raise InvalidValue("add_generation_prompt", "cannot be false: this model has a template that always begins the answer")
    calls = {at: list_calls(message.tool_calls) for at, message in enumerate(chat.messages) if message.tool_calls}
    tools = list_tools(chat.tools) if chat.tools else ""
    ids: list[int] = []
    for text, control in go_template.parse(chat.template).render(chat, tools, calls):
        ids.extend(await tokenizer.encode_async(text, special=control))
    return ids


async def encode_opening(tokenizer: Tokenizer, chat: Chat) -> list[int]:
    """Return the token ids of `Chat.opening`."""
    return await tokenizer.encode_async(chat.opening, special=True) if chat.opening else []


def list_tools(tools: tuple[Tool, ...]) -> str:
    """Return the tools as the JSON list that stands in the prompt."""
    return "[" + ", ".join(_write_function(tool.function) for tool in tools) + "]"


@lru_cache(512)
def _write_function(text: str) -> str:
    """Return a function with its keys in the order that the model was trained on; clients send them in any."""
    function = _put_first(json.loads(text), _FUNCTION_KEYS_FIRST)
    if function.get("parameters"):
        function["parameters"] = _put_first(function["parameters"], _SCHEMA_KEYS_FIRST)
    return json.dumps(function, ensure_ascii=False)


def _put_first(fields: dict[str, Any], first: Sequence[str]) -> dict[str, Any]:
    return {key: fields[key] for key in first if key in fields} | fields


def list_calls(calls: tuple[ToolCall, ...]) -> str:
    """Return calls as a JSON list; arguments stay unchanged."""
    return "[" + ", ".join(map(_write_call, calls)) + "]"


def _write_call(call: ToolCall) -> str:
    return f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments or "{}"}}}'
