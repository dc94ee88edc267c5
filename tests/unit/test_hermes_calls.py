"""Calls between `<tool_call>` and `</tool_call>`, as tokens and as text: every form at every cut, and what stays text."""

import pytest

from serve_app.chat.answer_parser import AnswerParser, Part, Thought
from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.hermes.syntax import HermesCallSyntax
from serve_app.chat.formats.hermes.tokens import CALL_BEGIN, CALL_END, MARKERS
from tests.chat import cut_everywhere, parse_pieces, put_marks

NAMES = ("f", "get_weather")
TOOLS = parse_tools([{"name": name} for name in NAMES])
STRICT = parse_tools([{"name": name, "strict": True} for name in NAMES])
TOKENS = HermesCallSyntax(MARKERS)
SPELLED = HermesCallSyntax()
WEATHER = '{"city": "Paris", "days": [1, {"a": "}</x>"}]}'
ONE = f'{{"name": "get_weather", "arguments": {WEATHER}}}'
TWO = '{"name": "f", "arguments": {}}'
F, G = ("f", "{}"), ("get_weather", WEATHER)
Calls = list[tuple[str, str]]
FORMS: dict[str, tuple[str, str, Calls]] = {
    "one": (f"<tool_call>\n{ONE}\n</tool_call>", "", [G]),
    "on one line": (f"<tool_call>{ONE}</tool_call>", "", [G]),
    "spaces": (f"\n\n<tool_call> \n\t{ONE}\n\n </tool_call>\n", "", [G]),
    "two": (f"<tool_call>\n{ONE}\n</tool_call>\n<tool_call>\n{TWO}\n</tool_call>", "", [G, F]),
    "after text": (f"Let me look.\n\n<tool_call>\n{ONE}\n</tool_call>", "Let me look.", [G]),
    "before text": (f"<tool_call>\n{ONE}\n</tool_call>\n\nDone.", "Done.", [G]),
    "between texts": (f"One:\n<tool_call>\n{TWO}\n</tool_call>\nDone. \n", "One:\n\nDone. \n", [F]),
    "no end": (f"<tool_call>\n{ONE}", "", [G]),
    "no end, new line": (f"<tool_call>\n{ONE}\n", "", [G]),
    "two without ends": (f"<tool_call>\n{ONE}\n<tool_call>\n{TWO}", "", [G, F]),
    "list in a block": (f"<tool_call>[\n{ONE},\n{TWO}\n]</tool_call>", "", [G, F]),
    "two in a block": (f"<tool_call>\n{ONE}\n{TWO}\n</tool_call>", "", [G, F]),
    "fenced in a block": (f"<tool_call>\n```json\n{ONE}\n```\n</tool_call>", "", [G]),
    "fenced list in a block": (f"<tool_call>\n```\n[{ONE}, {TWO}]\n```\n</tool_call>", "", [G, F]),
    "fenced": (f"```json\n{ONE}\n```", "", [G]),
    "bare": (ONE, "", [G]),
    "bare list": (f"[{ONE}, {TWO}]", "", [G, F]),
    "arguments as a string": ('<tool_call>\n{"name": "f", "arguments": "{\\"a\\": 1}"}\n</tool_call>', "", [("f", '{"a": 1}')]),
    "arguments first": ('<tool_call>\n{"arguments": {"a": 1}, "name": "f"}\n</tool_call>', "", [("f", '{"a": 1}')]),
    "parameters": ('<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n</tool_call>', "", [("f", '{"a": 1}')]),
    "no arguments": ('<tool_call>\n{"name": "f"}\n</tool_call>', "", [F]),
    "another tool": ('<tool_call>\n{"name": "who", "arguments": {}}\n</tool_call>', "", [("who", "{}")]),
    "openai's form": (f'<tool_call>{{"type": "function", "function": {TWO}}}</tool_call>', "", [F]),
    "a lost brace": (f"<tool_call>\n{ONE[:-1]}\n</tool_call>\n<tool_call>\n{TWO}\n</tool_call>", "", [G, F]),
    "cut in the arguments": ('<tool_call>\n{"name": "f", "arguments": {"a": "half', "", [("f", '{"a": "half')]),
    "cut before the name": ('Look.\n<tool_call>\n{"na', "Look.\n", []),
    "the second cut": (f'<tool_call>\n{TWO}\n</tool_call>\n<tool_call>\n{{"name": "get_w', "", [F]),
}
TEXTS = [
    "plain prose \n",
    "\n\n  Hello",
    "a < b, <tool, </tool> and <tool_calls>",
    '{"name": "Anna", "age": 4}',
    '{"name": "who", "arguments": {}}',
    "```python\nprint()\n```",
    "<tool_cal",
    "",
    "  \n",
]
PIECES = [
    *("{", "}", "[", "]", '"', "\\", ":", ",", "; ", " ", "\n", "a", "```", "json"),
    *(CALL_BEGIN, CALL_END, '"name"', '"f"', '"arguments"', TWO, ONE),
]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<tool_call>garbage</tool_call>", "garbage"),
        ("<tool_call>[1, 2]</tool_call>", "[1, 2]"),
        ('<tool_call>{"a": 1}</tool_call> so', '{"a": 1} so'),
        ("a </tool_call>b", "a b"),
        ("<tool_call>", ""),
    ],
)
def test_markers_without_a_call_are_left_out(text: str, said: str) -> None:
    for pieces in cut_everywhere(text):
        assert parse_pieces(SPELLED.build_call_parser(TOOLS, begun=False), pieces) == (said, [])
    for pieces in cut_everywhere(put_marks(MARKERS, text)):
        assert parse_pieces(TOKENS.build_call_parser(TOOLS, begun=False), pieces) == (said, [])


def test_where_the_marker_is_a_token_its_spelling_is_text() -> None:
    text = f"See <tool_call>\n{ONE}\n</tool_call>"
    for pieces in cut_everywhere(text):
        assert parse_pieces(TOKENS.build_call_parser(TOOLS, begun=False), pieces) == (text, [])


def test_a_marker_in_a_string_is_its_spelling() -> None:
    arguments = '{"text": "<tool_call>{}</tool_call>"}'
    text = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
    for pieces in cut_everywhere(text):
        assert parse_pieces(SPELLED.build_call_parser(TOOLS, begun=False), pieces) == ("", [("f", arguments)])
    for pieces in cut_everywhere(put_marks(MARKERS, text)):
        assert parse_pieces(TOKENS.build_call_parser(TOOLS, begun=False), pieces) == ("", [("f", arguments)])


def test_code_points_in_text_are_no_markers() -> None:
    assert parse_pieces(SPELLED.build_call_parser(TOOLS, begun=False), [f"\ufdd0{TWO}\ufdd1"]) == (f"\ufffd{TWO}\ufffd", [])


def test_a_marker_in_a_thought_is_its_spelling() -> None:
    text = put_marks(MARKERS, f"<think>Use <tool_call>{TWO}</tool_call>?</think>\n<tool_call>{TWO}</tool_call>")
    for pieces in cut_everywhere(text):
        parser = AnswerParser(
            lambda begun: TOKENS.build_call_parser(TOOLS, begun=begun), TOKENS.markers, think_tags=("<think>", "</think>")
        )
        parts: list[Part] = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
        thoughts = "".join(part.text for part in parts if isinstance(part, Thought))
        assert thoughts == f"Use <tool_call>{TWO}</tool_call>?"
        assert [part for part in parts if not isinstance(part, Thought)]


@pytest.mark.parametrize("text", [ONE, f"```json\n{ONE}\n```"])
def test_only_marked_calls_count_where_a_tool_is_strict_or_the_text_has_begun(text: str) -> None:
    assert parse_pieces(TOKENS.build_call_parser(STRICT, begun=False), [text]) == (text, [])
    assert parse_pieces(TOKENS.build_call_parser(STRICT, begun=False), [put_marks(MARKERS, f"<tool_call>{TWO}")]) == ("", [F])
    assert parse_pieces(TOKENS.build_call_parser(TOOLS, begun=True), [ONE]) == (ONE, [])
