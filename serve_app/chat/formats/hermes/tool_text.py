"""Writes tools, calls and results as text of messages, for a chat template that knows no tools. Knows Hermes' tags only."""

import json
from collections.abc import Sequence
from dataclasses import replace

from serve_app.chat.formats.hermes.tokens import CALL_BEGIN, CALL_END
from serve_app.conversation import Chat, Message, Tool, ToolCall

_SYSTEM_ROLES = ("system", "developer")


def write_tools_as_text(chat: Chat) -> Chat:
    """Return the chat without tools, calls and messages of the role `tool`: their content is text of the other messages.

    The first system message lists the tools and says how to call one. Neighbouring results become one message of the user's, with
    the user's own text where that follows: many templates want the turns of user and assistant to alternate.
    """
    messages: list[Message] = []
    results: list[str] = []
    for message in chat.messages:
        if message.role == "tool":
            results.append(f"<tool_response>\n{message.content}\n</tool_response>")
            continue
        if results and message.role == "user":
            message = replace(message, content="\n".join(results) + f"\n\n{message.content}")
        elif results:
            messages.append(Message(role="user", content="\n".join(results)))
        results = []
        messages.append(_write_calls(message))
    if results:
        messages.append(Message(role="user", content="\n".join(results)))
    if chat.tools:
        messages = _add_to_system(messages, _list_tools(chat.tools))
    return replace(chat, messages=tuple(messages), tools=())


def _write_calls(message: Message) -> Message:
    if not message.tool_calls:
        return message
    texts = [text for text in (message.content, *map(_write_call, message.tool_calls)) if text]
    return replace(message, content="\n".join(texts), tool_calls=())


def _write_call(call: ToolCall) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    return f'{CALL_BEGIN}\n{{"name": {name}, "arguments": {call.arguments or "{}"}}}\n{CALL_END}'


def _add_to_system(messages: list[Message], text: str) -> list[Message]:
    at = next((at for at, message in enumerate(messages) if message.role in _SYSTEM_ROLES), None)
    if at is None:
        return [Message(role="system", content=text), *messages]
    content = f"{messages[at].content}\n\n{text}" if messages[at].content else text
    return [*messages[:at], replace(messages[at], content=content), *messages[at + 1 :]]


def _list_tools(tools: Sequence[Tool]) -> str:
    listed = "\n".join(tool.function for tool in tools)
    return (
        f"You can call these functions. Each line between the tags describes one as JSON:\n<tools>\n{listed}\n</tools>\n"
        f"To call a function, write a block like this one, with its name and its arguments:\n{CALL_BEGIN}\n"
        f'{{"name": "function", "arguments": {{}}}}\n{CALL_END}\n'
        "Call several functions with several blocks. Where no function helps, answer as usual."
    )
