"""Request bodies of the Responses API. Shapes only."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from serve_app.dialects.base import WireBody
from serve_app.dialects.openai.wire import ToolChoice


class Part(WireBody):
    """A content part; of all types only texts and refusals are served. Other fields are kept as they are."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None
    refusal: str | None = None


class Item(WireBody):
    """An input item: a message, a call of a function, its output, a thought, or a reference. Other fields are kept as they are."""

    model_config = ConfigDict(extra="allow")

    type: str | None = None
    """Left out it is a message, or a reference where there is an id and no role."""
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


class OfferedTool(WireBody):
    """A tool; of all types only functions can be called here."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedChoice(ToolChoice):
    """`tool_choice` that names one function, or the allowed tools."""

    name: str | None = None


class Format(WireBody):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextConfig(WireBody):
    """`text`."""

    format: Format | None = None
    verbosity: str | None = None


class Reasoning(WireBody):
    """`reasoning`."""

    effort: str | None = None
    summary: str | None = None


class CountBody(WireBody):
    """POST /v1/responses/input_tokens."""

    model: str | None = None
    input: str | list[Item]
    instructions: str | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None


class ResponsesBody(CountBody):
    """POST /v1/responses."""

    model: str
    stream: bool | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tool_calls: int | None = None
    """Bounds calls of tools that the server runs, of which there are none."""
    top_logprobs: int | None = Field(None, ge=0, le=20)
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    user: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    include: list[str] | None = None
    store: bool | None = None
    background: bool | None = None
    service_tier: str | None = None
