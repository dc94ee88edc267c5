"""Decodes tools and answer formats of OpenAI's bodies, and vLLM's structured outputs. Pure."""

import re
from collections.abc import Sequence
from typing import Any

from serve_app.chat.constraint import ANY_OBJECT, MAX_SCHEMA_BYTES, parse_schema, parse_tools
from serve_app.conversation import AnswerForm, Tool, ToolChoice
from serve_app.dialects.openai import wire
from serve_app.dialects.openai.wire import ChatBody, CompletionBody, NamedFunction, ResponseFormat, StructuredOutputs
from serve_app.faults import client_faults
from serve_app.strict_json import load
from serve_app.types import Constraint, Grammar, InvalidValue, JsonSchema, OneOf, Regex


def decode_tools(body: ChatBody) -> tuple[tuple[Tool, ...], AnswerForm]:
    """Return the tools to offer and the form of the answer; raises `InvalidRequest` naming the field."""
    with client_faults():
        format = _decode_format(body)
        if body.functions or body.function_call is not None:
            return _decode_legacy(body, format)
        tools = parse_tools([tool.function for tool in body.tools or ()])
        return decode_choice(tools, body.tool_choice, body.parallel_tool_calls, format)


def decode_form(body: CompletionBody) -> AnswerForm:
    """Return the form of the answer; raises `InvalidRequest` naming the field."""
    with client_faults():
        return AnswerForm(format=_decode_format(body))


def _decode_format(body: ChatBody | CompletionBody) -> Constraint | None:
    structured = None if body.structured_outputs is None else _decode_structured(body.structured_outputs)
    if body.response_format is None or body.response_format.type == "text":
        return structured
    if structured is not None:
        raise InvalidValue("response_format", "cannot be given together with structured_outputs")
    return _decode_response_format(body.response_format)


def decode_choice(
    tools: tuple[Tool, ...], choice: str | wire.ToolChoice | None, parallel: bool | None, format: Constraint | None
) -> tuple[tuple[Tool, ...], AnswerForm]:
    """Return the tools to offer and the form of the answer that a `tool_choice` means; raises `InvalidValue`."""
    if choice is None:
        choice = "auto" if tools else "none"
    if choice == "none":
        return (), AnswerForm(format=format)
    if not tools:
        raise InvalidValue("tool_choice", "needs tools")
    if isinstance(choice, wire.ToolChoice) and choice.type == "allowed_tools":
        tools, choice = _decode_allowed(tools, choice)
    if isinstance(choice, wire.ToolChoice):
        if choice.function is None:
            raise InvalidValue("tool_choice", "must name a function")
        (tool,) = _select(tools, [choice.function.name])
        return tools, AnswerForm(tool_choice=ToolChoice.REQUIRED, callable=(tool.name,), parallel=False, format=format)
    return tools, AnswerForm(tool_choice=ToolChoice(choice), parallel=parallel is not False, format=format)


def _decode_allowed(tools: tuple[Tool, ...], choice: wire.ToolChoice) -> tuple[tuple[Tool, ...], str]:
    """Return the allowed tools and the tool choice. The model is shown no other tools, since it calls what it sees."""
    allowed = choice.allowed_tools
    mode, listed = (choice.mode, choice.tools) if allowed is None else (allowed.mode, allowed.tools)
    if mode is None or not listed:
        raise InvalidValue("tool_choice", "of the type allowed_tools must have allowed_tools, with mode and tools")
    names = [tool.function.name if tool.function is not None else tool.name for tool in listed]
    return _select(tools, names), mode


def _select(tools: tuple[Tool, ...], names: Sequence[str | None]) -> tuple[Tool, ...]:
    offered_names = {tool.name for tool in tools}
    for name in names:
        if name is None:
            raise InvalidValue("tool_choice", "must name its functions")
        if name not in offered_names:
            raise InvalidValue("tool_choice", f"names '{name[:64]}', which is not offered")
    return tuple(tool for tool in tools if tool.name in names)


def _decode_legacy(body: ChatBody, format: Constraint | None) -> tuple[tuple[Tool, ...], AnswerForm]:
    """Decode `functions` and `function_call` as `tools` and `tool_choice`; faults name the legacy fields."""
    if body.tools or body.tool_choice is not None:
        raise InvalidValue("functions" if body.functions else "function_call", "cannot be given together with tools")
    if not body.functions and body.function_call != "none":
        raise InvalidValue("function_call", "needs functions")
    choice: str | wire.ToolChoice | None
    if isinstance(body.function_call, NamedFunction):
        choice = wire.ToolChoice(type="function", function=body.function_call)
    else:
        choice = body.function_call
    try:
        return decode_choice(parse_tools(body.functions or ()), choice, None, format)
    except InvalidValue as error:
        field = _LEGACY_NAMES.get(error.field, _TOOL_FIELD.sub(r"functions.\1", error.field))
        raise InvalidValue(field, error.fault) from error


_LEGACY_NAMES = {"tools": "functions", "tool_choice": "function_call"}
_TOOL_FIELD = re.compile(r"^tools\.(\d+)\.function")


def _decode_response_format(given_format: ResponseFormat) -> JsonSchema:
    if given_format.type == "json_object":
        return ANY_OBJECT
    if given_format.json_schema is None or given_format.json_schema.schema_ is None:
        raise InvalidValue("response_format.json_schema", "must have a schema")
    lenient = not given_format.json_schema.strict
    return parse_schema(given_format.json_schema.schema_, "response_format.json_schema.schema", lenient=lenient)


def _decode_structured(given_format: StructuredOutputs) -> Constraint:
    given: list[Constraint] = []
    if given_format.json_ is not None:
        given.append(parse_schema(_parse_json_object(given_format.json_), "structured_outputs.json"))
    if given_format.regex is not None:
        given.append(Regex(_require_short(given_format.regex, "regex")))
    if given_format.choice is not None:
        given.append(OneOf(tuple(given_format.choice)))
        _require_short("".join(given_format.choice), "choice")
    if given_format.grammar is not None:
        given.append(Grammar(_require_short(given_format.grammar, "grammar")))
    if given_format.json_object:
        given.append(ANY_OBJECT)
    if len(given) != 1:
        raise InvalidValue("structured_outputs", "must have exactly one of json, regex, choice, grammar and json_object")
    return given[0]


def _require_short(text: str, field: str) -> str:
    """Return a constraint's text; raises `InvalidValue` above the limit for schemas, since compiling takes its length squared."""
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise InvalidValue(f"structured_outputs.{field}", f"must have at most {MAX_SCHEMA_BYTES} bytes")
    return text


def _parse_json_object(schema: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(schema, dict):
        return schema
    try:
        value = load(schema)
    except ValueError as error:
        raise InvalidValue("structured_outputs.json", "must be a JSON schema") from error
    if not isinstance(value, dict):
        raise InvalidValue("structured_outputs.json", "must be a JSON schema")
    return value
