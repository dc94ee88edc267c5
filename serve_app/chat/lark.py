"""Constraints as Lark grammars: the one place that writes what llguidance reads, whichever engine runs it.

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
_WHOLE = frozenset(
    ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains")
)
"""Keywords whose numbers are whole, and may be written `3.0`."""
_PCHAR = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_AUTHORITY = f"(?:{_PCHAR}*|(?:{_PCHAR}*@)?\\[[0-9A-Fa-f:.]+\\](?::[0-9]*)?)"
_URI = f"^[A-Za-z][A-Za-z0-9+.-]*:(?://{_AUTHORITY}(?:/{_PCHAR}*)*|/?(?:{_PCHAR}+(?:/{_PCHAR}*)*)?)(?:\\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?$"
"""RFC 3986's URI. llama.cpp's copy of llguidance is built without this one format."""
_KNOWN_DIALECTS = ("http://json-schema.org/", "https://json-schema.org/")


def to_lark(constraint: Constraint) -> str:
    """Return a constraint as a Lark grammar; raises `ValueError` for a pattern that llguidance cannot read at all."""
    match constraint:
        case Grammar():
            return constraint.lark
        case _:
            return _START + write_answer_rule(constraint)


def write_answer_rule(constraint: Constraint) -> str:
    """Return what stands behind the name of a rule that derives what `constraint` allows; raises as `to_lark` does."""
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
    """Return a grammar for those who run llguidance over a vocabulary of their own, as vLLM and llama.cpp do.

    They know one token that ends an answer, and the model may write another: so every one in `end_ids` is named. Without `forcing`
    they leave the tokens to the model also where the text has no choice; see `serve_app.chat.lark_text.may_force_tokens`.
    """
    ends = ",".join(map(str, sorted(end_ids)))
    options = "{}" if forcing else '{"no_forcing": true}'
    return f"%llguidance {options}\n{_START}answer <[{ends}]>?\nanswer: %lark {{\n{lark}\n}}\n"


def quote_literal(text: str) -> str:
    """Return a text as Lark writes it: as JSON does, but with DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def convert_regex(regex: str) -> str:
    """Return a regular expression as Lark writes it; raises `ValueError` where llguidance cannot read it at all."""
    if (len(regex) - len(regex.rstrip("\\"))) % 2:
        raise ValueError("the pattern ends within an escape")  # llguidance would drop the backslash
    lark: str = json.loads(LLMatcher.grammar_from_regex(regex))["grammars"][0]["lark_grammar"]
    return lark.removeprefix(_START)


def style_schema(schema: Any, *, lenient: bool = False) -> str:
    """Return a schema as JSON that also asks for the model's own way to write JSON, which llguidance reads.

    With `lenient` what llguidance cannot enforce is left out of it; without, it refuses the schema.
    """
    value = map_schemas(close_objects(schema), _relaxed if lenient else _plain)
    style = JSON_STYLE | ({"lenient": True} if lenient else {})
    return json.dumps((value if isinstance(value, dict) else {}) | {"x-guidance": style}, ensure_ascii=False)


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with the same meaning in llguidance's terms."""
    plain = {key: int(value) if key in _WHOLE and _is_whole(value) else value for key, value in quote_reference(schema).items()}
    if plain.get("format") == "uri":
        del plain["format"]
        plain["allOf"] = [*_listed(plain.get("allOf")), {"pattern": _URI}]
    dialect = plain.get("$schema")
    if isinstance(dialect, str) and not dialect.startswith(_KNOWN_DIALECTS):
        del plain["$schema"]
    return plain


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _relaxed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without the patterns that llguidance cannot read, such as those that look ahead."""
    relaxed = _plain(schema)
    if isinstance(relaxed.get("pattern"), str) and not _is_readable(relaxed["pattern"]):
        del relaxed["pattern"]
    by_pattern = relaxed.get("patternProperties")
    if isinstance(by_pattern, dict) and not all(map(_is_readable, by_pattern)):
        del relaxed["patternProperties"]
        relaxed.pop("additionalProperties", None)  # it would forbid what the patterns allow
    return relaxed


@lru_cache(512)
def _is_readable(regex: str) -> bool:
    try:
        return not LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(regex))
    except ValueError:
        return False
