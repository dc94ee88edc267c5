"""Tools and answer formats of OpenAI's bodies, and vLLM's structured outputs, as tools and a constraint. Pure."""

import json
from typing import Any

from serve_app.chat.call_grammar import call_grammar, call_guide, call_or
from serve_app.chat.constraint import ANY_OBJECT, MAX_SCHEMA_BYTES, offered, schema_of
from serve_app.conversation import Tool
from serve_app.dialects.openai.wire import ChatBody, NamedTool, ResponseFormat, StructuredOutputs
from serve_app.errors import InvalidRequest
from serve_app.types import Choice, Constraint, Grammar, InvalidValue, JsonSchema, Regex


def decode_tools(body: ChatBody) -> tuple[tuple[Tool, ...], Constraint | None]:
    """Return the tools to offer and what the answer must look like; raises `InvalidRequest` naming the field."""
    try:
        return _decode(body)
    except InvalidValue as error:
        raise InvalidRequest(str(error), param=error.field) from error


def decode_structured(wanted: StructuredOutputs | None) -> Constraint | None:
    """Return the one constraint of `structured_outputs`, if any; raises `InvalidRequest`."""
    if wanted is None:
        return None
    try:
        return _structured(wanted)
    except InvalidValue as error:
        raise InvalidRequest(str(error), param=error.field) from error


def _decode(body: ChatBody) -> tuple[tuple[Tool, ...], Constraint | None]:
    tools = offered([tool.function for tool in body.tools or ()])
    answer = decode_structured(body.structured_outputs)
    if body.response_format is not None and body.response_format.type != "text":
        if answer is not None:
            raise InvalidValue("response_format", "cannot be given together with structured_outputs")
        answer = _format(body.response_format)
    choice = body.tool_choice or ("auto" if tools else "none")
    if choice == "none":
        return (), answer
    if not tools:
        raise InvalidValue("tool_choice", "needs tools")
    parallel = body.parallel_tool_calls is not False
    if isinstance(choice, NamedTool):
        wanted = [tool for tool in tools if tool.name == choice.function.name]
        if not wanted:
            raise InvalidValue("tool_choice", f"names '{choice.function.name[:64]}', which is not among the tools")
        return tools, call_grammar(wanted, parallel=False)
    if choice == "required":
        return tools, call_grammar(tools, parallel=parallel)
    if answer is None and parallel:
        return tools, call_guide(tools)
    return tools, call_or(answer, tools, parallel=parallel)


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
        value = json.loads(schema)
    except ValueError as error:
        raise InvalidValue("structured_outputs.json", "must be a JSON schema") from error
    if not isinstance(value, dict):
        raise InvalidValue("structured_outputs.json", "must be a JSON schema")
    return value
