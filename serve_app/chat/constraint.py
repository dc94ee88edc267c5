"""What an answer must look like, from what a client asked: tool_choice, response_format, structured outputs.

Checks what can be checked without an engine: size, depth and references of schemas. Knows no calls and no dialect.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, unquote

from serve_app.conversation import Tool
from serve_app.types import Constraint, Grammar, InvalidValue, JsonSchema

MAX_SCHEMA_BYTES = 64 << 10
MAX_DEPTH = 16
MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_FIRST = ("name", "description", "parameters")
_FIRST_OF_SCHEMA = ("type", "properties", "required")
"""The order in which the model learned to read a function."""
_LITERAL = ("const", "enum", "default", "examples")
"""Keys of a schema below which there is no schema."""
_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
"""Keys below which there are schemas by names of their own."""
ANY_OBJECT = JsonSchema('{"type":"object"}')
"""`response_format: json_object`."""
_IN_REFERENCES = "#/$~%!&'()*+,;=:@?"
"""Characters that stay as they are in a reference."""
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As the model writes JSON: free white space lets a model never end, and none at all is not what it learned."""


def parse_schema(value: dict[str, Any], field: str, *, lenient: bool = False) -> JsonSchema:
    """Return a constraint to a JSON schema; raises `InvalidValue` when it is too large, too deep, or points nowhere."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise InvalidValue(field, f"must be a schema of at most {MAX_SCHEMA_BYTES} bytes")
    if _depth(value) > MAX_DEPTH:
        raise InvalidValue(field, f"must be a schema of at most {MAX_DEPTH} levels")
    for reference in _references(value):
        if resolve_reference(value, reference) is _NOWHERE:
            raise InvalidValue(field, f"has a $ref that points nowhere: {reference[:100]}")
    return JsonSchema(text, lenient)


def find_lenient_schema(constraint: Constraint | None) -> str:
    """Return the schema that an answer should fit though the constraint may not keep all of it; empty where there is none."""
    answer = constraint.answer if isinstance(constraint, Grammar) else constraint
    return answer.schema if isinstance(answer, JsonSchema) and answer.lenient else ""


def parse_tools(functions: Sequence[dict[str, Any]]) -> tuple[Tool, ...]:
    """Return the functions that a client offers as `tools`; raises `InvalidValue` naming the field at fault."""
    tools = tuple(_tool(at, function) for at, function in enumerate(functions))
    if len(tools) > MAX_TOOLS:
        raise InvalidValue("tools", f"must be at most {MAX_TOOLS}")
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidValue("tools", "must have different names")
    return tools


def _tool(at: int, function: dict[str, Any]) -> Tool:
    field = f"tools.{at}.function"
    name, parameters, description = (function.get(key) for key in ("name", "parameters", "description"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidValue(f"{field}.name", "must have 1 to 64 letters, digits, dots, dashes or underscores")
    if description is not None and not isinstance(description, str):
        raise InvalidValue(f"{field}.description", "must be a string")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidValue(f"{field}.parameters", "must be a JSON schema")
    schema = parse_schema(parameters or {"type": "object", "properties": {}}, f"{field}.parameters")
    ordered = _ordered({key: value for key, value in function.items() if value is not None}, _FIRST)
    if parameters:  # Ollama's client, for one, sends them in an order of its own
        ordered["parameters"] = _ordered(parameters, _FIRST_OF_SCHEMA)
    text = json.dumps(ordered, ensure_ascii=False)
    return Tool(name=name, function=text, parameters=schema.schema, strict=function.get("strict") is True)


def _ordered(fields: dict[str, Any], first: Sequence[str]) -> dict[str, Any]:
    return {key: fields[key] for key in first if key in fields} | fields


def map_schemas(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a schema with every schema in it changed, the innermost first; literals and names are left alone."""
    if isinstance(schema, list):
        return [map_schemas(each, change) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for key, value in schema.items():
        if key in _BY_NAME and isinstance(value, dict):
            found[key] = {name: map_schemas(each, change) for name, each in value.items()}
        elif key not in _LITERAL:
            found[key] = map_schemas(value, change)
    return change(found)


def quote_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose own reference is a URI: a name of another script in it is written by its bytes."""
    reference = schema.get("$ref")
    return schema | {"$ref": quote(reference, safe=_IN_REFERENCES)} if isinstance(reference, str) else schema


def close_objects(schema: Any) -> Any:
    """Return a schema whose objects have the properties that it lists and no others, unless it says that they may.

    JSON schema allows any others; whoever asks a model for two fields means two, and a model that may go on does. A property that
    is required counts as listed. Where several schemas judge one object, each lists but some of its properties: then all is left
    as it is.
    """
    joined = False

    def look(each: dict[str, Any]) -> dict[str, Any]:
        nonlocal joined
        joined = joined or _joins(each)
        return each

    map_schemas(schema, look)
    return schema if joined else map_schemas(schema, _close)


_JOINING = frozenset(("allOf", "not", "if", "dependentSchemas"))
_JUDGING = ("properties", "anyOf", "oneOf", "$ref")
_OPEN = frozenset(("additionalProperties", "patternProperties", "propertyNames", "unevaluatedProperties"))


def _joins(schema: dict[str, Any]) -> bool:
    return not _JOINING.isdisjoint(schema) or sum(key in schema for key in _JUDGING) > 1


def _close(schema: dict[str, Any]) -> dict[str, Any]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not _OPEN.isdisjoint(schema):
        return schema
    named = required if isinstance(required, list) else []
    unlisted: dict[str, Any] = {name: {} for name in named if isinstance(name, str) and name not in properties}
    return schema | {"properties": properties | unlisted, "additionalProperties": False}


def _depth(value: object) -> int:
    """Return how deep objects and lists are nested; stops counting above the limit, so that no stack overflows."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH * 4:
        level = [child for parent in level for child in _children(parent)]
        depth += 1
    # A level of a schema is an object within `properties` or `items`: two levels of JSON.
    return depth // 2


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return [child for child in value.values() if isinstance(child, dict | list)]
    return [child for child in value if isinstance(child, dict | list)] if isinstance(value, list) else []


def _references(value: object) -> list[str]:
    found, level = [], [value]
    while level:
        found += [parent["$ref"] for parent in level if isinstance(parent, dict) and isinstance(parent.get("$ref"), str)]
        level = [child for parent in level for child in _children(parent)]
    return found


_NOWHERE = object()


def resolve_reference(schema: object, reference: str) -> object:
    """Return what a reference within a schema leads to, `_NOWHERE` for none."""
    if not reference.startswith("#"):
        return _NOWHERE
    at = schema
    for part in reference[1:].strip("/").split("/") if reference.strip("#/") else []:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(at, dict) and name in at:
            at = at[name]
        elif isinstance(at, list) and name.isdigit() and int(name) < len(at):
            at = at[int(name)]
        else:
            return _NOWHERE
    return at
