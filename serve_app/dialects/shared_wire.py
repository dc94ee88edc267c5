"""Wire shapes that several dialects share: offered tools, called functions, and the flags of invalid answers. Shapes only.

A dialect subclasses a body where its own form differs. Components of the OpenAPI document are named after the classes.
"""

from typing import Any, Literal

from pydantic import Field

from serve_app.conversation import ChoiceEnd
from serve_app.dialects.base import JsonObject, WireBody


class CalledFunction(WireBody):
    """The called function."""

    name: str = Field(min_length=1)


class MessageToolCall(WireBody):
    """A tool call in an assistant's message."""

    id: str | None = None


class OfferedTool(WireBody):
    """A function that the model may call; the object is shown to the model unchanged."""

    type: Literal["function"] = "function"
    function: dict[str, Any]


def show_invalid(end: ChoiceEnd) -> JsonObject:
    """Return our own fields of a choice's end: which calls and whether the answer violate their schemas; empty where none does."""
    calls = {"invalid_tool_arguments": list(end.invalid_calls)} if end.invalid_calls else {}
    return calls | ({"invalid_answer": True} if end.invalid_answer else {})
