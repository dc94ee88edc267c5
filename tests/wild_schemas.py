"""Random schemas of the kinds that clients generate: pydantic's and JSON schema's own vocabulary, texts of every script in them.

Beside what can be enforced they use what no grammar keeps: sets, conditions, negations, look-ahead, formats that nobody knows.
"""

from random import Random
from typing import Any

TEXTS = (
    "red",
    "größe",
    "日本",
    "🐱 x",
    "<|end|>",
    "a<|tool_call|>b",
    "<|/tool|>",
    'quo"te',
    "back\\slash",
    "\x7f",
    "a\u2028b",
    "é",
    "ü",
)
NAMES = (*TEXTS, "city", "days", "is active", "$ref", "type", "x-y", "Straße", "имя")
_FORMATS = ("date-time", "date", "time", "uuid", "email", "ipv4", "uri", "binary", "password", "json-pointer", "int64", "path")


def wild_object(rng: Random, depth: int = 0) -> dict[str, Any]:
    """An object of one to four properties."""
    names = rng.sample(NAMES, rng.randint(1, 4))
    schema: dict[str, Any] = {"type": "object", "properties": {name: _value(rng, depth + 1) for name in names}}
    if rng.random() < 0.8:
        schema["required"] = [name for name in names if rng.random() < 0.8]
    if rng.random() < 0.4:
        schema["additionalProperties"] = rng.choice([False, False, True, {"type": "integer"}])
    if depth == 0:
        schema |= {"title": "Answer", "description": "as <|end|> asked"} if rng.random() < 0.5 else {}
        if rng.random() < 0.4:
            schema["$defs"] = {"Point": wild_object(rng, 2), "Maß": {"enum": ["m", "é"]}}
            schema["properties"]["at"] = {"$ref": "#/$defs/Point"}
            schema["properties"]["unit"] = {"anyOf": [{"$ref": "#/$defs/Maß"}, {"type": "null"}], "default": None}
        if rng.random() < 0.2:
            schema |= rng.choice(_BEYOND_OBJECTS)
    return schema


def _value(rng: Random, depth: int) -> dict[str, Any]:
    kinds = [_text, _formatted, _number, _enum, _constant, _pattern, _nullable, _flag, _limited]
    if depth < 3:
        kinds += [wild_object, _list, _tuple, _set, _map, _either, _one_of, _all_of]
    value = rng.choice(kinds)(rng, depth)
    if rng.random() < 0.2:
        value |= {"title": rng.choice(TEXTS), "description": "x", "default": None, "examples": [1], "deprecated": True}
    return value


def _text(rng: Random, _: int) -> dict[str, Any]:
    least = rng.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 12)}


def _formatted(rng: Random, _: int) -> dict[str, Any]:
    return {"type": "string", "format": rng.choice(_FORMATS), "maxLength": 40}


def _number(rng: Random, _: int) -> dict[str, Any]:
    low = rng.randint(-50, 50)
    return rng.choice(
        [
            {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 1000)},
            {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 5},
            {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
            {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
            {"type": "number", "enum": [0.5, 1, 1e3, -2.25]},
        ]
    )


def _enum(rng: Random, _: int) -> dict[str, Any]:
    return {"enum": rng.sample([*TEXTS, 7, None, True, 1.5], rng.randint(1, 5))}


def _constant(rng: Random, _: int) -> dict[str, Any]:
    return {"const": rng.choice([*TEXTS, 42, False, None])}


def _pattern(rng: Random, _: int) -> dict[str, Any]:
    return {
        "type": "string",
        "pattern": rng.choice((r"^[A-Z]{2}-[0-9]{3}$", r"^(yes|no)$", r"^a\/b$", r"^(?=x)[xy]{2}$", r"^\d{1,3}$")),
    }


def _nullable(rng: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [rng.choice([_text, _formatted, _enum])(rng, depth), {"type": "null"}]}


def _flag(_: Random, __: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _limited(rng: Random, _: int) -> dict[str, Any]:
    return rng.choice(
        [
            {"enum": ["a", "b"], "not": {"const": "a"}},
            {"type": "integer", "minimum": 0, "maximum": 9, "not": {"enum": [3]}},
            {"enum": [1, 2], "if": {"const": 1}, "then": {"const": 1}, "else": {"const": 2}},
        ]
    )


def _list(rng: Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    return {"type": "array", "items": _value(rng, depth + 1), "minItems": least, "maxItems": least + rng.randint(0, 2)}


def _tuple(rng: Random, depth: int) -> dict[str, Any]:
    return {"type": "array", "prefixItems": [_value(rng, depth + 1) for _ in range(2)], "minItems": 2, "maxItems": 2}


def _set(rng: Random, _: int) -> dict[str, Any]:
    return {"type": "array", "items": {"enum": rng.sample(TEXTS, 3)}, "uniqueItems": True, "minItems": 1, "maxItems": 2}


def _map(rng: Random, _: int) -> dict[str, Any]:
    names = {"propertyNames": {"pattern": "^[a-z]+$"}} if rng.random() < 0.5 else {}
    return {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9}, "maxProperties": 1} | names


def _either(rng: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_value(rng, depth + 1) for _ in range(2)]}


def _one_of(rng: Random, depth: int) -> dict[str, Any]:
    kinds = [{"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in ("cat", "<|end|>")]
    return {"oneOf": kinds, "discriminator": {"propertyName": "kind"}}


def _all_of(rng: Random, _: int) -> dict[str, Any]:
    return {"allOf": [{"type": "integer", "minimum": 3, "maximum": 12}], "description": "x"}


_BEYOND_OBJECTS: tuple[dict[str, Any], ...] = (
    {"minProperties": 1},
    {"propertyNames": {"minLength": 1}},
    {"dependentRequired": {"city": ["days"]}},
    {"patternProperties": {"^x-": {"type": "integer"}}},
    {"$schema": "https://json-schema.org/draft/2020-12/schema"},
)
