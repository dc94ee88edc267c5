"""Writes constraints as Lark grammars, the language of llguidance, for every engine.

Knows llguidance's language; no tokenizer, no call and no engine.
"""

import json
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

from serve_app.chat.constraint import JSON_STYLE, close_objects, map_schemas, quote_reference
from serve_app.types import Constraint, Grammar, JsonSchema, OneOf, Regex

_START = "start: "
_INTEGER_KEYS = frozenset(
    ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains")
)
"""Keywords whose values are integers, also where a client writes `3.0`."""
_PCHAR = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_AUTHORITY = f"(?:{_PCHAR}*|(?:{_PCHAR}*@)?\\[[0-9A-Fa-f:.]+\\](?::[0-9]*)?)"
_URI = f"^[A-Za-z][A-Za-z0-9+.-]*:(?://{_AUTHORITY}(?:/{_PCHAR}*)*|/?(?:{_PCHAR}+(?:/{_PCHAR}*)*)?)(?:\\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?$"
"""A URI by RFC 3986. llama.cpp's build of llguidance lacks the format `uri`, and only that one."""
_KNOWN_DIALECTS = ("http://json-schema.org/", "https://json-schema.org/")


def to_lark(constraint: Constraint) -> str:
    """Return a constraint as a Lark grammar; raises `ValueError` for a pattern that llguidance cannot parse."""
    match constraint:
        case Grammar():
            return constraint.lark
        case _:
            return _START + write_answer_rule(constraint)


def write_answer_rule(constraint: Constraint) -> str:
    """Return the body of a grammar rule that derives the answers `constraint` allows; raises as `to_lark` does."""
    match constraint:
        case JsonSchema():
            return f"%json {style_schema(json.loads(constraint.schema), lenient=constraint.lenient)}"
        case Regex():
            return convert_regex(constraint.pattern)
        case OneOf():
            return " | ".join(map(quote_literal, constraint.options))
        case Grammar():
            return f"%lark {{\n{constraint.lark}\n}}"


def wrap_lark(lark: str, end_ids: Collection[int], *, forcing: bool = False) -> str:
    """Return a grammar for an engine that runs llguidance over its own vocabulary, as vLLM and llama.cpp do.

    Such an engine knows one token that ends an answer, and the model may draw another; so the grammar names every token of
    `end_ids`. Without `forcing` the engine lets the model draw tokens even where the grammar allows one text only; see
    `serve_app.chat.lark_text.may_force_tokens`.
    """
    ends = ",".join(map(str, sorted(end_ids)))
    options = "{}" if forcing else '{"no_forcing": true}'
    return f"%llguidance {options}\n{_START}answer <[{ends}]>?\nanswer: %lark {{\n{lark}\n}}\n"


def quote_literal(text: str) -> str:
    """Return a text as a Lark literal: a JSON string in which DEL is escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def convert_regex(regex: str) -> str:
    """Return a regular expression as the body of a Lark rule; raises `ValueError` where llguidance cannot parse it."""
    if (len(regex) - len(regex.rstrip("\\"))) % 2:
        raise ValueError("the pattern ends within an escape")  # llguidance would drop the backslash
    lark: str = json.loads(LLMatcher.grammar_from_regex(regex))["grammars"][0]["lark_grammar"]
    return lark.removeprefix(_START)


def style_schema(schema: Any, *, lenient: bool = False) -> str:
    """Return a schema as JSON for llguidance, with the style in which the model writes JSON.

    With `lenient` it lacks the rules that llguidance cannot enforce; otherwise llguidance refuses such a schema.
    """
    translated = map_schemas(close_objects(schema), _relax_schema if lenient else _translate_schema)
    style = JSON_STYLE | ({"lenient": True} if lenient else {})
    return json.dumps((translated if isinstance(translated, dict) else {}) | {"x-guidance": style}, ensure_ascii=False)


def _translate_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of the same meaning in keywords that llguidance reads."""
    translated = {
        key: int(value) if key in _INTEGER_KEYS and _is_whole(value) else value for key, value in quote_reference(schema).items()
    }
    if translated.get("format") == "uri":
        del translated["format"]
        translated["allOf"] = [*_as_list(translated.get("allOf")), {"pattern": _URI}]
    dialect = translated.get("$schema")
    if isinstance(dialect, str) and not dialect.startswith(_KNOWN_DIALECTS):
        del translated["$schema"]
    return translated


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _relax_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without the patterns that llguidance cannot parse, such as those with lookahead."""
    relaxed = _translate_schema(schema)
    if isinstance(relaxed.get("pattern"), str) and not _is_parsable(relaxed["pattern"]):
        del relaxed["pattern"]
    by_pattern = relaxed.get("patternProperties")
    if isinstance(by_pattern, dict) and not all(map(_is_parsable, by_pattern)):
        del relaxed["patternProperties"]
        relaxed.pop("additionalProperties", None)  # it would forbid what the patterns allow
    return relaxed


@lru_cache(512)
def _is_parsable(regex: str) -> bool:
    try:
        return not LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(regex))
    except ValueError:
        return False
