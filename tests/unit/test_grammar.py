"""Constraints are checked before any group is asked, so that all of them refuse the same."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer as Words

from serve_app.chat import grammar
from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.phi4.call_grammar import build_calls_or_answer, build_forced_calls, build_guided_calls
from serve_app.chat.grammar import GrammarCheck, wrap_tokenizer
from serve_app.chat.lark import style_schema, to_lark
from serve_app.chat.lark_text import may_force_tokens
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import Tool
from serve_app.errors import InvalidRequest
from serve_app.models.locate import EMBEDDED
from serve_app.types import Constraint, Grammar, JsonSchema, OneOf, Regex
from tests.contract.test_guidance import HOSTILE
from tests.unit.app import running

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
OPEN = "([a-z]{1,9}"
"""A group that is never closed."""
REFERRING = {
    "properties": {'größe "q"': {"$ref": "#/$defs/s"}, "b/~": {"items": {"$ref": "#/$defs/s"}}},
    "$defs": {"s": {"enum": [1]}},
}
TOOL = Tool(name="f", function="{}", parameters='{"type": "object", "properties": {"x": {"type": "string", "pattern": "^a+$"}}}')


@pytest.mark.parametrize("constraint", [*HOSTILE, JsonSchema(json.dumps({"type": "string", "pattern": OPEN}))], ids=str)
async def test_what_cannot_be_compiled_is_refused(tokenizer: Tokenizer, constraint: Constraint) -> None:
    check = GrammarCheck(tokenizer)
    for _ in range(2):  # a refusal is not remembered as a pass
        with pytest.raises(InvalidRequest, match="the constraint cannot be used") as refused:
            await check.require(constraint)
        assert refused.value.param == "constraint"


@pytest.mark.parametrize(
    "constraint",
    [
        Regex("[a-zäöü]{1,500}"),
        OneOf(("größer", "kleiner")),
        JsonSchema('{"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"enum": ["x", 1]}}}'),
        Grammar('start: <|tool_call|> "[]" <|/tool_call|> <[300-310]>'),
        build_calls_or_answer(Regex("[0-9]+"), [TOOL], parallel=True),
        build_calls_or_answer(None, [TOOL], parallel=False),
        build_guided_calls((TOOL,)),
        build_guided_calls((TOOL, replace(TOOL, name="g", strict=True), Tool(name="h", function="{}"))),
        build_guided_calls((Tool(name="f", function="{}", parameters=json.dumps(REFERRING)),)),
    ],
    ids=str,
)
async def test_what_engines_can_follow_passes(tokenizer: Tokenizer, constraint: Constraint) -> None:
    await GrammarCheck(tokenizer).require(constraint)


ODD: list[Any] = [
    {"type": "object", "properties": ["a"], "additionalProperties": False},
    {"properties": "x"},
    {"properties": {"a": [{"$ref": "#"}], "b": False, "c": True, "d": {"type": "any"}, "e": {"type": ["string", "null"]}}},
    {"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#/properties/a"}}},
    {"properties": {"p": {"format": "path", "type": "string"}, "u": {"type": "array", "uniqueItems": True, "items": None}}},
    {
        "properties": {"a": {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/k"}]}, "k": {"enum": None}},
        "$defs": {"k": {"const": 1}},
    },
    {"properties": {"x": {"type": "integer", "minimum": 9, "maximum": 2}}, "additionalProperties": {"type": "string"}},
    {"allOf": [{"properties": {"x": {"type": "string"}}}], "properties": {"\x7f": {"pattern": "("}}},
    {"$ref": "#/$defs/all", "$defs": {"all": {"properties": {"x": {}}}}},
    {"type": "object"},
]
"""Schemas that clients send, and some that none should."""


@pytest.mark.parametrize("parameters", ODD, ids=json.dumps)
async def test_loose_tools_guide_whatever_their_schemas_say(tokenizer: Tokenizer, parameters: dict[str, Any]) -> None:
    tools = parse_tools([{"name": "f", "parameters": parameters}, {"name": "g"}])
    assert await GrammarCheck(tokenizer).passes(build_guided_calls(tools))


ITSELF = {"anyOf": [{"$ref": "#/$defs/s"}, *({"$ref": "#/$defs/s", "minLength": at} for at in range(99))]}


@pytest.mark.parametrize(
    "shared", [{"type": "string", "enum": ["x" * 20] * 90}, {"enum": ["x" * 20_000]}, ITSELF], ids=["many", "long", "itself"]
)
def test_a_guide_is_small_and_soon_made(shared: dict[str, Any]) -> None:
    """A schema may refer to one of its parts over and over, and that to itself."""
    properties = {f"p{at}": {"$ref": "#/$defs/s", "minLength": at} for at in range(700)}
    schema = {"type": "object", "properties": properties, "$defs": {"s": shared}}
    tools = parse_tools([{"name": f"f{at}", "parameters": schema} for at in range(20)])
    began = time.thread_time()
    guide = build_guided_calls(tools)
    took = time.thread_time() - began
    began = time.thread_time()
    for tool in tools:
        json.loads(tool.parameters)
        json.dumps(json.loads(tool.parameters))
    assert took < 100 * (time.thread_time() - began)
    assert len(guide.lark) < sum(len(tool.parameters) for tool in tools)


@pytest.mark.parametrize("count", [4, 40])
async def test_many_tools_are_guided_too(tokenizer: Tokenizer, count: int) -> None:
    parameters = {"properties": {f"p{at}": {"type": "string"} for at in range(count)}}
    tools = parse_tools([{"name": f"f{at}", "parameters": parameters} for at in range(128)])
    assert await GrammarCheck(tokenizer).passes(build_guided_calls(tools))


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ('<|tool_call|>[{"name": "f", "arguments": {"b": [1], "a": "x"}}]<|/tool_call|>', True),
        ('<|tool_call|>[{"name": "f", "arguments": {"b": [1]}}, {"name": "g", "arguments": {}}]<|/tool_call|><|end|>', True),
        ('Well.<|tool_call|>[{"name": "g", "arguments": {}}]<|/tool_call|>\nDone.<|tool_call|>[{"name": "g"', True),
        ('<|tool_call|>[{"name": "f", "arguments": {"a": 1', False),
        ('<|tool_call|>[{"name": "f", "arguments": {"c"', False),
        ('<|tool_call|>[{"name": "f", "arguments": {"a": "x", "b": [1], "', False),
        ('<|tool_call|>[{"name": "f", "arguments": {"b": [1], "b"', False),
        ('<|tool_call|>[{"name": "h"', False),
        ('[{"name": "h", "arguments": {}}] < | <| {', True),
    ],
)
def test_what_a_guide_lets_through(said: str, fits: bool) -> None:
    parameters = {"properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]}
    guide = build_guided_calls(parse_tools([{"name": "f", "parameters": parameters}, {"name": "g"}]))
    words = Words.from_file(str(EMBEDDED / "tokenizer.json"))
    whole = wrap_tokenizer(Tokenizer.load(EMBEDDED))
    matcher = LLMatcher(whole, to_lark(guide))
    ids = words.encode(said).ids
    assert (matcher.validate_tokens(ids) == len(ids)) == fits


def test_text_that_spells_the_marker_is_text_to_a_guide() -> None:
    words = Words.from_file(str(EMBEDDED / "tokenizer.json"))
    whole = wrap_tokenizer(Tokenizer.load(EMBEDDED))
    matcher = LLMatcher(whole, to_lark(build_guided_calls((TOOL,))))
    ids = [token for part in ("<", "|tool", "_call", "|", ">") for token in words.encode(part).ids]
    assert matcher.validate_tokens(ids) == len(ids)


def test_objects_have_the_listed_properties_only_unless_the_schema_says_more() -> None:
    inner = {"type": "object", "properties": {"properties": {"type": "object", "properties": {"x": {}}}}}
    schema = {
        "type": "array",
        "items": inner,
        "$defs": {"open": {"properties": {"a": {}}, "additionalProperties": True}, "any": {"type": "object"}},
    }
    closed = json.loads(style_schema(schema))
    assert closed["items"]["additionalProperties"] is False
    assert closed["items"]["properties"] == {
        "properties": {"type": "object", "properties": {"x": {}}, "additionalProperties": False}
    }
    assert closed["$defs"] == schema["$defs"]


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"properties": {"a": {}}}]},
        {"properties": {"a": {}}, "patternProperties": {"^b": {}}},
        {"properties": {"a": {}}, "required": ["a"], "anyOf": [{"properties": {"b": {}}, "required": ["b"]}]},
        {"properties": {"a": {}}, "if": {"required": ["a"]}, "then": {"properties": {"b": {}}}},
        {"$ref": "#/$defs/base", "properties": {"a": {}}, "$defs": {"base": {"properties": {"b": {}}}}},
        {"not": {"properties": {"a": {"const": 1}}}},
    ],
    ids=str,
)
def test_schemas_that_list_a_part_of_the_properties_stay_open(schema: dict[str, Any]) -> None:
    assert "additionalProperties" not in style_schema(schema)


def test_a_property_may_be_called_like_a_keyword() -> None:
    parameters = {"properties": {"default": {"$ref": "#/$defs/x"}, "$ref": {"type": "string"}}, "$defs": {"x": {"enum": ["a"]}}}
    tool = Tool(name="f", function="{}", parameters=json.dumps(parameters))
    assert '"default": {"$ref": "#/$defs/x"}, "$ref": {"type": "string"}' in build_forced_calls([tool], parallel=False).lark


async def test_a_regex_that_takes_too_long_is_refused(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        grammar, "REGEX_LIMIT_S", 0.02
    )  # machines differ: this one takes a tenth of a second, harmless ones nothing
    slow = Regex("(abc|def|ghi|[0-9a-f]{8})" * 5_000)
    check = GrammarCheck(tokenizer)
    await check.require(Regex("[a-z]+"))
    with pytest.raises(InvalidRequest, match=r"more than .* s to compile"):
        await check.require(slow)


async def test_no_group_is_asked_what_cannot_be_compiled() -> None:
    wanted: list[tuple[str, dict[str, object]]] = [
        (CHAT, {"messages": MESSAGES, "structured_outputs": {"regex": OPEN}}),
        ("/v1/completions", {"prompt": "hi", "structured_outputs": {"regex": "("}}),
        ("/api/chat", {"model": "phi4-mini", "messages": MESSAGES, "format": {"type": "foo"}, "stream": False}),
        ("/api/generate", {"model": "phi4-mini", "prompt": "hi", "format": {"type": "string", "minLength": 3, "maxLength": 2}}),
    ]
    async with running(a={}) as app:
        for path, body in wanted:
            response = await app.client.post(path, json=body)
            assert response.status_code == 400, path
            assert "the constraint cannot be used" in response.text
        assert not app.engines["a"].requests


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (
            JsonSchema('{"type": "array", "uniqueItems": true}'),
            'Unimplemented keys: ["uniqueItems"]',
        ),
        (
            JsonSchema('{"const": "a\u2028b", "uniqueItems": true}'),
            'Unimplemented keys: ["uniqueItems"]',
        ),
        (Regex("a\\"), "the pattern ends within an escape"),
        (Regex("y{30000}"), r"it repeats something 30000 times, and no answer here has more than 4096 tokens; ask for less"),
        (Grammar('start: "y"{20000}'), r"it repeats something 20000 times"),
        (Grammar('start: "y"~20000'), r"it repeats something 20000 times"),
        (JsonSchema('{"type": "string", "minLength": 20000}'), r"it repeats something 20000 times"),
        (
            JsonSchema('{"type": "array", "items": {"type": "integer"}, "maxItems": 100000}'),
            "it is too large; ask for fewer repetitions",
        ),
    ],
    ids=str,
)
async def test_a_refusal_says_why_in_a_sentence(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, constraint: Constraint, reason: str
) -> None:
    monkeypatch.setattr(grammar, "COMPILE_TIMEOUT_S", 60)  # on a busy machine that would be the reason
    with pytest.raises(InvalidRequest) as refused:
        await GrammarCheck(tokenizer).require(constraint, 4096)
    assert refused.value.message.startswith(f"the constraint cannot be used: {reason}")
    assert "\n" not in refused.value.message
    assert "| start" not in refused.value.message


AMBIGUOUS = ['start: s\ns: s s | "x"', 'start: ((("x"*)*)*)*', 'start: a\na: a "x" a | "x"?']


@pytest.mark.parametrize("lark", AMBIGUOUS)
async def test_a_grammar_that_takes_ever_longer_to_follow_is_refused(tokenizer: Tokenizer, lark: str) -> None:
    with pytest.raises(InvalidRequest, match="takes ever longer to follow"):
        await GrammarCheck(tokenizer).require(Grammar(lark))


@pytest.mark.parametrize(
    "constraint", [OneOf(("y{30000}",)), JsonSchema('{"const": "{30000} \\"minLength\\": 30000"}'), Regex("a{9000}")], ids=str
)
async def test_texts_that_look_like_repetitions_are_none(tokenizer: Tokenizer, constraint: Constraint) -> None:
    await GrammarCheck(tokenizer).require(constraint, 4096)


async def test_only_computing_time_counts_against_a_constraint(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a harmless one waits; one that computes for too long is refused all the same."""
    monkeypatch.setattr(grammar, "COMPILE_TIMEOUT_S", 0.1)

    def busy(_: Constraint) -> str:
        began = time.thread_time()
        while time.thread_time() - began < 1:
            pass
        return "late"

    def starved(_: Constraint) -> str:
        time.sleep(0.15)
        return "done"

    with ThreadPoolExecutor(1) as pool:
        assert await grammar.compile_in_time(OneOf(("a",)), pool, starved) == "done"
        with pytest.raises(InvalidRequest, match="make it simpler"):
            await grammar.compile_in_time(OneOf(("a",)), pool, busy)


async def test_what_is_too_large_to_build_is_refused_without_the_librarys_own_words(tokenizer: Tokenizer) -> None:
    many = JsonSchema('{"type": "array", "items": {"type": "integer"}, "maxItems": 100000}')
    with pytest.raises(InvalidRequest, match=r"it is too large|to compile") as refused:
        await GrammarCheck(tokenizer).require(many)
    assert "panic" not in refused.value.message


@pytest.mark.parametrize(
    ("constraint", "may"),
    [
        (JsonSchema('{"properties": {"name": {"enum": ["a", "b"]}}, "required": ["name"]}'), True),
        (build_forced_calls([TOOL], parallel=True), True),
        (build_guided_calls((TOOL,)), True),
        (Grammar('start: <|tool_call|> "x" <[3]>'), True),
        (JsonSchema('{"const": "<|end|>"}'), False),
        (JsonSchema('{"const": "\\u003c|end|>"}'), False),
        (Regex(r"\x3c\|end\|>"), False),
        (Regex(r"\u{3C}\|end\|>"), False),
        (Grammar('start: "<" "|end|>"'), False),
        (Regex("(ab){20}"), True),
        (Regex("((ab){50}){50}"), False),
        (JsonSchema('{"type": "array", "items": {"const": 1}, "minItems": 5000}'), False),
        (OneOf(("x" * 5000,)), False),
    ],
    ids=lambda each: str(each)[:60],
)
def test_text_is_forced_where_it_spells_no_control_token_and_is_short(constraint: Constraint, *, may: bool) -> None:
    assert may_force_tokens(to_lark(constraint), {"<|end|>", "<|tool_call|>"}) is may
