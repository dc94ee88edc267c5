"""Arguments that a tool's schema does not allow are told, and hostile schemas cost nothing."""

import json
import time
from typing import Any

import pytest

from serve_app.chat.arguments import find_invalid_calls, fits_schema
from serve_app.conversation import Tool, ToolCall

CIRCLE: dict[str, Any] = {"type": "object", "properties": {"radius": {"type": "number"}}, "required": ["radius"]}


def _invalid(schema: Any, *arguments: str, name: str = "f") -> tuple[str, ...]:
    tool = Tool(name="f", function="{}", parameters=json.dumps(schema))
    return find_invalid_calls((tool,), [ToolCall(name=name, arguments=text) for text in arguments])


def test_what_fits_and_what_does_not() -> None:
    assert _invalid(CIRCLE, '{"radius": 5}', '{"radius": 1.5, "unit": "m"}') == ()
    assert _invalid(CIRCLE, '{"radius": "5"}', "{}", '{"radius": 5', "[5]", "5", "") == ("f",) * 6
    assert _invalid(CIRCLE, '{"radius": 5}', name="unknown") == ("unknown",)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        [],
        {"type": "nonsense"},
        {"$ref": "#"},
        {"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}},
        {"$schema": "http://127.0.0.1:9/x"},
        {"properties": {"a": {"pattern": "(a+)+$"}}},
    ],
)
def test_schemas_that_say_nothing_forbid_nothing_and_take_no_time(schema: Any) -> None:
    began = time.process_time()
    _invalid(schema, json.dumps({"a": "a" * 5000 + "b"}))
    assert time.process_time() - began < 1


def test_a_schema_that_refers_to_a_name_of_another_script_is_understood() -> None:
    schema = '{"$ref": "#/$defs/Maß", "$defs": {"Maß": {"const": {"a": 1}}}}'
    assert (fits_schema('{"a": 1}', schema), fits_schema('{"a": 2}', schema)) == (True, False)


def test_patterns_that_look_around_are_checked_within_bounds() -> None:
    schema = '{"type": "string", "pattern": "^(?=x)[xy]{2}$"}'
    assert (fits_schema('"xy"', schema), fits_schema('"yx"', schema)) == (True, False)
    began = time.thread_time()
    fits_schema(json.dumps("a" * 5000), '{"pattern": "^(?=a)(a+)+\\\\1b$"}')
    assert time.thread_time() - began < 1  # without the limit the pattern would backtrack for years


@pytest.mark.parametrize(("text", "allowed"), [("[1, 1]", False), ("[1, 2]", True), ("NaN", False), ("[1", False), ("", False)])
def test_answers_are_checked_for_what_no_grammar_keeps(text: str, *, allowed: bool) -> None:
    assert fits_schema(text, '{"type": ["array", "number"], "uniqueItems": true}') is allowed
