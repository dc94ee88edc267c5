"""Decodes messages of OpenAI's bodies into turns of a conversation. Pure."""

from serve_app.conversation import Message, ToolCall
from serve_app.dialects.openai.wire import ChatMessage, ContentPart
from serve_app.errors import InvalidRequest, Unsupported

MEDIA_PHRASES = {"image": "images are", "audio": "audio is", "video": "videos are", "file": "files are"}
"""Phrases about content parts that no model here takes, by a word in their type; the types are OpenAI's and vLLM's."""


def decode_messages(messages: list[ChatMessage]) -> tuple[Message, ...]:
    """Return the turns; raises `InvalidRequest` or `Unsupported` naming the message at fault."""
    return tuple(map(_decode_message, range(len(messages)), messages))


def _decode_message(at: int, message: ChatMessage) -> Message:
    """Return a turn; raises `InvalidRequest` when it is empty, or has fields of another role."""
    field = f"messages.{at}"
    calls = _decode_calls(field, message)
    text = _decode_content(f"{field}.content", message)
    if message.role == "assistant" and message.refusal is not None:
        text = (text or "") + message.refusal
    if text is None and message.role == "assistant" and message.audio is not None:
        raise refuse_media(f"{field}.audio", MEDIA_PHRASES["audio"])
    if text is None and message.role == "function":
        text = ""  # a function may have returned nothing
    if text is None and not calls:
        unless = ", unless there are tool_calls, a function_call or a refusal" if message.role == "assistant" else ""
        raise InvalidRequest(f"{field}.content: must be a string or text parts{unless}", param=f"{field}.content")
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidRequest(f"{field}: a tool's message needs tool_call_id", param=f"{field}.tool_call_id")
    if message.role == "function" and not message.name:
        raise InvalidRequest(f"{field}: a function's message needs the function's name", param=f"{field}.name")
    role = "tool" if message.role == "function" else message.role
    return Message(role=role, content=text or "", tool_calls=calls)


def _decode_calls(field: str, message: ChatMessage) -> tuple[ToolCall, ...]:
    """Return an assistant's tool calls, from the current or the legacy field."""
    given = [name for name in ("tool_calls", "function_call") if getattr(message, name)]
    if given and message.role != "assistant":
        raise InvalidRequest(f"{field}: only the assistant has {given[0]}", param=f"{field}.{given[0]}")
    if len(given) > 1:
        raise InvalidRequest(f"{field}: give tool_calls or function_call, not both", param=f"{field}.function_call")
    if message.function_call is not None:
        return (ToolCall(name=message.function_call.name, arguments=message.function_call.arguments),)
    return tuple(
        ToolCall(name=call.function.name, arguments=call.function.arguments, id=call.id or "") for call in message.tool_calls or ()
    )


def _decode_content(field: str, message: ChatMessage) -> str | None:
    if message.content is None or isinstance(message.content, str):
        return message.content
    return "".join(_decode_part(f"{field}.{at}", part, message.role) for at, part in enumerate(message.content))


def _decode_part(field: str, part: ContentPart, role: str) -> str:
    if part.type == "refusal" and role != "assistant":
        raise InvalidRequest(f"{field}: only the assistant has parts of the type refusal", param=f"{field}.type")
    if part.type in ("text", "refusal"):
        text = part.text if part.type == "text" else part.refusal
        if text is None:
            raise InvalidRequest(f"{field}.{part.type}: must be a string", param=f"{field}.{part.type}")
        return text
    for word, phrase in MEDIA_PHRASES.items():
        if word in part.type:
            raise refuse_media(field, phrase)
    raise InvalidRequest(f"{field}.type: must be text, got '{part.type[:40]}'", param=f"{field}.type")


def refuse_media(field: str, phrase: str) -> Unsupported:
    """Return the error for a part at `field` that is no text; `phrase` is of `MEDIA_PHRASES`."""
    return Unsupported(f"{field}: {phrase} not served by this model; send text", param=field)
