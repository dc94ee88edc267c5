"""Checks answers and arguments of tool calls against their schemas. Pure: fetches nothing; what patterns may cost is bounded."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, RegexOptions, ValidationError

from serve_app.chat.constraint import map_schemas, quote_reference
from serve_app.conversation import Tool, ToolCall
from serve_app.strict_json import load

_MOST_BACKTRACKING = 20_000
"""Steps that a pattern may go back; it takes a millisecond."""


def find_invalid_calls(tools: Sequence[Tool], calls: Iterable[ToolCall]) -> tuple[str, ...]:
    """Return the names of the calls, in order, that no tool takes as they are: unknown, no JSON object, or against the schema.

    A schema that is none itself, or that needs more than the schema's own text to be understood, forbids nothing.
    """
    schemas = {tool.name: tool.parameters for tool in tools}
    return tuple(call.name for call in calls if call.name not in schemas or not _takes(schemas[call.name], call.arguments))


def _takes(schema: str, arguments: str) -> bool:
    return arguments.lstrip().startswith("{") and fits_schema(arguments, schema)


def fits_schema(text: str, schema: str) -> bool:
    """Return whether a text is JSON that a schema allows.

    Every JSON fits a schema that is not valid, or that refers to another document.
    """
    try:
        value = load(text)
    except (ValueError, RecursionError):
        return False
    if not schema.isascii():
        schema = json.dumps(map_schemas(json.loads(schema), quote_reference))
    for options in (
        RegexOptions(),
        FancyRegexOptions(backtrack_limit=_MOST_BACKTRACKING),
    ):  # the second for patterns that look around
        with suppress(ValidationError, ValueError):
            return bool(Draft202012Validator(schema, retriever=_refuse, pattern_options=options).is_valid(value))
    return True


def _refuse(address: str) -> Any:
    raise ValueError(f"schemas are not fetched: {address[:100]}")
