"""Random tools: names, descriptions, typed parameters, and requests that fill them in.

Knows how to draw a value of a schema and how a request words it. Knows no conversation.
"""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from training.embedded.conversation import is_held_out
from training.embedded.families.texts import PHRASES, WORDS, drawn, fill, listing, load, nonsense_noun, say

_PARAMETERS = load("parameters")
_KINDS = {kind: entry["names"] for kind, entry in _PARAMETERS["kinds"].items()}
_WEIGHTS = [entry["weight"] for entry in _PARAMETERS["kinds"].values()]

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function, and the words for it where it is made up."""

    name: str
    """Its name."""
    about: str
    """Its description."""
    properties: dict[str, Schema]
    """The JSON schema of each argument."""
    optional: frozenset[str] = frozenset()
    """Arguments that may be left out."""
    task: tuple[str, str] = ("", "")
    """Verb and object, as a request says them."""
    extras: frozenset[str] = frozenset()
    """What clients add to a schema: title, closed (additionalProperties), strict."""

    def schema(self) -> Schema:
        """Return the function object."""
        properties = self.properties
        if "title" in self.extras:
            properties = {name: {"title": name.replace("_", " ").title()} | kind for name, kind in properties.items()}
        required = [name for name in properties if name not in self.optional]
        parameters: Schema = {"type": "object", "properties": properties} | ({"required": required} if required else {})
        parameters |= {"additionalProperties": False} if "closed" in self.extras else {}
        function = {"name": self.name, "description": self.about, "parameters": parameters}
        return function | ({"strict": True} if "strict" in self.extras else {})

    def request(self, rng: Random) -> tuple[str, dict[str, Any]]:
        """Write a request without its final mark, and the call it asks for, its arguments in the order of the request."""
        chosen = [name for name in self.properties if name not in self.optional or rng.random() < 0.5]
        if rng.random() < 0.25:
            rng.shuffle(chosen)
        values = {name: _value(rng, name, self.properties[name]) for name in chosen}
        said = [_worded(rng, name, self.properties[name]["type"], value) for name, value in values.items()]
        text = say(rng, "request", article=rng.choice(("the", "the", "a")), verb=self.task[0], thing=self.task[1])
        if said:
            text += say(rng, "before arguments") + listing(said, lambda: rng.choice((" and ", ", ", ", and ")))
        return text, {"name": self.name, "arguments": values}


def _value(rng: Random, name: str, schema: Schema) -> Any:
    """Draw a value of an argument."""
    match schema:
        case {"enum": choices}:
            return rng.choice(choices)
        case {"items": {"type": kind}}:
            item, most = (drawn("word"), 3) if kind == "string" else (drawn("1..99"), 4)
            return [item(rng) for _ in range(rng.randint(1, most))]
        case {"properties": fields}:
            return {field: scalar(rng, field, kind["type"]) for field, kind in fields.items()}
    return scalar(rng, name, schema["type"])


def _worded(rng: Random, name: str, kind: str, value: Any) -> str:
    """Say a value in a request, so that it is clear which argument is meant."""
    label = name.replace("_", " ")
    match value:
        case bool():
            return say(rng, "true" if value else "false", label=label)
        case list():
            return say(rng, "list", label=label, x=listing([str(item) for item in value]))
        case dict():
            said = [f"{field} {_quoted(rng, item)}" for field, item in value.items()]
            return say(rng, "object", label=label, x=" and ".join(said))
    text = _quoted(rng, value)
    forms = PHRASES["value"] + (PHRASES["amount"] if kind != "string" else []) + PHRASES.get(f"value of {label}", [])
    return fill(rng, rng.choice(forms), label=label, x=text)


def scalar(rng: Random, name: str, kind: str) -> Any:
    """Draw a string that suits the name, a number, an integer or a truth value."""
    return drawn(_PARAMETERS["values"].get(name, "text") if kind == "string" else kind)(rng)


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
    verb = verb or drawn("tool verb")(rng)
    if not noun:
        noun = drawn("tool noun")(rng)
        if rng.random() < 0.25:
            noun = f"{rng.choice(WORDS['tool qualifiers'])} {noun}"
    style = rng.random()
    name = f"{noun} {verb}" if 0.15 <= style < 0.32 else f"{verb} {noun}"
    name = verb + noun.title().replace(" ", "") if style < 0.15 else name.replace(" ", "_")
    about = say(rng, "about", Verb=verb.capitalize(), verb=verb, noun=noun)
    properties: dict[str, Schema] = {}
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 4))):
        label, schema = _parameter(rng)
        properties.setdefault(label, schema)
    optional = frozenset(label for label in list(properties)[1:] if rng.random() < 0.25)
    extras = frozenset(extra for extra in ("title", "closed", "strict") if rng.random() < 0.07)
    return Tool(name=name, about=about, task=(verb, noun), properties=properties, optional=optional, extras=extras)


def _parameter(rng: Random) -> tuple[str, Schema]:
    """Draw the name and the schema of an argument."""
    kind = rng.choices(list(_KINDS), _WEIGHTS)[0]
    name = rng.choice(list(_PARAMETERS.get(_KINDS[kind]) or WORDS[_KINDS[kind]]))
    if kind == "enum":
        values = _PARAMETERS["enums"][name].split()
        return name, {"type": "string", "enum": rng.sample(values, rng.randint(2, len(values)))}
    if kind == "object":
        fields = {field: {"type": each} for field, each in _PARAMETERS["objects"][name].items()}
        return name, {"type": "object", "properties": fields, "required": list(fields)}
    if kind in ("string", "number", "integer"):
        if rng.random() < 0.1:
            name = nonsense_noun(rng)
        elif rng.random() < 0.12:
            name = f"{rng.choice(WORDS['tool nouns'])}_{name}"
    about = say(rng, "about parameter", label=name.replace("_", " "))
    items = {"array": {"type": "string"}, "numbers": {"type": "integer"}}
    schema = {"type": "array", "items": items[kind]} if kind in items else {"type": kind}
    return name, schema | ({"description": about} if about else {})


def _quoted(rng: Random, value: Any) -> str:
    text = str(value)
    return json.dumps(text) if " " in text or (isinstance(value, str) and rng.random() < 0.15) else text
