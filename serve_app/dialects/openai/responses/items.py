"""Decodes input items into the turns of a conversation. Pure."""

from dataclasses import replace

from serve_app.conversation import Chat, Message, Tool, ToolCall
from serve_app.dialects.openai.messages import MEDIA_PHRASES, refuse_media
from serve_app.dialects.openai.responses.wire import CountBody, Item, Part
from serve_app.errors import InvalidRequest, Unsupported

_TEXTS = ("input_text", "output_text", "text")


def decode_chat(body: CountBody, tools: tuple[Tool, ...]) -> Chat:
    """Return the conversation; raises `InvalidRequest` or `Unsupported` naming the item at fault."""
    if body.prompt is not None:
        raise Unsupported("prompt: no prompt templates are kept here; send the text as instructions and input", param="prompt")
    if body.conversation is not None:
        raise Unsupported("conversation: use previous_response_id, or send the whole conversation as input", param="conversation")
    turns = [Message(role="system", content=body.instructions)] if body.instructions else []
    if isinstance(body.input, str):
        turns.append(Message(role="user", content=body.input))
    else:
        for at, item in enumerate(body.input):
            _add_item(turns, item, f"input.{at}")
    if not turns or (turns[-1].role == "system" and len(turns) == bool(body.instructions)):
        raise InvalidRequest("input must not be empty", param="input")
    return Chat(messages=tuple(turns), tools=tools)


def _add_item(turns: list[Message], item: Item, place: str) -> None:
    """Add an item; an assistant's calls belong to the turn of the text and the calls before them, and so does text after them."""
    kind = item.type or "message"
    last = turns[-1] if turns and turns[-1].role == "assistant" else None
    if kind == "message":
        if item.role is None or item.content is None:
            raise InvalidRequest(f"{place}: a message needs role and content", param=place)
        turn = Message(role=item.role, content=_read_text(item.content, f"{place}.content"))
        if last is not None and last.tool_calls and turn.role == "assistant":
            turn = replace(last, content=last.content + turn.content)
            turns.pop()
        turns.append(turn)
    elif kind == "function_call":
        if not item.name or item.arguments is None:
            raise InvalidRequest(f"{place}: a function_call needs name and arguments", param=place)
        call = ToolCall(name=item.name, arguments=item.arguments, id=item.call_id or "")
        if last is not None:
            turns.pop()
        before = last or Message(role="assistant")
        turns.append(Message(role="assistant", content=before.content, tool_calls=(*before.tool_calls, call)))
    elif kind == "function_call_output":
        if not item.call_id or item.output is None:
            raise InvalidRequest(f"{place}: a function_call_output needs call_id and output", param=place)
        turns.append(Message(role="tool", content=_read_text(item.output, f"{place}.output")))
    elif kind != "reasoning":  # thoughts of earlier turns are not shown again
        raise Unsupported(f"{place}.type: items of the type '{kind[:40]}' are not served", param=f"{place}.type")


def _read_text(content: str | list[Part], field: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(_read_part(part, f"{field}.{at}") for at, part in enumerate(content))


def _read_part(part: Part, field: str) -> str:
    if part.type in _TEXTS and part.text is not None:
        return part.text
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    for word, phrase in MEDIA_PHRASES.items():
        if word in part.type:
            raise refuse_media(field, phrase)
    raise InvalidRequest(f"{field}: must be a part with text, got the type '{part.type[:40]}'", param=field)
