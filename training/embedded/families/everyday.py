"""Requests as people word them, to the tools of every guide: weather, sums, timers, mail, files, and calls by name.

Unlike in `tools`, the sentence need not name verb and noun of the tool.
"""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from training.embedded.conversation import Check, Example, Message
from training.embedded.families.guide_values import INTEGER, NUMBER, STATES, TEXT, Guide
from training.embedded.families.guides import GUIDES
from training.embedded.families.tool_schemas import CITIES, Tool, draw_tools
from training.embedded.families.tools import NO_TOOL
from training.embedded.families.vocabulary import COMMON, NAMES, nonsense_noun

_SYMBOLS = ("AAPL", "MSFT", "GOOG", "AMZN", "NVDA", "TSLA", "IBM", "ORCL")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A tool, a sentence that needs it, and the calls that it asks for."""

    topic: str
    """What it is about: two tools of one topic could be taken for each other."""
    name: str
    about: str
    properties: dict[str, dict[str, Any]]
    sentence: str
    arguments: dict[str, Any]
    optional: frozenset[str] = frozenset()
    again: tuple[dict[str, Any], ...] = ()
    """The arguments of further calls of the same tool."""

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [{"name": self.name, "arguments": arguments} for arguments in (self.arguments, *self.again)]

    def schema(self, rng: Random) -> dict[str, Any]:
        """Return the function object, its parameters sometimes described."""
        described = rng.random() < 0.4
        properties = {
            name: kind | ({"description": f"The {name.replace('_', ' ')}"} if described else {})
            for name, kind in self.properties.items()
        }
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        if required := [name for name in properties if name not in self.optional]:
            parameters["required"] = required
        return {"name": self.name, "description": self.about, "parameters": parameters}


def everyday(rng: Random) -> Example:
    """One everyday request, alone or among tools that do not fit: of guides, too, or made up."""
    wanted, *rivals = _requests(rng, rng.choice((1, 1, 2, 3, 4)))
    return _asked(rng, "everyday tools", [wanted], rivals, wanted.sentence)


def several(rng: Random) -> Example:
    """One everyday request for several things: values of one tool, or two tools."""
    first, second, *rivals = _requests(rng, rng.choice((2, 2, 3, 4)))
    if rng.random() < 0.4:
        joined = rng.choice(("{} {}", "{} And {}", "{} Also: {}", "{}\n{}")).format(first.sentence, second.sentence)
        return _asked(rng, _SEVERAL, [first, second], rivals, joined)
    values: list[str] = []
    while len(values) < 2:
        guide = rng.choice(_LISTABLE)
        drawn = dict.fromkeys(guide.slots[0].draw(rng) for _ in range(rng.choice((2, 2, 2, 3))))
        values = [value for value in drawn if "," not in value]
    wanted = _guided(rng, guide, values)
    return _asked(rng, _SEVERAL, [wanted], [each for each in rivals if each.topic != wanted.topic], wanted.sentence)


_ANSWERABLE = frozenset(("sum", "word", "capital"))
"""Topics of questions that the model may answer by itself."""
_SEVERAL = "everyday tools, several"
_LISTABLE = [guide for guide in GUIDES if guide.slots and guide.slots[0].schema == TEXT]


def no_everyday(rng: Random) -> Example:
    """An everyday request, and none of the tools fits it."""
    while True:
        wanted, *offered = _requests(rng, rng.choice((2, 2, 3, 4)))
        if wanted.topic not in _ANSWERABLE:
            break
    schemas = [request.schema(rng) for request in offered]
    turns = (
        Message(role="system", content=rng.choice(("", "", "You are a helpful assistant.")), tools=json.dumps(schemas)),
        Message(role="user", content=wanted.sentence),
        Message(role="assistant", content=NO_TOOL),
    )
    return Example(family="no everyday tool fits", key=wanted.sentence, messages=turns, check=Check(expected=NO_TOOL))


def _requests(rng: Random, count: int) -> list[_Request]:
    """Draw requests to tools that cannot be taken for each other."""
    found: list[_Request] = []
    while len(found) < count:
        kind = rng.choice((_place, _sum, _timer, _search, _mail, _stock, _by_name, _by_name, *(_of_guide,) * 7))
        request = kind(rng)
        if all(request.topic != each.topic for each in found):
            found.append(request)
    return found


def _asked(rng: Random, family: str, wanted: list[_Request], rivals: list[_Request], sentence: str) -> Example:
    others = [
        tool for tool in draw_tools(rng, rng.choice((0, 0, 1, 2)), held_out=False) if all(_apart(tool, each) for each in wanted)
    ]
    schemas = [*(request.schema(rng) for request in (*wanted, *rivals)), *(tool.schema() for tool in others)]
    rng.shuffle(schemas)
    calls = json.dumps([call for request in wanted for call in request.calls])
    turns = (
        Message(role="system", content=rng.choice(("", "", "You are a helpful assistant.")), tools=json.dumps(schemas)),
        Message(role="user", content=sentence),
        Message(role="assistant", content=f"<|tool_call|>{calls}<|/tool_call|>"),
    )
    return Example(family=family, key=calls, messages=turns, check=Check(kind="call", expected=calls))


def _of_guide(rng: Random) -> _Request:
    guide = rng.choice(GUIDES)
    return _guided(rng, guide, [slot.draw(rng) for slot in guide.slots[:1]])


def _guided(rng: Random, guide: Guide, values: list[Any]) -> _Request:
    """A request to a tool of a guide; the first argument has one value, or several for as many calls."""
    names = [rng.choice(slot.names.split()) for slot in guide.slots]
    rest = [slot.draw(rng) for slot in guide.slots[1:]]
    sentence = rng.choice(guide.sentences)
    shown = [str(value) for value in values]
    first = ", ".join(shown[:-1]) + rng.choice((" and ", " and ", ", ")) + shown[-1] if len(shown) > 1 else "".join(shown)
    chosen = [name for index, name in enumerate(names) if f"{{{index}}}" in sentence]
    optional = frozenset(name for index, name in enumerate(names) if any(f"{{{index}}}" not in each for each in guide.sentences))
    calls = [{name: value for name, value in zip(names, (each, *rest), strict=True) if name in chosen} for each in values] or [{}]
    return _Request(
        topic=guide.topic or guide.names,
        name=rng.choice(guide.names.split()),
        about=rng.choice(guide.abouts),
        properties={name: slot.schema for name, slot in zip(names, guide.slots, strict=True)},
        sentence=sentence.format(first, *rest),
        arguments=calls[0],
        again=tuple(calls[1:]),
        optional=optional,
    )


def _apart(tool: Tool, wanted: _Request) -> bool:
    return not set(tool.task[1].split()) & set(wanted.name.split("_"))


def _place(rng: Random) -> _Request:
    kind, asks = rng.choice(
        (
            (
                "weather",
                (
                    "What is the weather in {}?",
                    "What's the weather like in {}?",
                    "How is the weather in {} today?",
                    "Weather in {}?",
                ),
            ),
            ("temperature", ("What is the temperature in {}?", "How warm is it in {}?", "How cold is it in {} now?")),
            ("time", ("What time is it in {}?", "What is the time in {}?", "Tell me the time in {}.")),
            ("forecast", ("Will it rain in {} tomorrow?", "What is the forecast for {}?")),
            ("population", ("How many people live in {}?", "What is the population of {}?")),
        )
    )
    where = rng.choice(CITIES) if rng.random() < 0.6 else rng.choice(STATES)
    parameter = rng.choice(("location", "city", "place"))
    name = rng.choice((f"get_{kind}", f"get_{kind}", f"{kind}", f"get_current_{kind}", f"{kind}_lookup"))
    about = rng.choice((f"Get {kind} at a {parameter}.", f"Get the {kind} at a {parameter}.", f"Returns the current {kind}"))
    return _Request(
        topic="weather" if kind in ("temperature", "forecast") else kind,
        name=name,
        about=about,
        properties={parameter: TEXT},
        sentence=rng.choice(asks).format(where),
        arguments={parameter: where},
    )


def _sum(rng: Random) -> _Request:
    verb, sign = rng.choice((("add", "+"), ("multiply", "*"), ("subtract", "-")))
    left, right = rng.randint(0, 99), rng.randint(0, 99)
    first, second = rng.choice((("a", "b"), ("x", "y"), ("first", "second")))
    name = rng.choice((verb, f"{verb}_numbers", f"my_{verb}_tool"))
    sentence = rng.choice(("What is {a} {s} {b}", "What is {a} {s} {b}?", "Use the tool: {a} {s} {b}", "Calculate {a} {s} {b}."))
    return _Request(
        topic="sum",
        name=name,
        about=rng.choice((f"{verb.capitalize()} two numbers.", f"Takes two numbers, and returns the result of {verb}.")),
        properties={first: INTEGER, second: INTEGER},
        sentence=sentence.format(a=left, s=sign, b=right),
        arguments={first: left, second: right},
    )


def _timer(rng: Random) -> _Request:
    thing, unit, count = rng.choice(("timer", "alarm", "reminder")), rng.choice(("minutes", "hours")), rng.randint(1, 90)
    sentence = rng.choice(("Wake me in {c} {u}.", "Set a {t} for {c} {u}.", "I need a {t} in {c} {u}.", "{c} {u} {t}, please."))
    return _Request(
        topic="timer",
        name=f"set_{thing}",
        about=f"Set a {thing} that goes off after some {unit}",
        properties={unit: INTEGER},
        sentence=sentence.format(c=count, u=unit, t=thing),
        arguments={unit: count},
    )


def _search(rng: Random) -> _Request:
    query = " ".join(rng.choice(COMMON) for _ in range(rng.choice((1, 2, 2, 3))))
    where = rng.choice(("web", "documents", "wiki"))
    sentence = rng.choice(("Search for {q}.", "Look up {q}.", "Find something about {q}.", "What do you find about {q}?"))
    return _Request(
        topic="search",
        name=rng.choice(("search", f"search_{where}", f"{where}_search")),
        about=f"Search the {where}",
        properties={"query": TEXT},
        sentence=sentence.format(q=query),
        arguments={"query": query},
    )


def _mail(rng: Random) -> _Request:
    person, text = rng.choice(NAMES), " ".join(rng.choice(COMMON) for _ in range(rng.choice((1, 2, 3))))
    kind = rng.choice(("message", "email"))
    to, said = rng.choice((("to", "text"), ("recipient", "message"), ("to", "subject")))
    sentence = rng.choice(('Tell {p} "{t}".', 'Write {p} "{t}".', 'Send "{t}" to {p}.', 'Let {p} know: "{t}".'))
    return _Request(
        topic="mail",
        name=f"send_{kind}",
        about=f"Send {kind} to a person",
        properties={to: TEXT, said: TEXT},
        sentence=sentence.format(p=person, t=text),
        arguments={to: person, said: text},
    )


def _stock(rng: Random) -> _Request:
    symbol, parameter = rng.choice(_SYMBOLS), rng.choice(("symbol", "ticker"))
    sentence = rng.choice(("What is the price of {}?", "How is {} doing?", "What does a share of {} cost?", "Price of {}?"))
    return _Request(
        topic="stock",
        name=rng.choice(("get_stock_price", "stock_price", "get_quote")),
        about="Get the price of a stock",
        properties={parameter: TEXT},
        sentence=sentence.format(symbol),
        arguments={parameter: symbol},
    )


def _by_name(rng: Random) -> _Request:
    """A function called by its name, with a value in brackets or none."""
    first = rng.choice(("magic", "secret", "my", nonsense_noun(rng), rng.choice(COMMON)))
    name = f"{first}_{rng.choice(('function', 'tool', 'value'))}"
    spoken = name.replace("_", " ")
    use = rng.choice(("", " Use the tool.", " Use the tool."))
    about = rng.choice((f"Apply {spoken} to an input.", f"Calculate a {spoken}.", "Returns a number."))
    if rng.random() < 0.3:
        return _Request(
            topic=name,
            name=name,
            about=about,
            properties={},
            sentence=rng.choice(("What is the value of {}()?", "Call {}.", "Run {}().")).format(name) + use,
            arguments={},
        )
    parameter = rng.choice(("input", "_input", "x", "value", "n", nonsense_noun(rng)))
    value: Any = rng.randint(0, 300) if rng.random() < 0.7 else rng.choice(COMMON)
    shown = json.dumps(value)
    sentence = rng.choice(("What is the value of {f}({v})?", "What is {f}({v})?", "Call {f} with {v}.", "Run {f} on {v}."))
    return _Request(
        topic=name,
        name=name,
        about=about,
        properties={parameter: rng.choice((NUMBER, INTEGER)) if isinstance(value, int) else TEXT},
        sentence=sentence.format(f=name, v=shown) + use,
        arguments={parameter: value},
    )
