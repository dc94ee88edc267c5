"""Constraints of the kinds that people report against other servers, on every engine that runs the model.

They are written once for all engines (`serve_app.chat.lark`), so what one does with them the others do too.
"""

import asyncio
import json
import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from serve_app.chat.answer_parser import CallPart
from serve_app.chat.formats.phi4.call_grammar import build_calls_or_answer, build_forced_calls, build_guided_calls
from serve_app.chat.formats.phi4.calls import Phi4CallParser
from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN, CALLS_BEGIN_MARK
from serve_app.conversation import Tool
from serve_app.engines.base import Engine
from serve_app.errors import InvalidRequest
from serve_app.types import Constraint, FinishReason, Grammar, JsonSchema, OneOf, Regex
from tests.chat import marked
from tests.contract.play import ask, play, prompt
from tests.contract.test_guidance import chat, constrained, text


def schema(value: Any, **more: Any) -> JsonSchema:
    return JsonSchema(json.dumps(value), **more)


def one(name: str, value: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}


CONTROL = ["<|end|>", "x<|end|>y", "<|endoftext|>", "<|tool_call|>", "<|user|><|end|>", "<|/tool|>"]


@pytest.mark.parametrize("spelled", CONTROL)
async def test_the_spelling_of_a_control_token_is_text(model_engine: Engine, spelled: str) -> None:
    """In a value, a key, a pattern, a choice: forced, it comes in ordinary tokens, and ends nothing."""
    wanted: dict[str, Constraint] = {
        json.dumps({"a": spelled}): schema(one("a", {"const": spelled})),
        json.dumps({spelled: 1}): schema(one(spelled, {"const": 1})),
        spelled: Regex(re.escape(spelled)),
        f"a{spelled}": OneOf((f"a{spelled}",)),
        spelled + "!": Grammar(f"start: {json.dumps(spelled)} /!/"),
    }
    for expected, constraint in wanted.items():
        ids, end, _ = await play(model_engine, constrained(constraint))
        assert (text(ids), end.reason) == (expected, FinishReason.STOP)
        assert all(token > 9 for token in ids)  # the embedded model's control tokens are those up to 9


def weather(city: Any, *, strict: bool = False) -> Tool:
    parameters = json.dumps({"type": "object", "properties": {"city": city}, "required": ["city"], "additionalProperties": False})
    return Tool(name="get_weather", function="{}", parameters=parameters, strict=strict)


def calls_in(said: str) -> list[CallPart]:
    parser = Phi4CallParser(("get_weather", "f"))
    parts = parser.push(marked(said)) + parser.finish()
    calls = [part for part in parts if isinstance(part, CallPart)]
    assert calls, said
    return [
        replace(call, arguments=call.arguments.replace(CALLS_BEGIN_MARK, CALLS_BEGIN)) for call in calls
    ]  # in texts it was spelled


@pytest.mark.parametrize("spelled", CONTROL)
async def test_tools_whose_schemas_spell_control_tokens_are_called(model_engine: Engine, spelled: str) -> None:
    tool = weather({"enum": [spelled]})
    for grammar in (build_forced_calls([tool], parallel=False), build_calls_or_answer(Regex("-"), [tool], parallel=True)):
        said = text((await play(model_engine, constrained(grammar, seed=3)))[0])
        assert said == "-" or next(json.loads(call.arguments) for call in calls_in(said)) == {"city": spelled}
    guided = f"<|tool_call|>{json.dumps([{'name': 'get_weather', 'arguments': {'city': spelled}}])[:-1]}"
    for strict in (False, True):  # the model would not call by itself: only what a guide lets through is asked
        guide = build_guided_calls((weather({"enum": [spelled]}, strict=strict),))
        begun = Grammar(guide.lark.replace("start: text? (", "start: (", 1).replace("text?)*", "text?)", 1))
        said = text((await play(model_engine, constrained(begun, seed=5, max_tokens=200)))[0])
        assert said.startswith(guided)


OPEN: list[Constraint] = [Regex(".*"), Regex("[^\\n]*"), Regex("(.|\\n)*"), Grammar("start: /(.|\\n)*/")]
"""What may end and need not."""


@pytest.mark.parametrize("constraint", OPEN, ids=str)
@pytest.mark.parametrize("question", ["What is the capital of France?", "Hello"])
async def test_what_may_end_ends_where_the_model_ends(model_engine: Engine, constraint: Constraint, question: str) -> None:
    free, (held, end, _) = await play(model_engine, chat(question, None)), await play(model_engine, chat(question, constraint))
    assert "\n" not in text(free[0])
    assert (held, end.reason) == (free[0], FinishReason.STOP)
    assert end.usage.completion_tokens == free[1].usage.completion_tokens


@pytest.mark.parametrize("constraint", [Regex("[0-9]+"), schema({"type": "integer"}), Regex("[0-9]+(\\.[0-9]+)?")], ids=str)
async def test_a_number_ends_where_the_model_ends(model_engine: Engine, constraint: Constraint) -> None:
    ids, end, _ = await play(model_engine, chat("What is 2 + 2?", constraint))
    assert re.fullmatch("[0-9]{1,2}", text(ids))
    assert (end.reason, end.usage.completion_tokens) == (FinishReason.STOP, len(ids) + 1)


@pytest.mark.parametrize(
    ("constraint", "answers"),
    [
        (schema({"enum": ["é", "ü"]}), {'"é"', '"ü"'}),
        (OneOf(("é", "ü")), {"é", "ü"}),
        (OneOf(("日本", "中国")), {"日本", "中国"}),
        (OneOf(("🐱", "🐶", "🙂")), {"🐱", "🐶", "🙂"}),
        (OneOf(("\u0430", "\u0431\u0430")), {"\u0430", "\u0431\u0430"}),
        (schema(one("é", {"const": 1}) | {"properties": {"é": {"const": 1}, "ü": {"const": 2}}}), {'{"é": 1}', '{"é": 1, "ü": 2}'}),
        (
            schema({"type": "object", "properties": {"é": {"const": 1}, "ü": {"const": 2}}}),
            {"{}", '{"é": 1}', '{"ü": 2}', '{"é": 1, "ü": 2}'},
        ),
        (Grammar('start: ("é" | "è") ("ü" | "ö")?'), {"é", "è", "éü", "éö", "èü", "èö"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),  # every process must find the same names
)
async def test_alternatives_that_part_within_a_character(model_engine: Engine, constraint: Constraint, answers: set[str]) -> None:
    for seed in range(4):
        ids, end, _ = await play(model_engine, constrained(constraint, seed=seed))
        assert end.reason is FinishReason.STOP
        assert text(ids) in answers


ODD_CHARACTERS = [*map(chr, range(32)), *"\x7f\x80\x85\x9f\xa0\xad\u2028\u2029\ufeff\ufffd\U0010ffff"]


async def test_any_character_may_be_chosen(model_engine: Engine) -> None:
    """Control characters, separators of lines, the last one there is: each in a choice, a key and a constant."""

    async def fault(char: str) -> str:
        chosen = text((await play(model_engine, constrained(OneOf((f"{char}", f"b{char}c")))))[0])
        constant = text((await play(model_engine, constrained(schema(one(char, {"const": char})))))[0])
        fine = chosen in (char, f"b{char}c") and json.loads(constant) == {char: char}
        return "" if fine else f"{char!r}: {chosen!r}, {constant!r}"

    found = await asyncio.gather(*map(fault, ODD_CHARACTERS))
    assert [each for each in found if each] == []


FORMATS = ["uri", "date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "unknown"]


@pytest.mark.parametrize("name", FORMATS)
async def test_formats(model_engine: Engine, name: str) -> None:
    for constraint in (
        schema({"type": "string", "format": name}, lenient=True),
        schema({"anyOf": [{"type": "null"}, {"type": "string", "format": name}]}, lenient=True),
    ):
        ids, end, _ = await play(model_engine, constrained(constraint, max_tokens=60))
        assert end.reason is FinishReason.LENGTH or isinstance(json.loads(text(ids)), str | None)


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a", "b"]}, r'\{"a": 1, "b": .*'),
        ({"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2, "uniqueItems": True}, r"\[[12], [12]\]"),
        ({"type": "array", "items": {"enum": [1]}, "minItems": 1.0, "maxItems": 2.0}, r"\[1(, 1)?\]"),
        ({"type": "string", "pattern": "^(?=a)[ab]$"}, r'".*'),
        ({"enum": ["a", "b"], "not": {"const": "a"}}, '"a"|"b"'),
        ({"enum": ["a"], "$schema": "mine"}, '"a"'),
        ({"oneOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, "[123]"),
        ({"enum": [1], "if": {"const": 1}, "then": {"const": 1}}, "1"),
        ({"type": "object", "additionalProperties": {"const": 1}, "propertyNames": {"enum": ["a"]}, "maxProperties": 1}, r"\{.*"),
        ({"type": "string", "format": "path", "maxLength": 3}, r'".*'),
    ],
    ids=str,
)
async def test_of_a_lenient_schema_all_is_kept_that_can_be(model_engine: Engine, value: dict[str, Any], answers: str) -> None:
    ids, end, _ = await play(model_engine, constrained(schema(value, lenient=True), max_tokens=60))
    assert re.fullmatch(answers, text(ids), re.DOTALL)
    if end.reason is not FinishReason.LENGTH:
        json.loads(text(ids))
    grammar = build_forced_calls([Tool(name="f", function="{}", parameters=json.dumps(one("x", value)))], parallel=False)
    ids, end, _ = await play(model_engine, constrained(grammar, max_tokens=120))
    (call,) = calls_in(text(ids))
    if end.reason is not FinishReason.LENGTH:
        assert re.fullmatch(answers, json.dumps(json.loads(call.arguments)["x"], ensure_ascii=False))


PATTERNS = [r"a\/b", "a/b", "//", r"\/", r"[/]{1,2}x", '"', r"\\", "a\nb", r"\n", r"a|b", "#", r"(a\|b)\\"]
PATTERNS += [r"\{", "}", r"\x41", "", "(?i)ok"]


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_pattern_means_the_same_alone_and_beside_tools(model_engine: Engine, pattern: str) -> None:
    tool = Tool(name="f", function="{}", parameters='{"type": "object", "properties": {}}')
    for grammar in (Regex(pattern), build_calls_or_answer(Regex(pattern), [tool], parallel=False)):
        for seed in range(2):
            ids, end, _ = await play(model_engine, constrained(grammar, seed=seed))
            assert end.reason is FinishReason.STOP
            assert text(ids).startswith("<|tool_call|>") or re.fullmatch(pattern, text(ids))


async def test_a_grammar_of_the_clients_own_beside_tools(model_engine: Engine) -> None:
    tool = Tool(name="f", function="{}", parameters='{"type": "object", "properties": {}}')
    for lark, expected in (('start: "x" text\ntext: /[}{]/', "x[}{]"), ("start: calls\ncalls: /ab?/\nanswer: calls", "ab?")):
        said = text((await play(model_engine, constrained(build_calls_or_answer(Grammar(lark), [tool], parallel=True), seed=2)))[0])
        assert said.startswith("<|tool_call|>") or re.fullmatch(expected, said)


MORE_COSTLY = ["x+y{20000}", "(a|aa|aaa){900,5000}b", "(ab){20000}c", "((a{100}){100}){100}"]


@pytest.mark.parametrize(
    "pattern", ["(x+x+)+y{30000}", "y{30000}", *(pytest.param(pattern, marks=pytest.mark.slow) for pattern in MORE_COSTLY)]
)
async def test_a_costly_pattern_stops_nobody_else(model_engine: Engine, pattern: str) -> None:
    """A free stream comes about as fast beside it as beside a harmless one; with logprobs, so that nothing is taken unasked."""
    harmless, costly = [await _rate_beside(model_engine, each) for each in ("[xyab]{3000}", pattern)]
    assert costly > harmless / 6


async def _rate_beside(engine: Engine, pattern: str) -> float:
    """Return the tokens per second of a free stream while others are held to a pattern."""

    async def held(seed: int) -> None:
        with suppress(InvalidRequest):
            await play(engine, constrained(Regex(pattern), max_tokens=150, seed=seed, logprobs=0))

    loop = asyncio.get_running_loop()
    others = [asyncio.create_task(held(seed)) for seed in range(2)]
    await asyncio.sleep(0.1)  # compiled, which other threads do
    began = loop.time()
    _, end, _ = await play(engine, ask(prompt(9, seed=2), max_tokens=150, ignore_eos=True))
    rate = end.usage.completion_tokens / (loop.time() - began)
    await asyncio.gather(*others)
    return rate
