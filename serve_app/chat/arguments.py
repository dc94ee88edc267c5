"""Checks answers and arguments of tool calls against their schemas. Pure: fetches nothing, and bounds the cost of patterns."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, RegexOptions, ValidationError

from serve_app.chat.constraint import map_schemas, quote_reference
from serve_app.conversation import Tool, ToolCall
from serve_app.strict_json import load

_MAX_BACKTRACKING = 20_000
"""Most backtracking steps of a pattern; they take a millisecond."""


def find_invalid_calls(tools: Sequence[Tool], calls: Iterable[ToolCall]) -> tuple[str, ...]:
    """Return the names of the invalid calls, in order: of unknown tools, or with arguments that violate the tool's schema.

    A schema that is invalid, or that refers to another document, forbids nothing.
    """
    schemas = {tool.name: tool.parameters for tool in tools}
    return tuple(call.name for call in calls if call.name not in schemas or not _accepts(schemas[call.name], call.arguments))


def _accepts(schema: str, arguments: str) -> bool:
    return arguments.lstrip().startswith("{") and fits_schema(arguments, schema)


def fits_schema(text: str, schema: str) -> bool:
    """Return whether a text is JSON that a schema allows.

    A schema that is invalid, or that refers to another document, allows all JSON.
    """
    try:
        value = load(text)
    except (ValueError, RecursionError):
        return False
    if not schema.isascii():
        schema = json.dumps(map_schemas(json.loads(schema), quote_reference))
    # Patterns with lookaround need the second kind of options.
    for options in (RegexOptions(), FancyRegexOptions(backtrack_limit=_MAX_BACKTRACKING)):
        with suppress(ValidationError, ValueError):
            return bool(Draft202012Validator(schema, retriever=_refuse_fetch, pattern_options=options).is_valid(value))
    return True


def _refuse_fetch(address: str) -> Any:
    raise ValueError(f"schemas are not fetched: {address[:100]}")
