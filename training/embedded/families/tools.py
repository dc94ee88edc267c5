"""Function calling and JSON answers.

Tools are bare function objects in the system message; calls and results have Phi-4-mini's markers. A tool is held out by
its name: what is measured are tools that training never showed.
"""

import json
from dataclasses import replace
from random import Random
from typing import Any

from training.embedded.conversation import OPEN_KEY, Check, Example, Message, ask, is_held_out
from training.embedded.families.tool_schemas import Parameter, Tool, draw_tools, scalar
from training.embedded.families.vocabulary import NAMES, nonsense_noun, words

NO_TOOL = "I have no tool for that."

CIRCLE = Tool(
    name="calculate_circle_area",
    about="Calculate the area of a circle given its radius",
    task=("calculate", "area of a circle"),
    parameters=(Parameter(name="radius", kind="number", about="The radius of the circle"),),
)
"""The tutorial's own."""

_LEADS = ("{}.", "{}.", "Please {}.", "Can you {}?", "I want to {}.", "I need to {}.", "Could you {}?", "{}", "Now {}, please.")
_KEYS = words(
    "status result total area price temperature sky count id title time owner weight message size condition humidity rate "
    "distance duration date answer city name value balance"
)
_OTHERS = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Thanks", "You are welcome!"),
    ("How are you?", "I am fine, thank you. How can I help you?"),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Sing a song.", NO_TOOL),
    ("What is love?", NO_TOOL),
    ("Who wrote this book?", NO_TOOL),
)


def single_call(rng: Random) -> Example:
    """One to six tools, one of them needed."""
    if rng.random() < 0.06:
        return _circle(rng)
    side, offered = _offer(rng, (1, 1, 1, 2, 2, 3, 3, 4, 5, 6))
    tool = offered[0]
    text, call = tool.request(rng)
    turns = (*_answered(rng, offered), _user(_sentence(rng, text)), _calls([call]))
    return _example("tool call", tool, side, turns, [call])


def odd_name(rng: Random) -> Example:
    """As `single_call`, but names say little or nothing: which tool is meant stands in its description."""
    side = rng.random() < 0.03
    offered = [replace(tool, name=_odd_name(rng, side)) for tool in draw_tools(rng, rng.choice((1, 2, 3, 4, 5)), held_out=False)]
    text, call = offered[0].request(rng)
    turns = (*_answered(rng, offered), _user(_sentence(rng, text)), _calls([call]))
    return _example("tool of an odd name", offered[0], side, turns, [call])


def parallel_calls(rng: Random) -> Example:
    """Two calls for one request: of two tools, or of one tool twice."""
    side, offered = _offer(rng, (1, 2, 2, 3, 4))
    tools = offered[:2] if len(offered) > 1 and rng.random() < 0.7 else [offered[0]] * 2
    (first, call), (second, other) = tools[0].request(rng), tools[1].request(rng)
    text = rng.choice((f"{first}, and {second}", f"{first} and then {second}", f"{first}. Also {second}"))
    turns = (*_answered(rng, offered), _user(_sentence(rng, text)), _calls([call, other]))
    return _example("parallel calls", tools[0], side, turns, [call, other])


def no_call(rng: Random) -> Example:
    """Tools are offered and none fits the last request; earlier ones may fit."""
    side, offered, strangers = _fitting_and_not(rng)
    question, answer = _stranger(rng, strangers)
    turns = _earlier(rng, offered, strangers, rng.choice((0, 0, 0, 1, 2)))
    turns += (_user(question), Message(role="assistant", content=answer))
    return Example(family="no tool fits", key=_key(offered[0], side), messages=turns, check=Check(expected=answer))


def with_result(rng: Random) -> Example:
    """A conversation with some requests to the same tools; the last turn tells a tool's result."""
    side, offered, strangers = _fitting_and_not(rng)
    turns = (*_earlier(rng, offered, strangers, rng.choice((0, 0, 1, 1, 2, 3))), *_exchange(rng, offered, 1))
    check = Check(expected=turns[-1].content)
    return Example(family="tool result", key=_key(offered[0], side), messages=turns, check=check)


def _fitting_and_not(rng: Random) -> tuple[bool, list[Tool], list[Tool]]:
    """Draw tools to offer, and tools that share neither verb nor noun with any of them."""
    while True:
        side, drawn = _offer(rng, (3, 3, 4, 4, 5, 6))
        offered, others = drawn[:-2], drawn[-2:]
        verbs, nouns = {tool.task[0] for tool in offered}, {tool.task[1].split()[-1] for tool in offered}
        strangers = [tool for tool in others if tool.task[0] not in verbs and tool.task[1].split()[-1] not in nouns]
        if strangers:
            return side, offered, strangers


def _earlier(rng: Random, offered: list[Tool], strangers: list[Tool], count: int) -> tuple[Message, ...]:
    """The system message and `count` turns: requests that a tool fits, alone or two at once, and requests that none fits."""
    turns = _opening(rng, offered)
    for _ in range(count):
        if rng.random() < 0.45:
            question, answer = _stranger(rng, strangers)
            turns += (_user(question), Message(role="assistant", content=answer))
        else:
            turns += _exchange(rng, offered, rng.choice((1, 1, 2)))
    return turns


def _answered(rng: Random, offered: list[Tool]) -> tuple[Message, ...]:
    """The system message and up to two requests that were answered: a long list of tools is read for more than one call."""
    turns = _opening(rng, offered)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        turns += _exchange(rng, offered, rng.choice((1, 1, 2)))
    return turns


def _stranger(rng: Random, strangers: list[Tool]) -> tuple[str, str]:
    if rng.random() < 0.2:
        return rng.choice(_OTHERS)
    return _sentence(rng, rng.choice(strangers).request(rng)[0]), NO_TOOL


def _exchange(rng: Random, offered: list[Tool], count: int) -> tuple[Message, ...]:
    """A request, `count` calls, their results, and what they say."""
    asked = [rng.choice(offered).request(rng) for _ in range(count)]
    results, said = zip(*(_result(rng) for _ in asked), strict=True)
    return (
        _user(_sentence(rng, " and ".join(text for text, _ in asked))),
        _calls([call for _, call in asked]),
        *(Message(role="tool", content=result) for result in results),
        Message(role="assistant", content=" ".join(said)),
    )


def json_answer(rng: Random) -> Example:
    """A small JSON object from a sentence, or from a list of facts."""
    if rng.random() < 0.5:
        name, age, city = rng.choice(NAMES), rng.randint(5, 90), scalar(rng, "city", "string")
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
    tool = draw_tools(rng, 1, held_out=rng.random() < 0.03)[0]
    text, call = tool.request(rng)
    values = call["arguments"]
    if not values:
        return json_answer(rng)
    names = list(values)
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    question = rng.choice(
        (f"Give {listed} as JSON: {text}.", f"Extract {listed} as JSON. {text}", f"Answer in JSON with {listed}: {text}.")
    )
    answer = json.dumps(values)
    return ask("json", tool.name, question, answer, Check(kind="json", expected=answer))


def offered(rng: Random, example: Example) -> Example:
    """Offer tools to a conversation that needs none and has no system message."""
    opening = _opening(rng, draw_tools(rng, rng.choice((1, 1, 2)), held_out=False))
    return replace(example, messages=(*opening, *example.messages))


def _circle(rng: Random) -> Example:
    radius = rng.randint(1, 60) if rng.random() < 0.8 else round(rng.uniform(1, 30), 1)
    others = draw_tools(rng, rng.choice((0, 0, 1, 2)), held_out=False)
    question = rng.choice(
        (
            "Calculate the area of a circle with radius {} units",
            "Calculate the area of a circle with radius {}.",
            "What is the area of a circle with radius {}?",
            "What area has a circle with a radius of {} cm?",
        )
    ).format(radius)
    offered = [CIRCLE, *others]
    rng.shuffle(offered)
    call = {"name": CIRCLE.name, "arguments": {"radius": radius}}
    turns = (*_opening(rng, offered, shuffle=False), _user(question), _calls([call]))
    return Example(family="tool call", key=OPEN_KEY, messages=turns, check=_check([call]))


def _offer(rng: Random, counts: tuple[int, ...]) -> tuple[bool, list[Tool]]:
    side = rng.random() < 0.03  # drawing held-out names is slow, and training throws them away
    return side, draw_tools(rng, rng.choice(counts), held_out=side)


def _odd_name(rng: Random, side: bool) -> str:
    while True:
        first, second, digits = nonsense_noun(rng), nonsense_noun(rng), rng.randint(1, 99)
        name = rng.choice((f"{first}_{second}", f"{first}{second.capitalize()}", f"{first}_{digits}", f"fn_{digits}{first}", first))
        if is_held_out(name) == side:
            return name


def _opening(rng: Random, offered: list[Tool], *, shuffle: bool = True) -> tuple[Message, ...]:
    schemas = [tool.schema() for tool in offered]
    if shuffle:
        rng.shuffle(schemas)
    system = rng.choice(("", "", "You are a helpful assistant with some tools.", "You are a helpful assistant."))
    return (Message(role="system", content=system, tools=json.dumps(schemas)),)


def _sentence(rng: Random, text: str) -> str:
    lead = rng.choice(_LEADS)
    return lead.format(text[0].upper() + text[1:] if lead.startswith("{") else text)


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _calls(calls: list[dict[str, Any]]) -> Message:
    return Message(role="assistant", content=f"<|tool_call|>{json.dumps(calls)}<|/tool_call|>")


def _check(calls: list[dict[str, Any]]) -> Check:
    return Check(kind="call", expected=json.dumps(calls))


def _key(tool: Tool, side: bool) -> str:
    assert is_held_out(tool.name) == side
    return tool.name


def _example(family: str, tool: Tool, side: bool, turns: tuple[Message, ...], calls: list[dict[str, Any]]) -> Example:
    return Example(family=family, key=_key(tool, side), messages=turns, check=_check(calls))


def _result(rng: Random) -> tuple[str, str]:
    """What a tool answers, an object or a bare value, and how it is told."""
    if rng.random() < 0.25:
        value = _result_value(rng)
        return str(value), f"The result is {value}."
    result = {key: _result_value(rng) for key in rng.sample(_KEYS, rng.choice((1, 1, 2, 3)))}
    return json.dumps(result), "The " + " and the ".join(f"{key} is {value}" for key, value in result.items()) + "."


def _result_value(rng: Random) -> Any:
    kind = rng.random()
    if kind < 0.3:
        return rng.randint(1, 999)
    if kind < 0.6:
        return round(rng.uniform(1, 999), 2)
    return scalar(rng, "title", "string")
