"""Request bodies of Ollama's API. Shapes only."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from serve_app.dialects import shared_wire
from serve_app.dialects.base import WireBody
from serve_app.dialects.shared_wire import OfferedTool


def _lowercase(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class CalledFunction(shared_wire.CalledFunction):
    """The called function."""

    arguments: dict[str, Any] | None = None


class MessageToolCall(shared_wire.MessageToolCall):
    """A tool call in an assistant's message."""

    function: CalledFunction


class ChatMessage(WireBody):
    """One message of a chat."""

    role: Annotated[Literal["system", "developer", "user", "assistant", "tool"], BeforeValidator(_lowercase)]
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[MessageToolCall] | None = None


class GenerationBody(WireBody):
    """Fields that both generating endpoints share."""

    model: str = ""
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class GenerateBody(GenerationBody):
    """POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    images: list[str] | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None


class ChatBody(GenerationBody):
    """POST /api/chat."""

    messages: list[ChatMessage] | None = None
    tools: list[OfferedTool] | None = None


class ModelBody(WireBody):
    """Names a model; old clients call the field `name`."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    verbose: bool | None = None


class CopyBody(WireBody):
    """POST /api/copy."""

    source: str = ""
    destination: str = ""


class CreateBody(ModelBody):
    """POST /api/create: a parsed Modelfile, or as `modelfile` its text, as old clients send it."""

    from_: str | None = Field(None, alias="from")
    modelfile: str | None = None
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str | None = None
    license: str | list[str] | None = None
    system: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[ChatMessage] | None = None
    quantize: str | None = None
    renderer: str | None = None
    parser: str | None = None
    path: str | None = None
