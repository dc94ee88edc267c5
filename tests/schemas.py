"""Random JSON schemas, for answers and for tools' arguments. Texts and lists are bounded, so that a small model comes to an end."""

from random import Random
from typing import Any

_NAMES = ("city", "days", "name", "tags", "size", "price", "Ünïcode", "is active", "note", "range", "x", "user_id")


def random_object(rng: Random, depth: int = 0) -> dict[str, Any]:
    """An object of one to four properties, some of them optional."""
    names = rng.sample(_NAMES, rng.randint(1, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _value(rng, depth + 1) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }
    if depth == 0 and rng.random() < 0.3:
        schema["$defs"] = {"point": random_object(rng, 2)}
        schema["properties"]["at"] = {"$ref": "#/$defs/point"}
    return schema


def _value(rng: Random, depth: int) -> dict[str, Any]:
    kinds = [_text, _number, _enum, _flag, _pattern, _nullable, _constant]
    if depth < 3:
        kinds += [random_object, _list, _either]
    return rng.choice(kinds)(rng, depth)


def _text(rng: Random, _: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": rng.randint(1, 20)}


def _number(rng: Random, _: int) -> dict[str, Any]:
    low = rng.randint(-50, 50)  # no fractions: their digits have no end
    return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 1000)}


def _enum(rng: Random, _: int) -> dict[str, Any]:
    return {"enum": rng.sample(["red", "grün", "蓝", 'quo"te', "back\\slash", 7, None, True], rng.randint(1, 4))}


def _flag(_: Random, __: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _pattern(rng: Random, _: int) -> dict[str, Any]:
    return {"type": "string", "pattern": rng.choice((r"^[A-Z]{2}-[0-9]{3}$", r"^(yes|no)$", r"^[a-f0-9]{8}$"))}


def _nullable(rng: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_text(rng, depth), {"type": "null"}]}


def _constant(rng: Random, _: int) -> dict[str, Any]:
    return {"const": rng.choice(["fixed", 42, False])}


def _list(rng: Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    return {"type": "array", "items": _value(rng, depth + 1), "minItems": least, "maxItems": least + rng.randint(0, 2)}


def _either(rng: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_value(rng, depth + 1) for _ in range(2)]}
