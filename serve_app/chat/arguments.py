"""Checks the arguments of tool calls against the tools' schemas. Pure: fetches nothing, and its patterns match in linear time."""

from collections.abc import Iterable, Sequence
from typing import Any

from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError

from serve_app.conversation import Tool, ToolCall
from serve_app.strict_json import load


def invalid_calls(tools: Sequence[Tool], calls: Iterable[ToolCall]) -> tuple[str, ...]:
    """Return the names of the calls, in order, that no tool takes as they are: unknown, no JSON object, or against the schema.

    A schema that is none itself, or that needs more than the schema's own text to be understood, forbids nothing.
    """
    schemas = {tool.name: tool.parameters for tool in tools}
    return tuple(call.name for call in calls if call.name not in schemas or not _fits(call.arguments, schemas[call.name]))


def _fits(arguments: str, schema: str) -> bool:
    try:
        value = load(arguments)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict):
        return False
    try:
        return bool(Draft202012Validator(schema, retriever=_refuse, pattern_options=RegexOptions()).is_valid(value))
    except (ValidationError, ValueError):
        return True


def _refuse(address: str) -> Any:
    raise ValueError(f"schemas are not fetched: {address[:100]}")
