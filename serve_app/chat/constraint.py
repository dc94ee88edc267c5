"""Parses the constraints and tools of a request: response_format, structured outputs, offered functions.

Checks the size, depth and references of schemas without an engine. Knows no calls and no dialect.
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
_VALUE_KEYS = ("const", "enum", "default", "examples")
"""Keys of a schema whose values are plain JSON, not schemas."""
_NAMED_SCHEMA_KEYS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
"""Keys of a schema whose values map names to schemas."""
ANY_OBJECT = JsonSchema('{"type":"object"}')
"""`response_format: json_object`."""
_REFERENCE_CHARS = "#/$~%!&'()*+,;=:@?"
"""Characters of a reference that are not percent-encoded."""
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How the model was trained to write JSON. With free white space an answer might never end."""


def parse_schema(value: dict[str, Any], field: str, *, lenient: bool = False) -> JsonSchema:
    """Return a constraint to a JSON schema; raises `InvalidValue` where it is too large, too deep or has a dangling $ref."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise InvalidValue(field, f"must be a schema of at most {MAX_SCHEMA_BYTES} bytes")
    if _count_levels(value) > MAX_DEPTH:
        raise InvalidValue(field, f"must be a schema of at most {MAX_DEPTH} levels")
    for reference in _list_references(value):
        if resolve_reference(value, reference) is _UNRESOLVED:
            raise InvalidValue(field, f"has a $ref that points nowhere: {reference[:100]}")
    return JsonSchema(text, lenient)


def find_lenient_schema(constraint: Constraint | None) -> str:
    """Return the schema of a lenient constraint, which an answer may violate; empty where there is none."""
    answer = constraint.answer if isinstance(constraint, Grammar) else constraint
    return answer.schema if isinstance(answer, JsonSchema) and answer.lenient else ""


def parse_tools(functions: Sequence[dict[str, Any]]) -> tuple[Tool, ...]:
    """Return the functions that a client offers as `tools`; raises `InvalidValue` naming the field at fault."""
    tools = tuple(_parse_tool(at, function) for at, function in enumerate(functions))
    if len(tools) > MAX_TOOLS:
        raise InvalidValue("tools", f"must be at most {MAX_TOOLS}")
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidValue("tools", "must have different names")
    return tools


def _parse_tool(at: int, function: dict[str, Any]) -> Tool:
    field = f"tools.{at}.function"
    name, parameters, description = (function.get(key) for key in ("name", "parameters", "description"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidValue(f"{field}.name", "must have 1 to 64 letters, digits, dots, dashes or underscores")
    if description is not None and not isinstance(description, str):
        raise InvalidValue(f"{field}.description", "must be a string")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidValue(f"{field}.parameters", "must be a JSON schema")
    schema = parse_schema(parameters or {"type": "object", "properties": {}}, f"{field}.parameters")
    text = json.dumps({key: value for key, value in function.items() if value is not None}, ensure_ascii=False)
    return Tool(name=name, function=text, parameters=schema.schema, strict=function.get("strict") is True)


def map_schemas(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a schema with `change` applied to every schema in it, the innermost first; plain JSON values and names stay."""
    if isinstance(schema, list):
        return [map_schemas(each, change) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = dict(schema)
    for key, value in schema.items():
        if key in _NAMED_SCHEMA_KEYS and isinstance(value, dict):
            changed[key] = {name: map_schemas(each, change) for name, each in value.items()}
        elif key not in _VALUE_KEYS:
            changed[key] = map_schemas(value, change)
    return change(changed)


def quote_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose own `$ref` is a URI: characters outside ASCII are percent-encoded."""
    reference = schema.get("$ref")
    return schema | {"$ref": quote(reference, safe=_REFERENCE_CHARS)} if isinstance(reference, str) else schema


def close_objects(schema: Any) -> Any:
    """Return a schema whose objects have the listed properties only, unless it allows further ones explicitly.

    JSON schema allows further properties by default. A client that lists two fields wants two, and a model that may add fields
    does. A required property counts as listed. Where several schemas judge one object, each lists only some of its properties; such
    a schema is returned unchanged.
    """
    is_judged_twice = False

    def check_one(each: dict[str, Any]) -> dict[str, Any]:
        nonlocal is_judged_twice
        is_judged_twice = is_judged_twice or _is_judged_twice(each)
        return each

    map_schemas(schema, check_one)
    return schema if is_judged_twice else map_schemas(schema, _close_object)


_COMBINING_KEYS = frozenset(("allOf", "not", "if", "dependentSchemas"))
_OBJECT_KEYS = ("properties", "anyOf", "oneOf", "$ref")
_OPENING_KEYS = frozenset(("additionalProperties", "patternProperties", "propertyNames", "unevaluatedProperties"))


def _is_judged_twice(schema: dict[str, Any]) -> bool:
    return not _COMBINING_KEYS.isdisjoint(schema) or sum(key in schema for key in _OBJECT_KEYS) > 1


def _close_object(schema: dict[str, Any]) -> dict[str, Any]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not _OPENING_KEYS.isdisjoint(schema):
        return schema
    named = required if isinstance(required, list) else []
    unlisted: dict[str, Any] = {name: {} for name in named if isinstance(name, str) and name not in properties}
    return schema | {"properties": properties | unlisted, "additionalProperties": False}


def _count_levels(value: object) -> int:
    """Return how deep schemas are nested; stops counting above the limit, so that no stack overflows."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH * 4:
        level = [child for parent in level for child in _list_children(parent)]
        depth += 1
    # A level of a schema is an object within `properties` or `items`, which is two levels of JSON.
    return depth // 2


def _list_children(value: object) -> list[object]:
    if isinstance(value, dict):
        return [child for child in value.values() if isinstance(child, dict | list)]
    return [child for child in value if isinstance(child, dict | list)] if isinstance(value, list) else []


def _list_references(value: object) -> list[str]:
    references, level = [], [value]
    while level:
        references += [parent["$ref"] for parent in level if isinstance(parent, dict) and isinstance(parent.get("$ref"), str)]
        level = [child for parent in level for child in _list_children(parent)]
    return references


_UNRESOLVED = object()


def resolve_reference(schema: object, reference: str) -> object:
    """Return the part of a schema that a reference names, `_UNRESOLVED` where there is no such part."""
    if not reference.startswith("#"):
        return _UNRESOLVED
    at = schema
    for part in reference[1:].strip("/").split("/") if reference.strip("#/") else []:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(at, dict) and name in at:
            at = at[name]
        elif isinstance(at, list) and name.isdigit() and int(name) < len(at):
            at = at[int(name)]
        else:
            return _UNRESOLVED
    return at
