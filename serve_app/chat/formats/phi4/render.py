"""Renders a chat as Phi-4's prompt: `<|role|>content<|end|>` per message, then `<|assistant|>`, or as `Chat.ending` sets.

Tools stand in the system message as `<|tool|>[function, ...]<|/tool|>`; calls are written `<|tool_call|>[...]<|/tool_call|>` in the
assistant's turn and results as turns of the role `tool`. Control tokens are placed as ids and content is encoded with control
tokens off, so text of a user or a tool cannot open a turn of another role. Knows no engine and no dialect.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from serve_app.chat import go_template
from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN, CALLS_END, ROLE_TOKENS, TEXT_END, TOOLS_BEGIN, TOOLS_END, TURN_END
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import Chat, Ending, Message, Tool, ToolCall
from serve_app.types import InvalidValue

_FUNCTION_KEYS_FIRST = ("name", "description", "parameters")
_SCHEMA_KEYS_FIRST = ("type", "properties", "required")
GO_TEMPLATE = (
    "{{- if and .Tools (not .System) }}<|system|><|tool|>{{ .Tools }}<|/tool|><|end|>{{ end }}\n"
    "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}\n"
    '{{- if and (eq .Role "system") $.Tools }}<|tool|>{{ $.Tools }}<|/tool|>{{ end }}\n'
    "{{- if .ToolCalls }}<|tool_call|>{{ .ToolCalls }}<|/tool_call|>{{ end }}<|end|>{{ end }}<|assistant|>"
)
"""The same prompt in Ollama's template language."""


class Phi4Template:
    """The renderer over one tokenizer; raises `KeyError` at construction when a control token is missing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Look up the control tokens once."""
        self._tokenizer = tokenizer
        self._role_ids = {role: tokenizer.token_id(token) for role, token in ROLE_TOKENS.items()}
        self._end = tokenizer.token_id(TURN_END)
        self._text_end = [tokenizer.vocabulary.added[token] for token in (TEXT_END,) if token in tokenizer.vocabulary.added]
        self._tools = tokenizer.token_id(TOOLS_BEGIN), tokenizer.token_id(TOOLS_END)
        self._calls = tokenizer.token_id(CALLS_BEGIN), tokenizer.token_id(CALLS_END)

    async def render(self, chat: Chat) -> tuple[int, ...]:
        """Return the prompt's token ids. `developer` is another name of `system`.

        Tools go into the first system message, or into one of their own before everything where there is none. A chat that
        continues token ids gets them first, with their last turn closed. A chat that ends closed gets the end-of-text token, as in
        the model's own template. Raises `InvalidValue` for a template that cannot be run, or cannot end as the chat wants.
        """
        before = [*chat.context, self._end] if chat.context else []
        if chat.template:
            return (*before, *await self._render_custom(chat), *await self._encode_opening(chat))
        messages = list(chat.messages)
        if chat.tools and not any(message.role in ("system", "developer") for message in messages):
            messages.insert(0, Message(role="system"))
        ids = before
        tools = chat.tools
        for message in messages:
            ids.append(self._role_ids[message.role])
            ids.extend(await self._tokenizer.encode_async(message.content, special=False))
            if tools and message.role in ("system", "developer"):
                ids.extend(await self._encode_between(self._tools, list_tools(tools)))
                tools = ()
            if message.tool_calls:
                ids.extend(await self._encode_between(self._calls, list_calls(message.tool_calls)))
            ids.append(self._end)
        if chat.ending is Ending.CONTINUED:
            ids.pop()
        else:
            ids.extend(self._text_end if chat.ending is Ending.CLOSED else [self._role_ids["assistant"]])
        return (*ids, *await self._encode_opening(chat))

    async def _encode_opening(self, chat: Chat) -> list[int]:
        return await self._tokenizer.encode_async(chat.opening, special=True) if chat.opening else []

    async def _render_custom(self, chat: Chat) -> list[int]:
        if chat.ending is Ending.CLOSED:
            raise InvalidValue("add_generation_prompt", "cannot be false: this model has a template that always begins the answer")
        calls = {at: list_calls(message.tool_calls) for at, message in enumerate(chat.messages) if message.tool_calls}
        tools = list_tools(chat.tools) if chat.tools else ""
        ids: list[int] = []
        for text, control in go_template.parse(chat.template).render(chat, tools, calls):
            ids.extend(await self._tokenizer.encode_async(text, special=control))
        return ids

    async def _encode_between(self, marks: tuple[int, int], text: str) -> list[int]:
        return [marks[0], *await self._tokenizer.encode_async(text, special=False), marks[1]]


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
    """Return calls as the model writes them; arguments stay unchanged."""
    return "[" + ", ".join(map(_write_call, calls)) + "]"


def _write_call(call: ToolCall) -> str:
    return f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments or "{}"}}}'
