"""Requests as people word them, to the tools of every guide: weather, sums, timers, mail, files, and calls by name.

Unlike in `tools`, the sentence need not name verb and noun of the tool. `texts/guides.yaml` lists the tools that guides of clients
show, with requests to them; `texts/requests.yaml` some more.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from training.embedded.conversation import Check, Example, Message, turn
from training.embedded.families.texts import COMMON, PHRASES, Draw, drawn, fill, listing, load, nonsense_noun, say
from training.embedded.families.tool_schemas import Schema, Tool, draw_tools
from training.embedded.families.tools import NO_TOOL, Turns, called


@dataclass(frozen=True, slots=True)
class Slot:
    """One argument: what clients call it (separated by spaces, each as likely), the JSON schema of its value, what draws one."""

    names: str
    schema: dict[str, Any]
    draw: Draw


@dataclass(frozen=True, slots=True)
class Guide:
    """One kind of tool. `texts/guides.yaml` explains the fields; the slots are its arguments, in the order of the schema."""

    names: str
    abouts: list[str]
    slots: list[Slot]
    sentences: list[str]
    topic: str


def _slot(names: str, description: str) -> Slot:
    """Read an argument: its JSON type, or `enum`, and then how its value is drawn."""
    kind, _, value = description.partition(" ")
    if kind == "enum":
        return Slot(names, {"type": "string", "enum": value.split()}, partial(Random.choice, seq=value.split()))
    return Slot(names, {"type": kind}, drawn(value))


def _guide(*, names: str, arguments: dict[str, str], topic: str = "", **texts: list[str]) -> Guide:
    return Guide(names=names, slots=[_slot(*each) for each in arguments.items()], topic=topic or names, **texts)


GUIDES = [_guide(**entry) for entry in load("guides")]

_TYPES = {str: {"type": "string"}, int: {"type": "integer"}}
_ANSWERABLE = frozenset(("sum", "word", "capital"))
"""Topics of questions that the model may answer by itself."""
_LISTABLE = [guide for guide in GUIDES if guide.slots and guide.slots[0].schema == {"type": "string"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A tool, a sentence that needs it, and the calls that it asks for."""

    topic: str
    """What it is about: two tools of one topic could be taken for each other."""
    tool: Tool
    sentence: str
    arguments: Sequence[dict[str, Any]]
    """Of each call."""

    def schema(self, rng: Random) -> Schema:
        """Return the function object, its arguments sometimes described."""
        if rng.random() >= 0.4:
            return self.tool.schema()
        properties = {name: kind | {"description": f"The {name.replace('_', ' ')}"} for name, kind in self.tool.properties.items()}
        return replace(self.tool, properties=properties).schema()


def everyday(rng: Random) -> Example:
    """One everyday request, alone or among tools that do not fit: of guides, too, or made up."""
    wanted, *rivals = _requests(rng, rng.choice((1, 1, 2, 3, 4)))
    return _asked(rng, "everyday tools", [wanted], rivals, wanted.sentence)


def several(rng: Random) -> Example:
    """One everyday request for several things: values of one tool, or two tools."""
    family, (first, second, *rivals) = "everyday tools, several", _requests(rng, rng.choice((2, 2, 3, 4)))
    if rng.random() < 0.4:
        return _asked(rng, family, [first, second], rivals, say(rng, "two sentences", x=first.sentence, y=second.sentence))
    values: list[str] = []
    while len(values) < 2:
        guide = rng.choice(_LISTABLE)
        found = dict.fromkeys(guide.slots[0].draw(rng) for _ in range(rng.choice((2, 2, 2, 3))))
        values = [value for value in found if "," not in value]
    wanted = _of_guide(rng, guide, values)
    return _asked(rng, family, [wanted], [each for each in rivals if each.topic != wanted.topic], wanted.sentence)


def no_everyday(rng: Random) -> Example:
    """An everyday request, and none of the tools fits it."""
    while True:
        wanted, *others = _requests(rng, rng.choice((2, 2, 3, 4)))
        if wanted.topic not in _ANSWERABLE:
            break
    turns = (*_opened(rng, [request.schema(rng) for request in others], wanted.sentence), turn("assistant", NO_TOOL))
    return Example(family="no everyday tool fits", key=wanted.sentence, messages=turns, check=Check(expected=NO_TOOL))


def _requests(rng: Random, count: int) -> list[_Request]:
    """Draw requests to tools that cannot be taken for each other."""
    found: list[_Request] = []
    while len(found) < count:
        request = rng.choice(_KINDS)(rng)
        if all(request.topic != each.topic for each in found):
            found.append(request)
    return found


def _asked(rng: Random, family: str, wanted: list[_Request], rivals: list[_Request], sentence: str) -> Example:
    taken = {word for each in wanted for word in each.tool.name.split("_")}
    others = [tool for tool in draw_tools(rng, rng.choice((0, 0, 1, 2)), held_out=False) if not taken & set(tool.task[1].split())]
    schemas = [*(request.schema(rng) for request in (*wanted, *rivals)), *(tool.schema() for tool in others)]
    rng.shuffle(schemas)
    calls = [{"name": request.tool.name, "arguments": each} for request in wanted for each in request.arguments]
    return called(family, json.dumps(calls), _opened(rng, schemas, sentence), calls)


def _opened(rng: Random, schemas: list[dict[str, Any]], sentence: str) -> Turns:
    system = Message(role="system", content=say(rng, "everyday system"), tools=json.dumps(schemas))
    return system, turn("user", sentence)


def _of_guide(rng: Random, guide: Guide | None = None, values: Sequence[Any] = ()) -> _Request:
    """A request to a tool of a guide; the first argument has one value, or several for as many calls."""
    guide = guide or rng.choice(GUIDES)
    values = values or [slot.draw(rng) for slot in guide.slots[:1]]
    names = [rng.choice(slot.names.split()) for slot in guide.slots]
    rest = [slot.draw(rng) for slot in guide.slots[1:]]
    sentence = rng.choice(guide.sentences)
    first = listing([str(value) for value in values], lambda: rng.choice((" and ", " and ", ", ")))
    chosen = [name for at, name in enumerate(names) if f"{{{at}}}" in sentence]
    optional = frozenset(name for at, name in enumerate(names) if any(f"{{{at}}}" not in each for each in guide.sentences))
    calls = [{name: value for name, value in zip(names, (each, *rest), strict=True) if name in chosen} for each in values]
    properties = {name: slot.schema for name, slot in zip(names, guide.slots, strict=True)}
    tool = Tool(name=rng.choice(guide.names.split()), about=rng.choice(guide.abouts), properties=properties, optional=optional)
    return _Request(topic=guide.topic, tool=tool, sentence=sentence.format(first, *rest), arguments=calls or [{}])


def _of_kind(rng: Random, kind: dict[str, Any]) -> _Request:
    """A request of an entry of `texts/requests.yaml`."""
    values: dict[str, Any] = {}
    for names, pool in kind["draw"].items():
        source = values.get(pool, pool) if isinstance(pool, str) else pool
        value = rng.choice(source) if isinstance(source, list) else drawn(source)(rng)
        values |= zip(names.split(", "), value, strict=True) if ", " in names else {names: value}
    name, about, ask, topic = (fill(rng, (kind | values)[part], **values) for part in ("name", "about", "ask", "topic"))
    arguments = {fill(rng, each, **values): values[value] for each, value in kind["arguments"].items()}
    properties = {each: _TYPES[type(value)] for each, value in arguments.items()}
    return _Request(topic=topic, tool=Tool(name=name, about=about, properties=properties), sentence=ask, arguments=[arguments])


def _by_name(rng: Random) -> _Request:
    """A function called by its name, with a value in brackets or none."""
    first = rng.choice(("magic", "secret", "my", nonsense_noun(rng), rng.choice(COMMON)))
    name = f"{first}_{rng.choice(('function', 'tool', 'value'))}"
    use = rng.choice(PHRASES["use tool"])
    about = say(rng, "about function", spoken=name.replace("_", " "))
    if rng.random() < 0.3:
        sentence, properties, arguments = say(rng, "call without value", f=name), {}, {}
    else:
        parameter = rng.choice(("input", "_input", "x", "value", "n", nonsense_noun(rng)))
        value: Any = rng.randint(0, 300) if rng.random() < 0.7 else rng.choice(COMMON)
        sentence = say(rng, "call with value", f=name, v=json.dumps(value))
        kind = rng.choice(("number", "integer")) if isinstance(value, int) else "string"
        properties, arguments = {parameter: {"type": kind}}, {parameter: value}
    tool = Tool(name=name, about=about, properties=properties)
    return _Request(topic=name, tool=tool, sentence=sentence + use, arguments=[arguments])


_KINDS = (*(partial(_of_kind, kind=kind) for kind in load("requests").values()), *(_by_name,) * 2, *(_of_guide,) * 7)
"""What draws a request, each as likely."""
