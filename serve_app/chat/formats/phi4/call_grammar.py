"""The grammars of tool calls: forced ones, guided ones, and a call or an answer.

Knows the model's form of a call and what the kinds of values in a schema are; `constraint` has checked the schemas.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from serve_app.chat.constraint import resolve_reference
from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN, CALLS_END
from serve_app.chat.lark import quote_literal, style_schema, write_answer_rule
from serve_app.conversation import Tool
from serve_app.types import Constraint, Grammar, JsonSchema

_MOST_CALLS = 8
_CALLS = f"{CALLS_BEGIN} calls {CALLS_END}"
_TEXT = "text: TEXT\nTEXT: /(.|\\n)+/"
_MOST_EACH_ONCE = 4
"""Properties of a tool up to which none comes twice in a call; the rules that this takes double with each property more."""
_MORE = ("additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "if", "$ref")
"""Keys of a schema by which an object may have more properties than those that it lists."""
_KINDS = frozenset(("string", "number", "integer", "boolean", "null", "array", "object"))
_DEEPEST_KIND = 4
_MOST_CHOICES = 100
_LONGEST_CHOICES = 2000


def build_forced_calls(tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """Return the grammar of a call to one of `tools`, or of several calls when `parallel`, in the model's own form.

    Arguments keep to the tool's schema, to what can be kept of it where the tool is not strict.
    """
    return Grammar("\n".join([f"start: {_CALLS}", *_call_rules(tools, parallel=parallel)]))


@lru_cache(32)
def build_guided_calls(tools: tuple[Tool, ...]) -> Grammar:
    """Return the grammar of any text with calls to `tools` in it.

    Arguments of a strict tool keep to its schema, and the grammar is a promise then; else it is optional. Those of other tools have
    the properties' names and the kinds of their values (`_Kinds`), which always compiles. Their order and number stay the
    model's own: a schema is followed in its order, and a model that begins with the second property has then lost the first.
    """
    rules = [f"start: text? ({_CALLS} text?)*", _TEXT, 'calls: "[" call (", " call)* "]"']
    rules.append(
        "call: " + " | ".join(f"{quote_literal(_opened(tool))} arguments{at} {quote_literal('}')}" for at, tool in enumerate(tools))
    )
    values: dict[str, str] = {}
    for at, tool in enumerate(tools):
        rules += _argument_rules(f"arguments{at}", tool, values)
    rules += [f"{rule}: %json {schema}" for schema, rule in values.items()]
    return Grammar("\n".join(rules), optional=not any(tool.strict for tool in tools))


def _opened(tool: Tool) -> str:
    return f'{{"name": {json.dumps(tool.name)}, "arguments": '


def _argument_rules(rule: str, tool: Tool, values: dict[str, str]) -> list[str]:
    """Return the Lark rules of one tool's arguments; `values` holds the rules of schemas, which tools share, by the schema."""
    if tool.strict:
        return [f"{rule}: {_value_rule(_arguments(tool), values)}"]
    schema = json.loads(tool.parameters)
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return [f"{rule}: {_value_rule({'type': 'object'}, values)}"]
    kinds = _Kinds(schema)
    pairs = [
        f"{quote_literal(json.dumps(name, ensure_ascii=False) + ': ')} {_value_rule(kinds.of(each), values)}"
        for name, each in properties.items()
        if each is not False
    ]
    more = any(schema.get(key) not in (None, False) for key in _MORE)
    if not more and len(pairs) <= _MOST_EACH_ONCE:
        return _each_once(rule, pairs)
    if more:
        pairs.append(f"{_value_rule({'type': 'string'}, values)} {quote_literal(': ')} {_value_rule({}, values)}")
    return [f'{rule}: "{{" ({rule}_pair (", " {rule}_pair)*)? "}}"', f"{rule}_pair: {' | '.join(pairs)}"]


def _each_once(rule: str, pairs: list[str]) -> list[str]:
    """Return the Lark rules of an object with any of the pairs in any order, none twice: one for each set still to come."""
    rules = [f"{rule}_pair{at}: {pair}" for at, pair in enumerate(pairs)]
    for left in range(1, 1 << len(pairs)):
        firsts = [at for at in range(len(pairs)) if left & 1 << at]
        rules.append(f"{rule}_{left}: " + " | ".join(_then(rule, at, left & ~(1 << at)) for at in firsts))
    every = (1 << len(pairs)) - 1
    return [f'{rule}: "{{" {rule}_{every}? "}}"' if every else f"{rule}: {quote_literal('{}')}", *rules]


def _then(rule: str, at: int, left: int) -> str:
    return f"{rule}_pair{at}" + (f' (", " {rule}_{left})?' if left else "")


class _Kinds:
    """The kinds of values that the schemas within one tool's schema allow: types, choices and what lists hold.

    What is said of them compiles whatever the schemas say, and is small: references are followed a few times, each once, and
    what is unclear may be anything.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._followed: dict[tuple[str, int], dict[str, Any]] = {}

    def of(self, schema: Any, depth: int = _DEEPEST_KIND) -> dict[str, Any]:
        """Return a schema that allows the same kinds of values."""
        if not isinstance(schema, dict) or depth == 0:
            return {}
        reference, kind = schema.get("$ref"), schema.get("type")
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(reference, str):
            return self._at(reference, depth - 1)
        if isinstance(choices, list) and choices:
            return {"enum": choices} if _are_plain(choices) else {}
        several = next((schema[key] for key in ("anyOf", "oneOf", "allOf") if isinstance(schema.get(key), list)), None)
        if several:
            return self._any_of(several, depth - 1) if "allOf" not in schema or len(several) == 1 else {}
        if kind == "array":
            return {"type": "array", "items": self.of(schema.get("items"), depth - 1)}
        types = [each for each in (kind if isinstance(kind, list) else [kind]) if isinstance(each, str) and each in _KINDS]
        return {"type": types if len(types) > 1 else types[0]} if types else {}

    def _at(self, reference: str, depth: int) -> dict[str, Any]:
        if (reference, depth) not in self._followed:
            self._followed[reference, depth] = self.of(resolve_reference(self._root, reference), depth)
        return self._followed[reference, depth]

    def _any_of(self, schemas: list[Any], depth: int) -> dict[str, Any]:
        kinds: dict[str, dict[str, Any]] = {}
        for schema in schemas:
            kind = self.of(schema, depth)
            kinds[json.dumps(kind)] = kind
            if not kind or len(kinds) > _MOST_CHOICES:
                return {}
        return {"anyOf": list(kinds.values())} if len(json.dumps([*kinds])) <= _LONGEST_CHOICES else {}


def _are_plain(choices: list[Any]) -> bool:
    """Tell whether they are few, short, and neither lists nor objects."""
    scalars = all(isinstance(each, str | int | float | None) for each in choices)
    return scalars and len(choices) <= _MOST_CHOICES and len(json.dumps(choices)) <= _LONGEST_CHOICES


def _value_rule(schema: dict[str, Any], values: dict[str, str]) -> str:
    """Return the name of the rule for a schema, noted in `values`."""
    return values.setdefault(style_schema(schema), f"value{len(values)}")


def build_calls_or_answer(answer: Constraint | None, tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """Return the grammar of either calls or an answer: one that keeps `answer`, or any text.

    Raises `ValueError` for a pattern that llguidance cannot read at all.
    """
    rules = _call_rules(tools, parallel=parallel)
    if answer is None:
        return Grammar("\n".join([f"start: ({_CALLS}) | text?", _TEXT, *rules]))
    lenient = answer if isinstance(answer, JsonSchema) and answer.lenient else None
    return Grammar("\n".join([f"start: ({_CALLS}) | answer", f"answer: {write_answer_rule(answer)}", *rules]), answer=lenient)


def _call_rules(tools: Sequence[Tool], *, parallel: bool) -> list[str]:
    """Return the rules of a list of calls."""
    more = f' (", " call){{0,{_MOST_CALLS - 1}}}' if parallel else ""
    return [
        f'calls: "[" call{more} "]"',
        "call: "
        + " | ".join(f"{quote_literal(_opened(tool))} arguments{at} {quote_literal('}')}" for at, tool in enumerate(tools)),
        *(f"arguments{at}: %json {style_schema(_arguments(tool), lenient=not tool.strict)}" for at, tool in enumerate(tools)),
    ]


def _arguments(tool: Tool) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(tool.parameters)
    return {"type": "object"} | schema
