"""Tools and answer formats of OpenAI's bodies, and vLLM's structured outputs, as tools and a constraint. Pure."""

import re
from collections.abc import Sequence
from typing import Any

from serve_app.chat.call_grammar import call_grammar, call_guide, call_or
from serve_app.chat.constraint import ANY_OBJECT, MAX_SCHEMA_BYTES, offered, schema_of
from serve_app.conversation import Tool
from serve_app.dialects.openai.wire import ChatBody, CompletionBody, NamedFunction, ResponseFormat, StructuredOutputs, ToolChoice
from serve_app.faults import client_faults
from serve_app.strict_json import load
from serve_app.types import Choice, Constraint, Grammar, InvalidValue, JsonSchema, Regex


def decode_tools(body: ChatBody) -> tuple[tuple[Tool, ...], Constraint | None]:
    """Return the tools to offer and what the answer must look like; raises `InvalidRequest` naming the field."""
    with client_faults():
        answer = _answer(body)
        if body.functions or body.function_call is not None:
            return _decode_legacy(body, answer)
        return _decode(offered([tool.function for tool in body.tools or ()]), body.tool_choice, body.parallel_tool_calls, answer)


def decode_answer(body: CompletionBody) -> Constraint | None:
    """Return what the answer must look like, if anything; raises `InvalidRequest` naming the field."""
    with client_faults():
        return _answer(body)


def _answer(body: ChatBody | CompletionBody) -> Constraint | None:
    answer = None if body.structured_outputs is None else _structured(body.structured_outputs)
    if body.response_format is None or body.response_format.type == "text":
        return answer
    if answer is not None:
        raise InvalidValue("response_format", "cannot be given together with structured_outputs")
    return _format(body.response_format)


def _decode(
    tools: tuple[Tool, ...], choice: str | ToolChoice | None, parallel: bool | None, answer: Constraint | None
) -> tuple[tuple[Tool, ...], Constraint | None]:
    if choice is None:
        choice = "auto" if tools else "none"
    if choice == "none":
        return (), answer
    if not tools:
        raise InvalidValue("tool_choice", "needs tools")
    if isinstance(choice, ToolChoice) and choice.type == "allowed_tools":
        tools, choice = _allowed(tools, choice)
    if isinstance(choice, ToolChoice):
        if choice.function is None:
            raise InvalidValue("tool_choice", "must name a function")
        return tools, call_grammar(_named(tools, [choice.function.name]), parallel=False)
    several = parallel is not False
    if choice == "required":
        return tools, call_grammar(tools, parallel=several)
    if answer is None and several:
        return tools, call_guide(tools)
    return tools, call_or(answer, tools, parallel=several)


def _allowed(tools: tuple[Tool, ...], choice: ToolChoice) -> tuple[tuple[Tool, ...], str]:
    """Return the tools that may be called and whether one must be. The model is shown no others: it calls what it sees."""
    allowed = choice.allowed_tools
    mode, listed = (choice.mode, choice.tools) if allowed is None else (allowed.mode, allowed.tools)
    if mode is None or not listed:
        raise InvalidValue("tool_choice", "of the type allowed_tools must have allowed_tools, with mode and tools")
    names = [tool.function.name if tool.function is not None else tool.name for tool in listed]
    return _named(tools, names), mode


def _named(tools: tuple[Tool, ...], names: Sequence[str | None]) -> tuple[Tool, ...]:
    offered_names = {tool.name for tool in tools}
    for name in names:
        if name is None:
            raise InvalidValue("tool_choice", "must name its functions")
        if name not in offered_names:
            raise InvalidValue("tool_choice", f"names '{name[:64]}', which is not offered")
    return tuple(tool for tool in tools if tool.name in names)


def _decode_legacy(body: ChatBody, answer: Constraint | None) -> tuple[tuple[Tool, ...], Constraint | None]:
    """Decode `functions` and `function_call` as `tools` and `tool_choice`; faults name the fields that the client knows."""
    if body.tools or body.tool_choice is not None:
        raise InvalidValue("functions" if body.functions else "function_call", "cannot be given together with tools")
    if not body.functions and body.function_call != "none":
        raise InvalidValue("function_call", "needs functions")
    choice: str | ToolChoice | None
    if isinstance(body.function_call, NamedFunction):
        choice = ToolChoice(type="function", function=body.function_call)
    else:
        choice = body.function_call
    try:
        return _decode(offered(body.functions or ()), choice, None, answer)
    except InvalidValue as error:
        field = _LEGACY.get(error.field, _OF_FUNCTION.sub(r"functions.\1", error.field))
        raise InvalidValue(field, error.fault) from error


_LEGACY = {"tools": "functions", "tool_choice": "function_call"}
_OF_FUNCTION = re.compile(r"^tools\.(\d+)\.function")


def _format(wanted: ResponseFormat) -> JsonSchema:
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        raise InvalidValue("response_format.json_schema", "must have a schema")
    lenient = not wanted.json_schema.strict
    return schema_of(wanted.json_schema.schema_, "response_format.json_schema.schema", lenient=lenient)


def _structured(wanted: StructuredOutputs) -> Constraint:
    given: list[Constraint] = []
    if wanted.json_ is not None:
        given.append(schema_of(_parsed(wanted.json_), "structured_outputs.json"))
    if wanted.regex is not None:
        given.append(Regex(_short(wanted.regex, "regex")))
    if wanted.choice is not None:
        given.append(Choice(tuple(wanted.choice)))
        _short("".join(wanted.choice), "choice")
    if wanted.grammar is not None:
        given.append(Grammar(_short(wanted.grammar, "grammar")))
    if wanted.json_object:
        given.append(ANY_OBJECT)
    if len(given) != 1:
        raise InvalidValue("structured_outputs", "must have exactly one of json, regex, choice, grammar and json_object")
    return given[0]


def _short(text: str, field: str) -> str:
    """Return a constraint's text; raises `InvalidValue` for one as long as no schema may be: compiling takes its length squared."""
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise InvalidValue(f"structured_outputs.{field}", f"must have at most {MAX_SCHEMA_BYTES} bytes")
    return text


def _parsed(schema: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(schema, dict):
        return schema
    try:
        value = load(schema)
    except ValueError as error:
        raise InvalidValue("structured_outputs.json", "must be a JSON schema") from error
    if not isinstance(value, dict):
        raise InvalidValue("structured_outputs.json", "must be a JSON schema")
    return value
