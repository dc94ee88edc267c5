"""Request bodies of OpenAI's API with vLLM's extra fields. Shapes only."""

from typing import Any, Literal

from pydantic import Field

from serve_app.dialects import shared_wire
from serve_app.dialects.base import WireBody


class StreamOptions(WireBody):
    """`stream_options`."""

    include_usage: bool | None = None


class ContentPart(WireBody):
    """A content part; of all types only text, and an assistant's refusal, are served."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(shared_wire.CalledFunction):
    """The called function."""

    arguments: str


class MessageToolCall(shared_wire.MessageToolCall):
    """A tool call in an assistant's message."""

    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(WireBody):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    refusal: str | None = None
    audio: dict[str, Any] | None = None
    tool_calls: list[MessageToolCall] | None = None
    function_call: CalledFunction | None = None
    """The legacy form of one tool call."""
    tool_call_id: str | None = None
    name: str | None = None


class OfferedTool(shared_wire.OfferedTool):
    """A function that the model may call; the object is shown to the model unchanged."""

    type: Literal["function"]


class NamedFunction(WireBody):
    """The function of a tool choice."""

    name: str


class AllowedTool(WireBody):
    """A tool that `allowed_tools` names; the name stands at the top in the Responses API."""

    type: Literal["function"]
    function: NamedFunction | None = None
    name: str | None = None


class AllowedTools(WireBody):
    """Which of the tools may be called, and whether one must be."""

    mode: Literal["auto", "required"]
    tools: list[AllowedTool] = Field(min_length=1)


class ToolChoice(WireBody):
    """`tool_choice` that names one function, or the allowed tools.

    The Responses API has the fields of `allowed_tools` at the top level: `mode` and `tools`.
    """

    type: Literal["function", "allowed_tools"]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[AllowedTool] | None = Field(None, min_length=1)


class SchemaFormat(WireBody):
    """`response_format.json_schema`."""

    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(WireBody):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


class StructuredOutputs(WireBody):
    """vLLM's `structured_outputs`; exactly one field is set."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class GenerationBody(WireBody):
    """Fields that both generating endpoints share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1)
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    user: str | None = None


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    """The legacy form of `tools`; the answer is in the legacy shape too."""
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    """The legacy form of `tool_choice`."""
    modalities: list[str] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    suffix: str | None = None
    best_of: int | None = None


class TokenizeBody(WireBody):
    """POST /tokenize: a text, or a chat as in /v1/chat/completions."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    tools: list[OfferedTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class DetokenizeBody(WireBody):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]
