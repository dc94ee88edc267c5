"""Random tools: names, descriptions, typed parameters, and requests that fill them in.

A `Parameter` knows its JSON schema, how to draw a value and how a request words it. Knows no conversation.
"""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from training.embedded.conversation import is_held_out
from training.embedded.families.texts import COMMON, NAMES, PHRASES, WORDS, fill, listing, load, nonsense_noun, say

_PARAMETERS = load("parameters")
_KINDS = {"string": 30, "number": 15, "integer": 15, "boolean": 10, "enum": 12, "array": 8, "numbers": 4, "object": 6}
"""How often each kind of parameter is drawn."""
_POOLS = {
    "string": "strings",
    "number": "numbers",
    "integer": "integers",
    "boolean": "booleans",
    "array": "lists",
    "numbers": "number lists",
}
"""The list of words that names a kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One argument of a tool."""

    name: str
    """Its name."""
    kind: str
    """string, number, integer, boolean, enum, array (of strings), numbers (array of integers) or object."""
    choices: tuple[str, ...] = ()
    """The values of an enum."""
    fields: tuple[tuple[str, str], ...] = ()
    """Name and kind of an object's fields."""
    about: str = ""
    """Its description, if it has one."""

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        fields = {name: {"type": kind} for name, kind in self.fields}
        found: dict[str, Any] = {
            "enum": {"type": "string", "enum": list(self.choices)},
            "array": {"type": "array", "items": {"type": "string"}},
            "numbers": {"type": "array", "items": {"type": "integer"}},
            "object": {"type": "object", "properties": fields, "required": list(fields)},
        }.get(self.kind, {"type": self.kind})
        return found | {"description": self.about} if self.about else found

    def value(self, rng: Random) -> Any:
        """Draw a value."""
        match self.kind:
            case "enum":
                return rng.choice(self.choices)
            case "array":
                return [_word(rng) for _ in range(rng.randint(1, 3))]
            case "numbers":
                return [rng.randint(1, 99) for _ in range(rng.randint(1, 4))]
            case "object":
                return {name: scalar(rng, name, kind) for name, kind in self.fields}
        return scalar(rng, self.name, self.kind)

    def worded(self, rng: Random, value: Any) -> str:
        """Say the value in a request, so that it is clear which parameter is meant."""
        label = self.name.replace("_", " ")
        match self.kind:
            case "boolean":
                return say(rng, "true" if value else "false", label=label)
            case "array" | "numbers":
                return say(rng, "list", label=label, x=listing([str(item) for item in value]))
            case "object":
                return say(
                    rng, "object", label=label, x=" and ".join(f"{name} {_quoted(rng, item)}" for name, item in value.items())
                )
        text = _quoted(rng, value)
        amounts = PHRASES["amount"] if self.kind in ("number", "integer") else []
        forms = PHRASES["value"] + amounts + PHRASES.get(f"value of {label}", [])
        return fill(rng, rng.choice(forms), label=label, x=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function and the words for it."""

    name: str
    """Its name."""
    about: str
    """Its description."""
    task: tuple[str, str]
    """Verb and object, as a request says them."""
    parameters: tuple[Parameter, ...]
    """In the order of the schema."""
    optional: frozenset[str] = frozenset()
    """Names that may be left out."""
    extras: frozenset[str] = frozenset()
    """What clients add to a schema: title, closed (additionalProperties), strict."""

    def schema(self) -> dict[str, Any]:
        """Return the function object."""
        titled = "title" in self.extras
        properties = {p.name: ({"title": p.name.replace("_", " ").title()} if titled else {}) | p.schema() for p in self.parameters}
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        if required := [p.name for p in self.parameters if p.name not in self.optional]:
            parameters["required"] = required
        if "closed" in self.extras:
            parameters["additionalProperties"] = False
        function = {"name": self.name, "description": self.about, "parameters": parameters}
        return function | {"strict": True} if "strict" in self.extras else function

    def request(self, rng: Random) -> tuple[str, dict[str, Any]]:
        """Write a request without its final mark, and the call it asks for, its arguments in the order of the request."""
        verb, thing = self.task
        chosen = [p for p in self.parameters if p.name not in self.optional or rng.random() < 0.5]
        if rng.random() < 0.25:
            rng.shuffle(chosen)
        values = {p.name: p.value(rng) for p in chosen}
        said = [p.worded(rng, values[p.name]) for p in chosen]
        text = say(rng, "request", article=rng.choice(("the", "the", "a")), verb=verb, thing=thing)
        if said:
            text += rng.choice((" with ", " with ", ", ", ": ", " for ", " "))
            text += listing(said, lambda: rng.choice((" and ", ", ", ", and ")))
        return text, {"name": self.name, "arguments": values}


def scalar(rng: Random, name: str, kind: str) -> Any:
    """Draw a string, a number, an integer or a truth value that suits the name."""
    match kind:
        case "integer":
            return (
                rng.randint(1, 9) if rng.random() < 0.3 else rng.randint(10, 99) if rng.random() < 0.7 else rng.randint(100, 2999)
            )
        case "number":
            return rng.randint(1, 200) if rng.random() < 0.7 else round(rng.uniform(0.5, 90), rng.choice((1, 1, 2)))
        case "boolean":
            return rng.random() < 0.5
    if name == "city":
        return rng.choice(WORDS["cities"])
    if name in ("recipient", "owner", "author", "sender", "name"):
        return rng.choice(NAMES)
    return " ".join(_word(rng) for _ in range(rng.choice((1, 1, 1, 2, 3))))


def draw_tools(rng: Random, count: int, *, held_out: bool) -> list[Tool]:
    """Draw tools of different names and tasks, all from one side of the split (a tool is held out by its name).

    Often several share a verb or a noun, so that neither alone identifies a tool.
    """
    tools: dict[str, Tool] = {}
    while len(tools) < count:
        verb = noun = ""
        if tools and rng.random() < 0.3:
            near = rng.choice(list(tools.values()))
            verb, noun = (near.task[0], "") if rng.random() < 0.5 else ("", near.task[1])
        tool = _tool(rng, verb, noun)
        taken = tool.name in tools or any(tool.task == other.task for other in tools.values())
        if is_held_out(tool.name) == held_out and not taken:
            tools[tool.name] = tool
    return list(tools.values())


def _tool(rng: Random, verb: str, noun: str) -> Tool:
    verb = verb or (rng.choice(WORDS["tool verbs"]) if rng.random() < 0.85 else nonsense_noun(rng))
    if not noun:
        noun = rng.choice(WORDS["tool nouns"]) if rng.random() < 0.8 else nonsense_noun(rng)
        if rng.random() < 0.25:
            noun = f"{rng.choice(WORDS['tool qualifiers'])} {noun}"
    parts = noun.split()
    style = rng.random()
    if style < 0.15:
        name = verb + "".join(part.capitalize() for part in parts)
    else:
        name = "_".join([*parts, verb] if style < 0.32 else [verb, *parts])
    about = say(rng, "about", Verb=verb.capitalize(), verb=verb, noun=noun)
    found: dict[str, Parameter] = {}
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 4))):
        parameter = _parameter(rng)
        found.setdefault(parameter.name, parameter)
    parameters = tuple(found.values())
    optional = frozenset(p.name for p in parameters[1:] if rng.random() < 0.25)
    extras = frozenset(extra for extra in ("title", "closed", "strict") if rng.random() < 0.07)
    return Tool(name=name, about=about, task=(verb, noun), parameters=parameters, optional=optional, extras=extras)


def _parameter(rng: Random) -> Parameter:
    kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    if kind == "enum":
        name = rng.choice(list(_PARAMETERS["enums"]))
        values = _PARAMETERS["enums"][name].split()
        return Parameter(name=name, kind=kind, choices=tuple(rng.sample(values, rng.randint(2, len(values)))))
    if kind == "object":
        name = rng.choice(list(_PARAMETERS["objects"]))
        return Parameter(name=name, kind=kind, fields=tuple(_PARAMETERS["objects"][name].items()))
    name = rng.choice(WORDS[_POOLS[kind]])
    if kind in ("string", "number", "integer") and rng.random() < 0.1:
        name = nonsense_noun(rng)
    elif kind in ("string", "number", "integer") and rng.random() < 0.12:
        name = f"{rng.choice(WORDS['tool nouns'])}_{name}"
    return Parameter(name=name, kind=kind, about=say(rng, "about parameter", label=name.replace("_", " ")))


def _word(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.85:
        return rng.choice(COMMON if kind < 0.6 else NAMES if kind < 0.75 else WORDS["cities"])
    return nonsense_noun(rng)


def _quoted(rng: Random, value: Any) -> str:
    text = str(value)
    return json.dumps(text) if " " in text or (isinstance(value, str) and rng.random() < 0.15) else text
