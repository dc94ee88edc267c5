"""Requests as people word them, to the tools of every guide: weather, time, sums, timers, search, mail, and calls by name.

Unlike in `tools`, the sentence names neither verb nor noun of the tool. Knows no other family.
"""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from training.conversation import Check, Example, Message
from training.families.tool_schemas import CITIES, Tool, draw_tools
from training.families.vocabulary import COMMON, NAMES, nonsense_noun

_STATES = ("San Francisco, CA", "New York, NY", "Boston, MA", "Austin, TX", "Paris, France", "Tokyo, Japan", "Sofia, Bulgaria")
_SYMBOLS = ("AAPL", "MSFT", "GOOG", "AMZN", "NVDA", "TSLA", "IBM", "ORCL")
_TEXT, _NUMBER, _INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A tool, a sentence that needs it, and the arguments."""

    name: str
    about: str
    properties: dict[str, dict[str, str]]
    sentence: str
    arguments: dict[str, Any]

    def schema(self, rng: Random) -> dict[str, Any]:
        """Return the function object, its parameters sometimes described."""
        described = rng.random() < 0.4
        properties = {
            name: kind | ({"description": f"The {name.replace('_', ' ')}"} if described else {})
            for name, kind in self.properties.items()
        }
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        if properties:
            parameters["required"] = list(properties)
        return {"name": self.name, "description": self.about, "parameters": parameters}


def everyday(rng: Random) -> Example:
    """One everyday request, alone or among tools that do not fit: of guides, too, or made up."""
    kind = rng.choice((_place, _place, _sum, _timer, _search, _mail, _stock, _by_name, _by_name, _by_name))
    wanted = kind(rng)
    kinds = [other for other in (_place, _sum, _timer, _search, _mail, _stock, _by_name) if other is not kind]
    rivals = [other(rng) for other in rng.sample(kinds, rng.choice((0, 0, 1, 2, 3)))]
    others = [tool for tool in draw_tools(rng, rng.choice((0, 0, 1, 2)), held_out=False) if _apart(tool, wanted)]
    schemas = [*(request.schema(rng) for request in (wanted, *rivals)), *(tool.schema() for tool in others)]
    rng.shuffle(schemas)
    call = json.dumps([{"name": wanted.name, "arguments": wanted.arguments}])
    turns = (
        Message(role="system", content=rng.choice(("", "", "You are a helpful assistant.")), tools=json.dumps(schemas)),
        Message(role="user", content=wanted.sentence),
        Message(role="assistant", content=f"<|tool_call|>{call}<|/tool_call|>"),
    )
    key = f"{wanted.name}{json.dumps(wanted.arguments)}"
    return Example(family="everyday tools", key=key, messages=turns, check=Check(kind="call", expected=call))


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
    where = rng.choice(CITIES) if rng.random() < 0.6 else rng.choice(_STATES)
    parameter = rng.choice(("location", "city", "place"))
    name = rng.choice((f"get_{kind}", f"get_{kind}", f"{kind}", f"get_current_{kind}", f"{kind}_lookup"))
    about = rng.choice((f"Get {kind} at a {parameter}.", f"Get the {kind} at a {parameter}.", f"Returns the current {kind}"))
    return _Request(
        name=name,
        about=about,
        properties={parameter: _TEXT},
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
        name=name,
        about=rng.choice((f"{verb.capitalize()} two numbers.", f"Takes two numbers, and returns the result of {verb}.")),
        properties={first: _INTEGER, second: _INTEGER},
        sentence=sentence.format(a=left, s=sign, b=right),
        arguments={first: left, second: right},
    )


def _timer(rng: Random) -> _Request:
    thing, unit, count = rng.choice(("timer", "alarm", "reminder")), rng.choice(("minutes", "hours")), rng.randint(1, 90)
    sentence = rng.choice(("Wake me in {c} {u}.", "Set a {t} for {c} {u}.", "I need a {t} in {c} {u}.", "{c} {u} {t}, please."))
    return _Request(
        name=f"set_{thing}",
        about=f"Set a {thing} that goes off after some {unit}",
        properties={unit: _INTEGER},
        sentence=sentence.format(c=count, u=unit, t=thing),
        arguments={unit: count},
    )


def _search(rng: Random) -> _Request:
    query = " ".join(rng.choice(COMMON) for _ in range(rng.choice((1, 2, 2, 3))))
    where = rng.choice(("web", "documents", "wiki"))
    sentence = rng.choice(("Search for {q}.", "Look up {q}.", "Find something about {q}.", "What do you find about {q}?"))
    return _Request(
        name=rng.choice(("search", f"search_{where}", f"{where}_search")),
        about=f"Search the {where}",
        properties={"query": _TEXT},
        sentence=sentence.format(q=query),
        arguments={"query": query},
    )


def _mail(rng: Random) -> _Request:
    person, text = rng.choice(NAMES), " ".join(rng.choice(COMMON) for _ in range(rng.choice((1, 2, 3))))
    kind = rng.choice(("message", "email"))
    to, said = rng.choice((("to", "text"), ("recipient", "message"), ("to", "subject")))
    sentence = rng.choice(('Tell {p} "{t}".', 'Write {p} "{t}".', 'Send "{t}" to {p}.', 'Let {p} know: "{t}".'))
    return _Request(
        name=f"send_{kind}",
        about=f"Send {kind} to a person",
        properties={to: _TEXT, said: _TEXT},
        sentence=sentence.format(p=person, t=text),
        arguments={to: person, said: text},
    )


def _stock(rng: Random) -> _Request:
    symbol, parameter = rng.choice(_SYMBOLS), rng.choice(("symbol", "ticker"))
    sentence = rng.choice(("What is the price of {}?", "How is {} doing?", "What does a share of {} cost?", "Price of {}?"))
    return _Request(
        name=rng.choice(("get_stock_price", "stock_price", "get_quote")),
        about="Get the price of a stock",
        properties={parameter: _TEXT},
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
        name=name,
        about=about,
        properties={parameter: rng.choice((_NUMBER, _INTEGER)) if isinstance(value, int) else _TEXT},
        sentence=sentence.format(f=name, v=shown) + use,
        arguments={parameter: value},
    )
