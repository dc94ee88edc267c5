"""Function calling and JSON answers.

Tools are bare function objects in the system message; calls and results have Phi-4-mini's markers. A tool is held out by
its name: what is measured are tools that training never showed.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from training.embedded.conversation import OPEN_KEY, Check, Example, Message, ask, is_held_out, turn
from training.embedded.families.texts import NAMES, PHRASES, WORDS, drawn, fill, listing, load, nonsense_noun, say
from training.embedded.families.tool_schemas import Tool, draw_tools, scalar

NO_TOOL = "I have no tool for that."

CIRCLE = Tool(**load("tutorial")["circle tool"])
"""The tutorial's own."""

Turns = tuple[Message, ...]
_OTHERS = list(load("no_tool").items())


def single_call(rng: Random) -> Example:
    """One to six tools, one of them needed."""
    if rng.random() >= 0.06:
        return _one_call(rng, "tool call", _offer(rng, (1, 1, 1, 2, 2, 3, 3, 4, 5, 6)))
    radius = drawn("radius")(rng)
    tools = [CIRCLE, *draw_tools(rng, rng.choice((0, 0, 1, 2)), held_out=False)]
    question = say(rng, "circle", radius=radius)
    rng.shuffle(tools)
    turns = (*_opening(rng, tools, shuffle=False), turn("user", question))
    return called("tool call", OPEN_KEY, turns, [{"name": CIRCLE.name, "arguments": {"radius": radius}}])


def odd_name(rng: Random) -> Example:
    """As `single_call`, but names say little or nothing: which tool is meant stands in its description."""
    side = rng.random() < 0.03
    tools = draw_tools(rng, rng.choice((1, 2, 3, 4, 5)), held_out=False)
    return _one_call(rng, "tool of an odd name", [replace(tool, name=_odd_name(rng, side)) for tool in tools])


def _one_call(rng: Random, family: str, tools: list[Tool]) -> Example:
    text, call = tools[0].request(rng)
    return called(family, tools[0].name, (*_answered(rng, tools), turn("user", _sentence(rng, text))), [call])


def parallel_calls(rng: Random) -> Example:
    """Two calls for one request: of two tools, or of one tool twice."""
    tools = _offer(rng, (1, 2, 2, 3, 4))
    pair = tools[:2] if len(tools) > 1 and rng.random() < 0.7 else [tools[0]] * 2
    (first, call), (second, other) = pair[0].request(rng), pair[1].request(rng)
    text = say(rng, "two requests", x=first, y=second)
    turns = (*_answered(rng, tools), turn("user", _sentence(rng, text)))
    return called("parallel calls", pair[0].name, turns, [call, other])


def no_call(rng: Random) -> Example:
    """Tools are offered and none fits the last request; earlier ones may fit."""
    tools, strangers = _fitting_and_not(rng)
    last = _refused(rng, strangers)
    turns = _earlier(rng, tools, strangers, rng.choice((0, 0, 0, 1, 2))) + last
    return Example(family="no tool fits", key=tools[0].name, messages=turns, check=Check(expected=last[-1].content))


def with_result(rng: Random) -> Example:
    """A conversation with some requests to the same tools; the last turn says a tool's result."""
    tools, strangers = _fitting_and_not(rng)
    turns = _earlier(rng, tools, strangers, rng.choice((0, 0, 1, 1, 2, 3))) + _exchange(rng, tools, 1)
    return Example(family="tool result", key=tools[0].name, messages=turns, check=Check(expected=turns[-1].content))


def _fitting_and_not(rng: Random) -> tuple[list[Tool], list[Tool]]:
    """Draw tools to offer, and tools that share neither verb nor noun with any of them."""
    while True:
        drawn = _offer(rng, (3, 3, 4, 4, 5, 6))
        tools, others = drawn[:-2], drawn[-2:]
        verbs, nouns = {tool.task[0] for tool in tools}, {tool.task[1].split()[-1] for tool in tools}
        strangers = [tool for tool in others if tool.task[0] not in verbs and tool.task[1].split()[-1] not in nouns]
        if strangers:
            return tools, strangers


def _earlier(rng: Random, tools: list[Tool], strangers: list[Tool], count: int) -> Turns:
    """The system message and `count` turns: requests that a tool fits, alone or two at once, and requests that none fits."""
    turns = _opening(rng, tools)
    for _ in range(count):
        turns += _refused(rng, strangers) if rng.random() < 0.45 else _exchange(rng, tools, rng.choice((1, 1, 2)))
    return turns


def _answered(rng: Random, tools: list[Tool]) -> Turns:
    """The system message and up to two requests that were answered: a long list of tools is read for more than one call."""
    turns = _opening(rng, tools)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        turns += _exchange(rng, tools, rng.choice((1, 1, 2)))
    return turns


def _refused(rng: Random, strangers: list[Tool]) -> Turns:
    """A request that no tool fits, and the answer."""
    if rng.random() < 0.2:
        question, answer = rng.choice(_OTHERS)
    else:
        question, answer = _sentence(rng, rng.choice(strangers).request(rng)[0]), NO_TOOL
    return turn("user", question), turn("assistant", answer)


def _exchange(rng: Random, tools: list[Tool], count: int) -> Turns:
    """A request, `count` calls, their results, and what they say."""
    asked = [rng.choice(tools).request(rng) for _ in range(count)]
    results, said = zip(*(_result(rng) for _ in asked), strict=True)
    return (
        turn("user", _sentence(rng, " and ".join(text for text, _ in asked))),
        turn("assistant", written(json.dumps([call for _, call in asked]))),
        *(turn("tool", result) for result in results),
        turn("assistant", " ".join(said)),
    )


def json_answer(rng: Random) -> Example:
    """A small JSON object from a sentence, or from a list of facts."""
    if rng.random() < 0.5:
        person = {"name": rng.choice(NAMES), "age": rng.randint(5, 90), "city": scalar(rng, "city", "string")}
        fact = say(rng, "person", **person)
        return ask("json", "".join(map(str, person.values())), say(rng, "person as JSON") + fact, json.dumps(person))
    tool = draw_tools(rng, 1, held_out=rng.random() < 0.03)[0]
    text, call = tool.request(rng)
    if not call["arguments"]:
        return json_answer(rng)
    question, answer = say(rng, "values as JSON", names=listing(list(call["arguments"])), x=text), json.dumps(call["arguments"])
    return ask("json", tool.name, question, answer, Check(kind="json", expected=answer))


def parse_tools(rng: Random, example: Example) -> Example:
    """Offer tools to a conversation that needs none and has no system message."""
    opening = _opening(rng, draw_tools(rng, rng.choice((1, 1, 2)), held_out=False))
    return replace(example, messages=(*opening, *example.messages))


def called(family: str, key: str, turns: Turns, calls: list[dict[str, Any]]) -> Example:
    """Build an example that ends with calls."""
    expected = json.dumps(calls)
    messages = (*turns, turn("assistant", written(expected)))
    return Example(family=family, key=key, messages=messages, check=Check(kind="call", expected=expected))


def written(calls: str) -> str:
    """Write an answer that is nothing but calls, given as JSON."""
    return f"<|tool_call|>{calls}<|/tool_call|>"


def _offer(rng: Random, counts: Sequence[int]) -> list[Tool]:
    side = rng.random() < 0.03  # drawing held-out names is slow, and training throws them away
    return draw_tools(rng, rng.choice(counts), held_out=side)


def _odd_name(rng: Random, side: bool) -> str:
    while True:
        first, second, digits = nonsense_noun(rng), nonsense_noun(rng), rng.randint(1, 99)
        name = say(rng, "odd name", first=first, second=second, Second=second.capitalize(), digits=digits)
        if is_held_out(name) == side:
            return name


def _opening(rng: Random, tools: list[Tool], *, shuffle: bool = True) -> Turns:
    schemas = [tool.schema() for tool in tools]
    if shuffle:
        rng.shuffle(schemas)
    return (Message(role="system", content=say(rng, "tool system"), tools=json.dumps(schemas)),)


def _sentence(rng: Random, text: str) -> str:
    lead = rng.choice(PHRASES["lead"])
    return fill(rng, lead, x=text[0].upper() + text[1:] if lead.startswith("{") else text)


def _result(rng: Random) -> tuple[str, str]:
    """What a tool answers, an object or a bare value, and how the answer words it."""
    if rng.random() < 0.25:
        value = drawn("result")(rng)
        return str(value), f"The result is {value}."
    result = {key: drawn("result")(rng) for key in rng.sample(WORDS["result keys"], rng.choice((1, 1, 2, 3)))}
    return json.dumps(result), "The " + " and the ".join(f"{key} is {value}" for key, value in result.items()) + "."
