"""Function calling and JSON answers.

Tools are bare function objects in the system message; calls and results have Phi-4-mini's markers.
"""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from training.conversation import Check, Example, Message, ask
from training.families.vocabulary import COMMON, NAMES, words

_CITIES = words("Paris Berlin London Sofia Beijing Tokyo Madrid Rome Oslo Vienna Cairo Lima Delhi Toronto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function and the requests that need it."""

    name: str
    """Its name."""
    about: str
    """Its description."""
    parameters: dict[str, str]
    """Parameter name to kind: number, integer, city, name, word."""
    asks: tuple[str, ...]
    """Requests, with the parameters in braces."""


TOOLS = (
    Tool(
        name="calculate_circle_area",
        about="Calculate the area of a circle given its radius",
        parameters={"radius": "number"},
        asks=(
            "Calculate the area of a circle with radius {radius} units",
            "What is the area of a circle with radius {radius}?",
        ),
    ),
    Tool(
        name="calculate_rectangle_area",
        about="Calculate the area of a rectangle",
        parameters={"length": "number", "width": "number"},
        asks=(
            "Calculate the area of a rectangle with length {length} and width {width}",
            "Area of a rectangle {length} by {width}?",
        ),
    ),
    Tool(
        name="get_weather",
        about="Get the weather in a city",
        parameters={"city": "city"},
        asks=("What is the weather in {city}?", "How is the weather in {city} today?", "Weather in {city}?"),
    ),
    Tool(
        name="get_time",
        about="Get the local time of a city",
        parameters={"city": "city"},
        asks=("What time is it in {city}?", "Tell me the time in {city}."),
    ),
    Tool(
        name="send_message",
        about="Send a message to a person",
        parameters={"to": "name", "text": "word"},
        asks=('Send the message "{text}" to {to}.', "Send {text} to {to}."),
    ),
    Tool(
        name="add_numbers",
        about="Add two numbers",
        parameters={"a": "number", "b": "number"},
        asks=("Add {a} and {b}.", "Please add {a} and {b}."),
    ),
    Tool(
        name="set_timer",
        about="Start a timer",
        parameters={"minutes": "integer"},
        asks=("Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes."),
    ),
    Tool(
        name="search_books",
        about="Search for books",
        parameters={"topic": "word", "count": "integer"},
        asks=("Find {count} books about {topic}.", "Search for {count} books on {topic}."),
    ),
    Tool(
        name="translate_text",
        about="Translate a text",
        parameters={"text": "word"},
        asks=("Translate {text}.", 'Translate "{text}".'),
    ),
)
_OTHERS = ("Hello!", "Tell me a joke.", "Who wrote this book?", "Sing a song.", "What is love?", "How are you?")
NO_TOOL = "I have no tool for that."


def _value(rng: Random, kind: str) -> object:
    if kind in ("number", "integer"):
        return rng.randint(1, 99)
    return rng.choice({"city": _CITIES, "name": list(NAMES), "word": COMMON}[kind])


def _schema(tool: Tool) -> dict[str, Any]:
    kinds = {name: _parameter(name, kind) for name, kind in tool.parameters.items()}
    parameters = {"type": "object", "properties": kinds, "required": list(kinds)}
    return {"name": tool.name, "description": tool.about, "parameters": parameters}


def _parameter(name: str, kind: str) -> dict[str, str]:
    described = {"type": kind if kind in ("number", "integer") else "string"}
    return described | {"description": "The radius of the circle"} if name == "radius" else described


def _offer(rng: Random, wanted: list[Tool]) -> str:
    others = [tool for tool in TOOLS if tool not in wanted]
    offered = wanted + rng.sample(others, rng.choice((0, 0, 1, 2)) if wanted else rng.choice((1, 2)))
    rng.shuffle(offered)
    return json.dumps([_schema(tool) for tool in offered])


def _request(rng: Random, tool: Tool) -> tuple[str, str]:
    values = {name: _value(rng, kind) for name, kind in tool.parameters.items()}
    call = json.dumps([{"name": tool.name, "arguments": values}])
    return rng.choice(tool.asks).format(**values), call


def _system(rng: Random) -> str:
    return rng.choice(("", "You are a helpful assistant with some tools.", "You are a helpful assistant."))


def single_call(rng: Random) -> Example:
    """One to three tools, one of them needed."""
    tool = TOOLS[0] if rng.random() < 0.2 else rng.choice(TOOLS)
    question, call = _request(rng, tool)
    answer = f"<|tool_call|>{call}<|/tool_call|>"
    check = Check(kind="call", expected=call)
    return ask("tool call", call, question, answer, check, system=_system(rng), tools=_offer(rng, [tool]))


def no_call(rng: Random) -> Example:
    """Tools are offered and none fits."""
    wanted = rng.choice(TOOLS)
    question, _ = _request(rng, wanted)
    if rng.random() < 0.4:
        question = rng.choice(_OTHERS)
    offered = json.dumps([_schema(tool) for tool in rng.sample([t for t in TOOLS if t is not wanted], rng.choice((1, 1, 2)))])
    return ask("no tool fits", question + offered, question, NO_TOOL, system=_system(rng), tools=offered)


def with_result(rng: Random) -> Example:
    """The turn after a tool's result."""
    tool = rng.choice(TOOLS[:4])
    question, call = _request(rng, tool)
    values = json.loads(call)[0]["arguments"]
    if tool.name == "get_weather":
        degrees, sky = rng.randint(2, 35), rng.choice(("sunny", "rainy", "cloudy"))
        result, answer = {"temperature": degrees, "sky": sky}, f"It is {sky} and {degrees} degrees in {values['city']}."
    elif tool.name == "get_time":
        clock = f"{rng.randint(10, 23)}:{rng.randint(10, 59)}"
        result, answer = {"time": clock}, f"It is {clock} in {values['city']}."
    else:
        area = round(rng.uniform(3, 900), 2)
        result, answer = {"area": area}, f"The area is {area}."
    turns = (
        Message(role="system", content=_system(rng), tools=_offer(rng, [tool])),
        Message(role="user", content=question),
        Message(role="assistant", content=f"<|tool_call|>{call}<|/tool_call|>"),
        Message(role="tool", content=json.dumps(result)),
        Message(role="assistant", content=answer),
    )
    return Example(family="tool result", key=call, messages=turns, check=Check(expected=answer))


def json_answer(rng: Random) -> Example:
    """A small JSON object from a sentence."""
    name, age, city = rng.choice(NAMES), rng.randint(5, 90), rng.choice(_CITIES)
    fact = rng.choice(("{n} is {a} years old and lives in {c}.", "{n}, {a}, from {c}.", "{n} lives in {c} and is {a}."))
    task = rng.choice(
        (
            "Give name, age and city as JSON: ",
            "Extract name, age and city as JSON. ",
            "Answer in JSON with name, age and city: ",
        )
    )
    answer = json.dumps({"name": name, "age": age, "city": city})
    return ask("json", f"{name}{age}{city}", task + fact.format(n=name, a=age, c=city), answer)
