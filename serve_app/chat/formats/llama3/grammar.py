"""The grammars of bare JSON calls, separated by `; `, which are the whole answer or stand after `<|python_tag|>`.

Without the marker only an answer that begins as a call to an offered tool, byte for byte, is surely a call; any other text, JSON
too, is an answer. Where the answer is JSON itself, calls are written as a schema: llguidance divides texts into words greedily, and
both alternatives must have the same words.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.chat.constraint import map_schemas
from serve_app.chat.formats.argument_rules import build_arguments_schema
from serve_app.chat.formats.call_rules import CallForm, write_repeats
from serve_app.chat.formats.llama3.tokens import CALLS_BEGIN
from serve_app.chat.lark import quote_literal, style_schema
from serve_app.conversation import Tool
from serve_app.types import Constraint, Grammar, JsonSchema

_SEPARATOR = '"; "'
_SPACE = "/[ \\t\\r\\n]*/"
_ANY = "/(.|\\n)*/"
_ARGUMENTS_AT = "#/properties/parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3CallForm(CallForm):
    """See `CallForm`."""

    marker_is_token: bool

    def begin_call(self, name: str) -> tuple[str, ...]:
        """See `CallForm.begin_call`."""
        written = json.dumps(name)
        return f'{{"name": {written}, "parameters": ', f'{{"type": "function", "name": {written}, "parameters": '

    def write_forced(self, *, parallel: bool) -> list[str]:
        """See `CallForm.write_forced`."""
        marker = f"({CALLS_BEGIN})? " if self.marker_is_token else ""
        return [f"start: {marker}calls", _write_sequence(parallel=parallel)]

    def write_guided(self, tools: Sequence[Tool]) -> list[str]:
        """See `CallForm.write_guided`."""
        return self._write_text_or_calls(tools, f"({_SEPARATOR} call)*")

    def write_choice(self, tools: Sequence[Tool], answer: Constraint | None, *, parallel: bool) -> list[str]:
        """See `CallForm.write_choice`."""
        if answer is None:
            return self._write_text_or_calls(tools, write_repeats(_SEPARATOR, parallel=parallel))
        marked = f" | {CALLS_BEGIN} calls" if self.marker_is_token else ""
        sequence = _write_sequence(parallel=parallel)
        if not isinstance(answer, JsonSchema | Grammar):
            return [f"start: calls{marked} | answer", sequence]
        objects = [f"object{at}" for at in range(len(tools))]
        return [
            f"start: objects{marked} | answer",
            sequence,
            f"objects: object{write_repeats(_SEPARATOR, parallel=parallel, rule='object')}",
            f"object: {' | '.join(objects)}",
            *(f"{rule}: %json {_write_call_schema(tool)}" for rule, tool in zip(objects, tools, strict=True)),
        ]

    def _write_text_or_calls(self, tools: Sequence[Tool], more: str) -> list[str]:
        """Return the rules of calls, or of text that may end with marked calls; `more` follows the first call."""
        begins = [(at, quote_literal(begin)) for at, tool in enumerate(tools) for begin in self.begin_call(tool.name)]
        marked = f" ({CALLS_BEGIN} call {more})?" if self.marker_is_token else ""
        spelled = "" if self.marker_is_token else f" & ~({_ANY} {quote_literal(CALLS_BEGIN)} {_ANY})"
        firsts = [f"FIRST{number} arguments{at} {quote_literal('}')}" for number, (at, _) in enumerate(begins)]
        return [
            f"start: first {more} | text?{marked}",
            f"first: {' | '.join(firsts)}",
            *(f"FIRST{number}: {_SPACE} {begin}" for number, (_, begin) in enumerate(begins)),
            "text: TEXT",
            f"TEXT: /(.|\\n)+/ & ~({_SPACE} ({' | '.join(begin for _, begin in begins)}) {_ANY}){spelled}",
        ]


def _write_sequence(*, parallel: bool) -> str:
    return f"calls: call{write_repeats(_SEPARATOR, parallel=parallel)}"


def _write_call_schema(tool: Tool) -> str:
    """Return the schema of a call to a tool as an object; references within the tool's own schema are moved with it."""
    arguments = {key: value for key, value in build_arguments_schema(tool).items() if key not in ("$schema", "$id")}
    schema = {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "parameters": map_schemas(arguments, _move_reference)},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }
    return style_schema(schema, lenient=not tool.strict)


def _move_reference(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#"):
        return schema
    inner = reference[1:]
    return schema | {"$ref": _ARGUMENTS_AT + (inner if inner.startswith("/") else "")}
