"""Writes the Lark rules of a call's arguments, by the tool's schema or by the names of its properties and the kinds of values.

Knows schemas, which `serve_app.chat.constraint` has checked; no form of a call.
"""

import json
from collections.abc import Sequence
from typing import Any

from serve_app.chat.constraint import resolve_reference
from serve_app.chat.lark import quote_literal, style_schema
from serve_app.conversation import Tool

_MAX_EACH_ONCE = 4
"""With up to this many properties none can come twice in a call; each further property would double the number of rules."""
_OPENING_KEYS = ("additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "if", "$ref")
"""Keys with which a schema allows properties that it does not list."""
_KINDS = frozenset(("string", "number", "integer", "boolean", "null", "array", "object"))
_MAX_DEPTH = 4
_MAX_CHOICES = 100
_MAX_CHOICES_CHARS = 2000


def write_exact_arguments(tools: Sequence[Tool]) -> list[str]:
    """Return the rules `arguments0`, `arguments1` ... of arguments that keep to each tool's schema.

    Where a tool is not strict, they keep to the parts of its schema that llguidance can enforce.
    """
    return [
        f"arguments{at}: %json {style_schema(build_arguments_schema(tool), lenient=not tool.strict)}"
        for at, tool in enumerate(tools)
    ]


def write_guided_arguments(tools: Sequence[Tool]) -> list[str]:
    """Return the rules `arguments0`, `arguments1` ... of arguments as the model may order them.

    Arguments of a strict tool keep to its schema. Arguments of other tools have the properties' names and the kinds of their values
    (`_Kinds`), which always compiles. The model chooses their order and number: llguidance follows a schema in its own order, so a
    model that began with the second property could no longer give the first.
    """
    values: dict[str, str] = {}
    rules = [rule for at, tool in enumerate(tools) for rule in _write_guided_rule(f"arguments{at}", tool, values)]
    return rules + [f"{rule}: %json {schema}" for schema, rule in values.items()]


def build_arguments_schema(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's arguments, which are an object whatever it says."""
    schema: dict[str, Any] = json.loads(tool.parameters)
    return {"type": "object"} | schema


def _write_guided_rule(rule: str, tool: Tool, values: dict[str, str]) -> list[str]:
    """Return the Lark rules of one tool's arguments; `values` maps schemas to the rules that tools share."""
    if tool.strict:
        return [f"{rule}: {_name_value_rule(build_arguments_schema(tool), values)}"]
    schema = json.loads(tool.parameters)
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return [f"{rule}: {_name_value_rule({'type': 'object'}, values)}"]
    kinds = _Kinds(schema)
    pairs = [
        f"{quote_literal(json.dumps(name, ensure_ascii=False) + ': ')} {_name_value_rule(kinds.simplify(each), values)}"
        for name, each in properties.items()
        if each is not False
    ]
    more = any(schema.get(key) not in (None, False) for key in _OPENING_KEYS)
    if not more and len(pairs) <= _MAX_EACH_ONCE:
        return _write_each_once(rule, pairs)
    if more:
        pairs.append(f"{_name_value_rule({'type': 'string'}, values)} {quote_literal(': ')} {_name_value_rule({}, values)}")
    return [f'{rule}: "{{" ({rule}_pair (", " {rule}_pair)*)? "}}"', f"{rule}_pair: {' | '.join(pairs)}"]


def _write_each_once(rule: str, pairs: list[str]) -> list[str]:
    """Return the Lark rules of an object with any of the pairs in any order, none twice; one rule per set of remaining pairs."""
    rules = [f"{rule}_pair{at}: {pair}" for at, pair in enumerate(pairs)]
    for left in range(1, 1 << len(pairs)):
        firsts = [at for at in range(len(pairs)) if left & 1 << at]
        rules.append(f"{rule}_{left}: " + " | ".join(_write_rest(rule, at, left & ~(1 << at)) for at in firsts))
    every = (1 << len(pairs)) - 1
    return [f'{rule}: "{{" {rule}_{every}? "}}"' if every else f"{rule}: {quote_literal('{}')}", *rules]


def _write_rest(rule: str, at: int, left: int) -> str:
    return f"{rule}_pair{at}" + (f' (", " {rule}_{left})?' if left else "")


class _Kinds:
    """Simplifies the schemas within one tool's schema to kinds of values: types, choices and the items of lists.

    The result always compiles and is small: references are followed to a limited depth, each once, and an unclear schema allows
    anything.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._followed: dict[tuple[str, int], dict[str, Any]] = {}

    def simplify(self, schema: Any, depth: int = _MAX_DEPTH) -> dict[str, Any]:
        """Return a schema that allows the same kinds of values."""
        if not isinstance(schema, dict) or depth == 0:
            return {}
        reference, kind = schema.get("$ref"), schema.get("type")
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(reference, str):
            return self._follow(reference, depth - 1)
        if isinstance(choices, list) and choices:
            return {"enum": choices} if _are_short_scalars(choices) else {}
        several = next((schema[key] for key in ("anyOf", "oneOf", "allOf") if isinstance(schema.get(key), list)), None)
        if several:
            return self._merge(several, depth - 1) if "allOf" not in schema or len(several) == 1 else {}
        if kind == "array":
            return {"type": "array", "items": self.simplify(schema.get("items"), depth - 1)}
        types = [each for each in (kind if isinstance(kind, list) else [kind]) if isinstance(each, str) and each in _KINDS]
        return {"type": types if len(types) > 1 else types[0]} if types else {}

    def _follow(self, reference: str, depth: int) -> dict[str, Any]:
        if (reference, depth) not in self._followed:
            self._followed[reference, depth] = self.simplify(resolve_reference(self._root, reference), depth)
        return self._followed[reference, depth]

    def _merge(self, schemas: list[Any], depth: int) -> dict[str, Any]:
        kinds: dict[str, dict[str, Any]] = {}
        for schema in schemas:
            kind = self.simplify(schema, depth)
            kinds[json.dumps(kind)] = kind
            if not kind or len(kinds) > _MAX_CHOICES:
                return {}
        return {"anyOf": list(kinds.values())} if len(json.dumps([*kinds])) <= _MAX_CHOICES_CHARS else {}


def _are_short_scalars(choices: list[Any]) -> bool:
    """Return whether the choices are few, short, and neither lists nor objects."""
    scalars = all(isinstance(each, str | int | float | None) for each in choices)
    return scalars and len(choices) <= _MAX_CHOICES and len(json.dumps(choices)) <= _MAX_CHOICES_CHARS


def _name_value_rule(schema: dict[str, Any], values: dict[str, str]) -> str:
    """Return the name of the rule for a schema, noted in `values`."""
    return values.setdefault(style_schema(schema), f"value{len(values)}")
