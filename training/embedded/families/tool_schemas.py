"""Random tools: names, descriptions, typed parameters, and requests that fill them in.

A `Parameter` knows its JSON schema, how to draw a value and how a request words it. Knows no conversation.
"""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from training.embedded.conversation import is_held_out
from training.embedded.families.vocabulary import COMMON, NAMES, nonsense_noun, words

CITIES = words(
    "Paris Berlin London Sofia Beijing Tokyo Madrid Rome Oslo Vienna Cairo Lima Delhi Toronto Prague Dublin Seoul Varna "
    "Amsterdam Athens Bangkok Barcelona Boston Brussels Budapest Chicago Copenhagen Dallas Denver Geneva Hamburg Helsinki "
    "Istanbul Kyoto Lagos Lisbon Manila Melbourne Miami Milan Montreal Moscow Mumbai Munich Nairobi Naples Osaka Plovdiv "
    "Reykjavik Riga Seattle Shanghai Singapore Stockholm Sydney Venice Warsaw Zurich"
)
_VERBS = words(
    "get find create send delete update set book order search convert calculate translate list check open close start stop play "
    "schedule cancel add remove read write move copy rename count measure compare track share print download upload install rate "
    "review pay refund reserve assign invite lock unlock paint clean repair archive "
    "fetch query show view save load run execute submit approve reject merge split sort filter export import publish print "
    "enable disable connect scan test check validate generate summarize analyze predict estimate compute retrieve register "
    "subscribe notify call launch deploy restart backup restore edit tag label buy sell ship return rent"
)
_NOUNS = words(
    "weather time message email timer alarm flight hotel room ticket song movie book recipe report invoice order payment user "
    "account file folder photo note task event meeting route map price stock currency distance area volume temperature light door "
    "window car taxi table restaurant package parcel lamp printer sensor robot garden device server database contract circle "
    "text number color city store product review game team school train station reminder list "
    "image video page document record table row query log job task branch commit issue ticket cluster node pod model token "
    "customer employee patient student member contact address phone password key card coupon discount budget expense loan "
    "tax salary subscription delivery shipment warehouse item cart wishlist appointment class course exam grade book shelf "
    "playlist album podcast channel stream post comment article newsletter survey form backup camera thermostat fan heater "
    "oven fridge pump engine battery vehicle bike bus ferry plane trip visa passport luggage seat park museum beach hospital "
    "pharmacy medicine diet workout score match league player ranking forecast rainfall wind sunrise moon planet"
)
_QUALIFIERS = words(
    "new old daily weekly local remote public private main next last free group home work "
    "monthly annual open closed shared draft final urgent digital paper external internal nearby current"
)

_STRINGS = words(
    "name title subject city language topic reason category recipient label owner author project sender place team text "
    "query description comment address country destination origin source target key value path url email phone status type "
    "brand genre ingredient company department username note keyword"
)
_NUMBERS = words(
    "radius price amount weight height width length distance temperature rate speed budget depth score ratio duration x y"
)
_INTEGERS = words(
    "count minutes hours days pages quantity level year floor seats number id limit age index offset port size copies "
    "guests nights points"
)
_BOOLEANS = words(
    "urgent verbose public private express silent recursive encrypted shared active hidden enabled sorted compressed "
    "anonymous strict"
)
_ENUMS = {
    "color": words("red green blue black white"),
    "size": words("small medium large"),
    "unit": words("km miles meters"),
    "format": words("pdf html text json"),
    "priority": words("low normal high"),
    "mode": words("fast safe quiet"),
    "day": words("monday tuesday friday sunday"),
    "scale": words("celsius fahrenheit kelvin"),
    "status": words("open closed pending done"),
    "language": words("english french german spanish bulgarian"),
    "order": words("ascending descending"),
    "level": words("debug info warning error"),
    "currency": words("usd eur gbp jpy bgn"),
    "period": words("day week month year"),
}
_LISTS = words("tags items names guests topics cities labels colors fields files keywords emails products columns")
_OBJECTS = {
    "address": (("street", "string"), ("number", "integer")),
    "contact": (("name", "string"), ("age", "integer")),
    "box": (("width", "number"), ("height", "number")),
    "range": (("start", "integer"), ("end", "integer")),
    "place": (("city", "string"), ("floor", "integer")),
    "user": (("name", "string"), ("id", "integer")),
    "location": (("city", "string"), ("country", "string")),
    "options": (("limit", "integer"), ("verbose", "boolean")),
    "filter": (("field", "string"), ("value", "string")),
}


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
        if self.kind == "enum":
            found: dict[str, Any] = {"type": "string", "enum": list(self.choices)}
        elif self.kind == "array":
            found = {"type": "array", "items": {"type": "string"}}
        elif self.kind == "numbers":
            found = {"type": "array", "items": {"type": "integer"}}
        elif self.kind == "object":
            fields = {name: {"type": kind} for name, kind in self.fields}
            found = {"type": "object", "properties": fields, "required": list(fields)}
        else:
            found = {"type": self.kind}
        return found | {"description": self.about} if self.about else found

    def value(self, rng: Random) -> Any:
        """Draw a value."""
        if self.kind == "enum":
            return rng.choice(self.choices)
        if self.kind == "array":
            return [_word(rng) for _ in range(rng.randint(1, 3))]
        if self.kind == "numbers":
            return [rng.randint(1, 99) for _ in range(rng.randint(1, 4))]
        if self.kind == "object":
            return {name: scalar(rng, name, kind) for name, kind in self.fields}
        return scalar(rng, self.name, self.kind)

    def worded(self, rng: Random, value: Any) -> str:
        """Say the value in a request, so that it is clear which parameter is meant."""
        label = self.name.replace("_", " ")
        if self.kind == "boolean":
            yes = (f"{label} on", f"{label}: yes", f"{label} true", f"{label} enabled")
            no = (f"{label} off", f"{label}: no", f"{label} false", f"not {label}")
            return rng.choice(yes if value else no)
        if self.kind in ("array", "numbers"):
            said = [str(item) for item in value]
            joined = said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]
            return rng.choice((f"{label} {joined}", f"{label}: {joined}"))
        if self.kind == "object":
            inner = " and ".join(f"{name} {_quoted(rng, item)}" for name, item in value.items())
            return rng.choice((f"{label} with {inner}", f"{label}: {inner}"))
        text = _quoted(rng, value)
        forms = [f"{label} {text}", f"{label} {text}", f"{label}: {text}", f"{label} = {text}", f"{text} as {label}"]
        if self.kind in ("number", "integer"):
            forms += [f"a {label} of {text}", f"{label} {text} units", f"{text} {label}"]
        if label == "city":
            forms += [f"in {text}"] * 4
        if label == "recipient":
            forms += [f"to {text}"] * 4
        return rng.choice(forms)


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
        properties = {p.name: p.schema() for p in self.parameters}
        if "title" in self.extras:
            properties = {name: {"title": name.replace("_", " ").title()} | schema for name, schema in properties.items()}
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        required = [p.name for p in self.parameters if p.name not in self.optional]
        if required:
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
        article = rng.choice(("the", "the", "a"))
        text = rng.choice((f"{verb} {article} {thing}",) * 3 + (f"{verb} {thing}", f"{verb} my {thing}"))
        if said:
            text += rng.choice((" with ", " with ", ", ", ": ", " for ", " "))
            text += said[0] if len(said) == 1 else ", ".join(said[:-1]) + rng.choice((" and ", ", ", ", and ")) + said[-1]
        return text, {"name": self.name, "arguments": values}


def scalar(rng: Random, name: str, kind: str) -> Any:
    """Draw a string, a number, an integer or a truth value that suits the name."""
    if kind == "integer":
        return rng.randint(1, 9) if rng.random() < 0.3 else rng.randint(10, 99) if rng.random() < 0.7 else rng.randint(100, 2999)
    if kind == "number":
        return rng.randint(1, 200) if rng.random() < 0.7 else round(rng.uniform(0.5, 90), rng.choice((1, 1, 2)))
    if kind == "boolean":
        return rng.random() < 0.5
    if name == "city":
        return rng.choice(CITIES)
    if name in ("recipient", "owner", "author", "sender", "name"):
        return rng.choice(NAMES)
    return " ".join(_word(rng) for _ in range(rng.choice((1, 1, 1, 2, 3))))


def draw_tools(rng: Random, count: int, *, held_out: bool) -> list[Tool]:
    """Draw tools of different names and tasks, all from one side of the split (a tool is held out by its name).

    Often several share a verb or a noun, so that neither alone tells them apart.
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
    verb = verb or (rng.choice(_VERBS) if rng.random() < 0.85 else nonsense_noun(rng))
    if not noun:
        noun = rng.choice(_NOUNS) if rng.random() < 0.8 else nonsense_noun(rng)
        if rng.random() < 0.25:
            noun = f"{rng.choice(_QUALIFIERS)} {noun}"
    parts = [verb, *noun.split()]
    style = rng.random()
    name = "_".join(parts)
    if style < 0.15:
        name = parts[0] + "".join(part.capitalize() for part in parts[1:])
    elif style < 0.32:
        name = "_".join([*parts[1:], parts[0]])
    about = rng.choice(
        (
            f"{verb.capitalize()} a {noun}",
            f"{verb.capitalize()} the {noun}",
            f"{verb.capitalize()} the {noun} for a user",
            f"Use this to {verb} a {noun}",
            f"A tool to {verb} a {noun}",
            f"{verb.capitalize()} {noun} by its data",
        )
    )
    parameters = _parameters(rng)
    optional = frozenset(p.name for p in parameters[1:] if rng.random() < 0.25)
    extras = frozenset(extra for extra in ("title", "closed", "strict") if rng.random() < 0.07)
    return Tool(name=name, about=about, task=(verb, noun), parameters=parameters, optional=optional, extras=extras)


def _parameters(rng: Random) -> tuple[Parameter, ...]:
    found: dict[str, Parameter] = {}
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 4))):
        parameter = _parameter(rng)
        found.setdefault(parameter.name, parameter)
    return tuple(found.values())


def _parameter(rng: Random) -> Parameter:
    kind = rng.choices(
        ("string", "number", "integer", "boolean", "enum", "array", "numbers", "object"), (30, 15, 15, 10, 12, 8, 4, 6)
    )[0]
    if kind == "enum":
        name = rng.choice(list(_ENUMS))
        return Parameter(name=name, kind=kind, choices=tuple(rng.sample(_ENUMS[name], rng.randint(2, len(_ENUMS[name])))))
    if kind == "object":
        name = rng.choice(list(_OBJECTS))
        return Parameter(name=name, kind=kind, fields=_OBJECTS[name])
    pool = {"string": _STRINGS, "number": _NUMBERS, "integer": _INTEGERS, "boolean": _BOOLEANS, "array": _LISTS}
    name = rng.choice(pool.get(kind, words("ids numbers pages values scores")))
    if kind in ("string", "number", "integer") and rng.random() < 0.1:
        name = nonsense_noun(rng)
    elif kind in ("string", "number", "integer") and rng.random() < 0.12:
        name = f"{rng.choice(_NOUNS)}_{name}"
    about = rng.choice(("", "", f"The {name.replace('_', ' ')}", f"The {name.replace('_', ' ')} to use"))
    return Parameter(name=name, kind=kind, about=about)


def _word(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(COMMON)
    if kind < 0.75:
        return rng.choice(NAMES)
    if kind < 0.85:
        return rng.choice(CITIES)
    return nonsense_noun(rng)


def _quoted(rng: Random, value: Any) -> str:
    text = str(value)
    return json.dumps(text) if " " in text or (isinstance(value, str) and rng.random() < 0.15) else text
