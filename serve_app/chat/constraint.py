"""What an answer must look like, from what a client asked: tool_choice, response_format, structured outputs.

Checks what can be checked without an engine: size, depth and references of schemas. Knows the model's tool call form; no dialect.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from serve_app.chat.tool_calls import BEGIN, END
from serve_app.conversation import Tool
from serve_app.types import Choice, Constraint, Grammar, InvalidValue, JsonSchema, Regex

MAX_SCHEMA_BYTES = 64 << 10
MAX_DEPTH = 16
MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_FIRST = ("name", "description", "parameters")
_FIRST_OF_SCHEMA = ("type", "properties", "required")
"""The order in which the model learned to read a function."""
_MOST_CALLS = 8
_CALLS = f"{BEGIN} calls {END}"
_TEXT = "text: TEXT\nTEXT: /(.|\\n)+/ & ~/(.|\\n)*<\\|tool_call\\|>(.|\\n)*/"
"""Any text that does not spell the marker of a call, which is a token."""
_TURN_END = "<|end|>"
"""The model's own end of a turn. A grammar allows the end-of-text token by itself, which some engines take for the only end; after
text of its own choice the model writes this one."""
_LITERAL = ("const", "enum", "default", "examples")
"""Keys of a schema below which there is no schema."""
_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
"""Keys below which there are schemas by names of their own."""
ANY_OBJECT = JsonSchema('{"type":"object"}')
"""`response_format: json_object`."""
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As the model writes JSON: free white space lets a model never end, and none at all is not what it learned."""


def schema_of(value: dict[str, Any], field: str) -> JsonSchema:
    """Return a constraint to a JSON schema; raises `InvalidValue` when it is too large, too deep, or points nowhere."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise InvalidValue(field, f"must be a schema of at most {MAX_SCHEMA_BYTES} bytes")
    if _depth(value) > MAX_DEPTH:
        raise InvalidValue(field, f"must be a schema of at most {MAX_DEPTH} levels")
    for reference in _references(value):
        if _target(value, reference) is _NOWHERE:
            raise InvalidValue(field, f"has a $ref that points nowhere: {reference[:100]}")
    return JsonSchema(text)


def offered(functions: Sequence[dict[str, Any]]) -> tuple[Tool, ...]:
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
    schema = schema_of(parameters or {"type": "object", "properties": {}}, f"{field}.parameters")
    ordered = _ordered({key: value for key, value in function.items() if value is not None}, _FIRST)
    if parameters:  # Ollama's client, for one, sends them in an order of its own
        ordered["parameters"] = _ordered(parameters, _FIRST_OF_SCHEMA)
    text = json.dumps(ordered, ensure_ascii=False)
    return Tool(name=name, function=text, parameters=schema.schema, strict=function.get("strict") is True)


def _ordered(fields: dict[str, Any], first: Sequence[str]) -> dict[str, Any]:
    return {key: fields[key] for key in first if key in fields} | fields


def call_grammar(tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """Return the grammar of a call to one of `tools`, or of several calls when `parallel`, in the model's own form."""
    return Grammar(f"start: {_CALLS}\ncalls: %json {_calls(tools, parallel=parallel)}")


@lru_cache(32)
def call_guide(tools: tuple[Tool, ...]) -> Grammar:
    """Return the grammar of any text with calls to `tools` in it.

    Arguments of a strict tool keep to its schema, and the grammar is a promise then; else it is optional. Those of other tools have
    the properties' names and the kinds of their values (`_Kinds`), which always compiles. Their order and number stay the
    model's own: a schema is followed in its order, and a model that begins with the second property has then lost the first.
    """
    rules = [f"start: text? ({_CALLS} text?)* {_TURN_END}?", _TEXT, 'calls: "[" call (", " call)* "]"']
    rules.append("call: " + " | ".join(f"{_literal(_opened(tool))} arguments{at} {_literal('}')}" for at, tool in enumerate(tools)))
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
        f"{_literal(json.dumps(name, ensure_ascii=False) + ': ')} {_value_rule(kinds.of(each), values)}"
        for name, each in properties.items()
        if each is not False
    ]
    more = any(schema.get(key) not in (None, False) for key in _MORE)
    if not more and len(pairs) <= _MOST_ORDERED:
        return _each_once(rule, pairs)
    if more:
        pairs.append(f"{_value_rule({'type': 'string'}, values)} {_literal(': ')} {_value_rule({}, values)}")
    return [f'{rule}: "{{" ({rule}_pair (", " {rule}_pair)*)? "}}"', f"{rule}_pair: {' | '.join(pairs)}"]


def _each_once(rule: str, pairs: list[str]) -> list[str]:
    """Return the Lark rules of an object with any of the pairs in any order, none twice: one for each set still to come."""
    rules = [f"{rule}_pair{at}: {pair}" for at, pair in enumerate(pairs)]
    for left in range(1, 1 << len(pairs)):
        firsts = [at for at in range(len(pairs)) if left & 1 << at]
        rules.append(f"{rule}_{left}: " + " | ".join(_then(rule, at, left & ~(1 << at)) for at in firsts))
    every = (1 << len(pairs)) - 1
    return [f'{rule}: "{{" {rule}_{every}? "}}"' if every else f"{rule}: {_literal('{}')}", *rules]


def _then(rule: str, at: int, left: int) -> str:
    return f"{rule}_pair{at}" + (f' (", " {rule}_{left})?' if left else "")


_MOST_ORDERED = 4
"""Properties of a tool up to which none comes twice in a call; the rules that this takes double with each property more."""


_MORE = ("additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "if", "$ref")
"""Keys of a schema by which an object may have more properties than those that it lists."""
_KINDS = frozenset(("string", "number", "integer", "boolean", "null", "array", "object"))
_DEEPEST_KIND = 4
_MOST_CHOICES = 100
_LONGEST_CHOICES = 2000


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
            self._followed[reference, depth] = self.of(_target(self._root, reference), depth)
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
    return values.setdefault(json.dumps(schema | {"x-guidance": _STYLE}, ensure_ascii=False), f"value{len(values)}")


def _literal(text: str) -> str:
    """Return a text as Lark writes it: as JSON does, but with DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def call_or(answer: Constraint | None, tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """Return the grammar of either calls or an answer: one that keeps `answer`, or any text.

    Raises `InvalidValue` for an answer that is a grammar of its own.
    """
    rules = [f"calls: %json {_calls(tools, parallel=parallel)}"]
    match answer:
        case None:
            return Grammar("\n".join((f"start: ({_CALLS}) | (text? {_TURN_END}?)", _TEXT, *rules)))
        case JsonSchema():
            rules.append(f"answer: %json {styled(answer.schema)}")
        case Regex():
            rules.append(f"answer: /{answer.pattern.replace('/', chr(92) + '/')}/")
        case Choice():
            rules.append("answer: " + " | ".join(map(json.dumps, answer.options)))
        case Grammar():
            raise InvalidValue("structured_outputs.grammar", "cannot be combined with tools; set tool_choice to none")
    return Grammar("\n".join([f"start: ({_CALLS}) | answer", *rules]))


def _calls(tools: Sequence[Tool], *, parallel: bool) -> str:
    """Return the schema of a list of calls. Each tool's own schema is a definition, so that its references still lead somewhere."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": {"$ref": f"#/$defs/{at}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for at, tool in enumerate(tools)
    ]
    schema = {
        "x-guidance": _STYLE,
        "type": "array",
        "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
        "minItems": 1,
        "maxItems": _MOST_CALLS if parallel else 1,
        "$defs": {str(at): _moved(_arguments(tool), f"#/$defs/{at}") for at, tool in enumerate(tools)},
    }
    return json.dumps(schema, ensure_ascii=False)


def _moved(schema: Any, root: str) -> Any:
    """Return a schema whose references to itself count from `root` instead of from `#`."""

    def move(each: dict[str, Any]) -> dict[str, Any]:
        reference = each.get("$ref")
        return each | {"$ref": root + reference[1:]} if isinstance(reference, str) and reference.startswith("#") else each

    return _rewritten(schema, move)


def _rewritten(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a schema with every schema in it changed, the innermost first; literals and names are left alone."""
    if isinstance(schema, list):
        return [_rewritten(each, change) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for key, value in schema.items():
        if key in _BY_NAME and isinstance(value, dict):
            found[key] = {name: _rewritten(each, change) for name, each in value.items()}
        elif key not in _LITERAL:
            found[key] = _rewritten(value, change)
    return change(found)


def styled(schema: str) -> str:
    """Return a schema that also asks for the model's own way to write JSON, which llguidance reads."""
    value = _closed(json.loads(schema))
    return json.dumps((value if isinstance(value, dict) else {}) | {"x-guidance": _STYLE}, ensure_ascii=False)


def _closed(schema: Any) -> Any:
    """Return a schema whose objects have the properties that it lists and no others, unless it says that they may.

    JSON schema allows any others; whoever asks a model for two fields means two, and a model that may go on does. Where several
    schemas judge one object, each lists but some of its properties: then all is left as it is.
    """
    joined = False

    def look(each: dict[str, Any]) -> dict[str, Any]:
        nonlocal joined
        joined = joined or _joins(each)
        return each

    _rewritten(schema, look)
    return schema if joined else _rewritten(schema, _close)


_JOINING = frozenset(("allOf", "not", "if", "dependentSchemas"))
_JUDGING = ("properties", "anyOf", "oneOf", "$ref")
_OPEN = frozenset(("additionalProperties", "patternProperties", "propertyNames", "unevaluatedProperties"))


def _joins(schema: dict[str, Any]) -> bool:
    return not _JOINING.isdisjoint(schema) or sum(key in schema for key in _JUDGING) > 1


def _close(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("properties"), dict) and _OPEN.isdisjoint(schema):
        return schema | {"additionalProperties": False}
    return schema


def _arguments(tool: Tool) -> dict[str, Any]:
    parameters: Any = _closed(json.loads(tool.parameters))
    return {"type": "object", **parameters} if isinstance(parameters, dict) else {"type": "object"}


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


def _target(schema: object, reference: str) -> object:
    """Return what a reference within a schema leads to, `_NOWHERE` for none."""
    if not reference.startswith("#"):
        return _NOWHERE
    at = schema
    for part in reference[1:].strip("/").split("/") if reference.strip("#/") else []:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(at, dict) and name in at:
            at = at[name]
        elif isinstance(at, list) and name.isdigit() and int(name) < len(at):
            at = at[int(name)]
        else:
            return _NOWHERE
    return at


_PARTS = re.compile(
    r"""(?P<pattern>"pattern(?:Properties)?"\s*:\s*(?:"(?:\\.|[^"\\])*"|\{))"""
    r"""|(?P<text>"(?:\\.|[^"\\])*")"""
    r"""|(?P<comment>//[^\n]*)"""
    r"""|(?P<regex>/(?:\\.|[^/\\\n])+/)""",
    re.DOTALL,
)
"""The parts of a schema or a Lark grammar that may hold any characters."""


def names_unicode_patterns(constraint: Constraint) -> bool:
    """Tell whether a regular expression in the constraint has characters outside ASCII; of doubtful ones it says yes."""
    match constraint:
        case Regex():
            return not constraint.pattern.isascii()
        case Choice():
            return False
        case JsonSchema():
            text = json.dumps(json.loads(constraint.schema), ensure_ascii=False)
        case Grammar():
            text = constraint.lark
    if text.isascii() and "\\u" not in text:
        return False
    found = [part for part in _PARTS.finditer(text) if part["pattern"] or part["regex"]]
    return any("patternProperties" in part[0] or not part[0].isascii() or "\\u" in part[0] for part in found)


def respell(grammar: str, spell: Callable[[str], str]) -> str:
    """Return a Lark grammar with `spell` applied to each of its texts' characters outside ASCII, patterns left alone."""

    def change(part: re.Match[str]) -> str:
        if not part["text"]:
            return part[0]
        plain = _ESCAPED.sub(lambda escape: str(json.loads(f'"{escape[0]}"')), part[0])
        return "".join(char if char.isascii() else spell(char) for char in plain)

    return _PARTS.sub(change, grammar)


_ESCAPED = re.compile(r"(?<!\\)(?:\\u(?!00[0-7])[0-9a-fA-F]{4})+")
"""Characters outside ASCII, a pair of surrogates as one."""
