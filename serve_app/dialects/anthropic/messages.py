"""Decodes the turns of Anthropic's bodies into a conversation. Pure."""

import json

from serve_app.conversation import Chat, Ending, Message, Tool, ToolCall
from serve_app.dialects.anthropic import wire
from serve_app.errors import InvalidRequest, Unsupported

_MEDIA_PHRASES = {"image": "images are", "document": "documents are"}
_THOUGHTS = ("thinking", "redacted_thinking")


def decode_chat(body: wire.CountBody, tools: tuple[Tool, ...]) -> Chat:
    """Return the conversation; raises `InvalidRequest` or `Unsupported` naming the block at fault."""
    system = decode_text(body.system or "", "system")
    turns = [Message(role="system", content=system)] if system else []
    for at, message in enumerate(body.messages):
        turns += _decode_turn(message, f"messages.{at}.content")
    last = turns[-1]
    continues = last.role == "assistant" and not last.tool_calls  # Anthropic's clients begin an answer by such a turn
    if last.role == "assistant" and last.tool_calls:
        raise InvalidRequest("messages: the last turn calls tools; their results come next", param="messages")
    return Chat(messages=tuple(turns), tools=tools, ending=Ending.CONTINUED if continues else Ending.OPENED)


def _decode_turn(message: wire.Message, field: str) -> list[Message]:
    """Return a turn as one message, after a message for each result of a tool in it."""
    if isinstance(message.content, str):
        return [Message(role=message.role, content=message.content)]
    results: list[Message] = []
    texts: list[str] = []
    calls: list[ToolCall] = []
    for at, block in enumerate(message.content):
        place = f"{field}.{at}"
        if block.type == "text":
            texts.append(_require_text(block, place))
        elif block.type == "tool_use" and message.role == "assistant":
            calls.append(_decode_call(block, place))
        elif block.type == "tool_result" and message.role == "user":
            results.append(_decode_result(block, place))
        elif not (block.type in _THOUGHTS and message.role == "assistant"):  # thoughts of earlier turns are not shown again
            raise _refuse_block(block, place, message.role)
    if not texts and not calls and results:
        return results
    if not texts and not calls and message.role != "assistant":
        raise InvalidRequest(f"{field}: must not be empty", param=field)
    return [*results, Message(role=message.role, content="".join(texts), tool_calls=tuple(calls))]


def _decode_call(block: wire.Block, place: str) -> ToolCall:
    if not block.name or block.input is None:
        raise InvalidRequest(f"{place}: a tool_use block needs name and input", param=place)
    return ToolCall(name=block.name, arguments=json.dumps(block.input, ensure_ascii=False, allow_nan=False), id=block.id or "")


def _decode_result(block: wire.Block, place: str) -> Message:
    if not block.tool_use_id:
        raise InvalidRequest(f"{place}: a tool_result block needs tool_use_id", param=f"{place}.tool_use_id")
    text = decode_text(block.content or "", f"{place}.content")
    return Message(role="tool", content=f"Error: {text}" if block.is_error else text)


def decode_text(content: str | list[wire.Block], field: str) -> str:
    """Return the text of blocks that must all be text; raises `InvalidRequest` or `Unsupported`."""
    if isinstance(content, str):
        return content
    texts = []
    for at, block in enumerate(content):
        if block.type != "text":
            raise _refuse_block(block, f"{field}.{at}", "user")
        texts.append(_require_text(block, f"{field}.{at}"))
    return "\n\n".join(texts) if field == "system" else "".join(texts)


def _require_text(block: wire.Block, place: str) -> str:
    if block.text is None:
        raise InvalidRequest(f"{place}.text: must be a string", param=f"{place}.text")
    return block.text


def _refuse_block(block: wire.Block, place: str, role: str) -> InvalidRequest | Unsupported:
    if block.type in _MEDIA_PHRASES:
        return Unsupported(f"{place}: {_MEDIA_PHRASES[block.type]} not served by this model; send text", param=place)
    return InvalidRequest(f"{place}.type: no '{block.type[:40]}' block is served in a turn of the {role}", param=f"{place}.type")
