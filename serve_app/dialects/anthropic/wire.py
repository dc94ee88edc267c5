"""Request bodies of Anthropic's API. Shapes only."""

from typing import Any, Literal

from pydantic import Field

from serve_app.dialects.base import WireBody


class Block(WireBody):
    """A content block; of all types only those of text, tools and thoughts are served."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None
    thinking: str | None = None


class Message(WireBody):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    """Claude Code sends instructions between the turns."""
    content: str | list[Block]


class OfferedTool(WireBody):
    """A tool that the model may call. Types other than `custom` are tools that Anthropic's own servers run."""

    type: str | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(WireBody):
    """Whether and which tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(WireBody):
    """Whether the model should think before it answers."""

    type: Literal["enabled", "disabled", "adaptive"]


class Format(WireBody):
    """The form of the answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(WireBody):
    """`output_config`."""

    format: Format | None = None


class Metadata(WireBody):
    """`metadata`."""

    user_id: str | None = None


class CountBody(WireBody):
    """POST /v1/messages/count_tokens."""

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    system: str | list[Block] | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesBody(CountBody):
    """POST /v1/messages."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    """The earlier form of `output_config.format`."""
