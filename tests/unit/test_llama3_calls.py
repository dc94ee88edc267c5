"""Bare JSON calls, alone or after `<|python_tag|>`: every form at every cut, and what stays text."""

import pytest

from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.llama3.syntax import Llama3CallSyntax
from serve_app.chat.formats.llama3.tokens import CALLS_BEGIN, MARKERS
from tests.chat import cut_everywhere, parse_pieces, put_marks

NAMES = ("f", "get_weather")
TOOLS = parse_tools([{"name": name} for name in NAMES])
STRICT = parse_tools([{"name": name, "strict": True} for name in NAMES])
TOKENS = Llama3CallSyntax(MARKERS)
SPELLED = Llama3CallSyntax()
WEATHER = '{"city": "Paris; {", "days": [1, {"a": "}"}]}'
ONE = f'{{"name": "get_weather", "parameters": {WEATHER}}}'
TWO = '{"name": "f", "parameters": {}}'
F, G = ("f", "{}"), ("get_weather", WEATHER)
Calls = list[tuple[str, str]]
FORMS: dict[str, tuple[str, str, Calls]] = {
    "bare": (ONE, "", [G]),
    "bare with spaces": (f"\n {ONE}\n", "", [G]),
    "bare two": (f"{ONE}; {TWO}", "", [G, F]),
    "bare three": (f"{ONE}; {TWO}; {ONE}", "", [G, F, G]),
    "bare two lines": (f"{ONE}\n{TWO}\n", "", [G, F]),
    "bare list": (f"[{ONE}, {TWO}]", "", [G, F]),
    "bare before text": (f"{ONE}\n\nThat is it.", "That is it.", [G]),
    "bare before other JSON": (f'{ONE}; {{"a": 1}}', '{"a": 1}', [G]),
    "marked": (f"<|python_tag|>{ONE}", "", [G]),
    "marked two": (f"<|python_tag|>{ONE}; {TWO}", "", [G, F]),
    "marked list": (f"<|python_tag|>[{ONE}, {TWO}]", "", [G, F]),
    "marked twice": (f"<|python_tag|>{ONE}<|python_tag|>{TWO}", "", [G, F]),
    "marked after text": (f"Let me look.\n<|python_tag|>{ONE}", "Let me look.", [G]),
    "marked and fenced": (f"<|python_tag|>```json\n{ONE}\n```", "", [G]),
    "marked, another tool": ('<|python_tag|>{"name": "who", "parameters": {}}', "", [("who", "{}")]),
    "fenced": (f"```json\n{ONE}\n```", "", [G]),
    "with a type": (f'{{"type": "function", {TWO[1:]}', "", [F]),
    "openai's form": (f'{{"type": "function", "function": {TWO}}}', "", [F]),
    "arguments": ('{"name": "f", "arguments": {"a": 1}}', "", [("f", '{"a": 1}')]),
    "as a string": ('{"name": "f", "parameters": "{\\"a\\": 1}"}', "", [("f", '{"a": 1}')]),
    "parameters first": ('{"parameters": {"a": 1}, "name": "f"}', "", [("f", '{"a": 1}')]),
    "a property called type": ('{"name": "f", "parameters": {"type": "object"}}', "", [("f", '{"type": "object"}')]),
    "no parameters": ('{"name": "f"}', "", [F]),
    "cut in the parameters": ('{"name": "f", "parameters": {"a": "half', "", [("f", '{"a": "half')]),
    "the second cut": (f'{TWO}; {{"name": "get_w', '{"name": "get_w', [F]),
}
TEXTS = [
    "plain prose \n",
    '{"name": "Anna", "age": 4}',
    '{"name": "who", "parameters": {}}',
    '{"parameters": {"a": 1}, "result": 2}',
    '[{"name": "Anna"}, {"name": "Ben"}]',
    '{"name": "f", "description": "d", "parameters": {"type": "object"}}',
    f"I call {ONE}",
    f'{{"calls": [{ONE}]}}',
    "<|python_ta",
    '{"name": "f"',
    "",
    " \n",
]
PIECES = [
    *("{", "}", "[", "]", '"', "\\", ":", ",", "; ", " ", "\n", "a", "```", "json"),
    *(CALLS_BEGIN, '"name"', '"f"', '"parameters"', TWO, ONE),
]


def test_code_after_the_marker_is_text() -> None:
    for pieces in cut_everywhere("<|python_tag|>print({})"):
        assert parse_pieces(SPELLED.build_call_parser(TOOLS, begun=False), pieces) == ("print({})", [])


def test_where_the_marker_is_a_token_its_spelling_is_text() -> None:
    text = f"<|python_tag|>{ONE}"
    for pieces in cut_everywhere(text):
        assert parse_pieces(TOKENS.build_call_parser(TOOLS, begun=False), pieces) == (text, [])


def test_bare_calls_stand_at_the_answers_beginning_only() -> None:
    assert parse_pieces(TOKENS.build_call_parser(TOOLS, begun=True), [ONE]) == (ONE, [])
    assert parse_pieces(TOKENS.build_call_parser(TOOLS, begun=True), [put_marks(MARKERS, f"<|python_tag|>{ONE}")]) == ("", [G])


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (ONE, [G]),
        (f"\n{ONE}; {TWO}", [G, F]),
        (f'{{"type": "function", {TWO[1:]}', [F]),
        (f"<|python_tag|>{TWO}", [F]),
        ('{"name":"f", "parameters": {}}', []),
        ('{"parameters": {}, "name": "f"}', []),
        ('{"name": "f", "arguments": {}}', []),
        (f"[{TWO}]", []),
        (f"\u00a0{TWO}", []),
        (f"```json\n{TWO}\n```", []),
    ],
)
def test_with_a_strict_tool_only_what_the_grammar_writes_is_a_call(text: str, calls: Calls) -> None:
    for pieces in cut_everywhere(put_marks(MARKERS, text)):
        assert parse_pieces(TOKENS.build_call_parser(STRICT, begun=False), pieces) == ("" if calls else text, calls)


def test_arguments_come_as_they_are_written() -> None:
    parser = SPELLED.build_call_parser(TOOLS, begun=False)
    assert parser.push('{"name": "f", "par') == []
    pieces = [parser.push(piece) for piece in ('ameters": {"a"', ": 1", "}}", "; ")]
    assert [[getattr(part, "arguments", part) for part in parts] for parts in pieces] == [['{"a"'], [": 1"], ["}"], []]
