"""Tool calls in generated text: a corpus of forms, each cut at every byte, and what must stay text."""

import json
import random

import pytest

from serve_app.chat.answer_parser import CallPart
from serve_app.chat.formats.call_parser import join_parts
from serve_app.chat.formats.phi4.calls import Phi4CallParser
from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN, CALLS_END, MARKERS
from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN_MARK as BEGIN
from serve_app.chat.formats.phi4.tokens import CALLS_END_MARK as END
from serve_app.chat.tokenizer import Tokenizer
from serve_app.types import TokenDelta
from tests.chat import call_stream, cut_everywhere, marked, parse_pieces

NAMES = ("f", "get_weather", "send")
ARGUMENTS = (
    "{}",
    '{"radius": 5}',
    '{"text": "a } b ] c { d ["}',
    '{"text": "say \\"hi\\", ok"}',
    '{"text": "\\u00e9\\ud83d\\ude00"}',
    '{"text": "Ünïcode 北京 😀"}',
    '{"list": [1, [2, [3, {"x": []}]], "]"]}',
    '{"deep": {"a": {"b": {"c": {"d": null}}}}}',
    '{"flag": true, "n": -1.5e-3}',
    '{ "spaced" :  [ 1 , 2 ] }',
    '{"path": "C:\\\\dir\\\\"}',
    '{"code": "```python\\nprint()\\n```", "tag": "<|tool_call|>"}',
)


def _object(name: str, arguments: str, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


WRAPPERS = {
    "native": "<|tool_call|>[{one}]<|/tool_call|>",
    "no end tag": "<|tool_call|>[{one}]",
    "no bracket, no tag": "<|tool_call|>[{one}",
    "no brackets": "<|tool_call|>{one}<|/tool_call|>",
    "after prose": "Let me look. <|tool_call|>[{one}]<|/tool_call|>",
    "spaces": "<|tool_call|> [ {one} ] <|/tool_call|>",
    "functools": "functools[{one}]",
    "fenced": "```json\n[{one}]\n```",
    "fenced, no language": "```\n{one}\n```",
    "bare list": "[{one}]",
    "bare object": "\n{one}",
    "two in a list": "<|tool_call|>[{one}, {two}]<|/tool_call|>",
    "two without brackets": "<|tool_call|>{one}, {two}<|/tool_call|>",
    "two lines": "<|tool_call|>{one}\n{two}<|/tool_call|>",
    "two blocks": "<|tool_call|>[{one}]<|/tool_call|><|tool_call|>[{two}]<|/tool_call|>",
    "two blocks, no end tags": "<|tool_call|>[{one}]<|tool_call|>[{two}]",
    "functools of two": "functools[{one}, {two}]",
    "fenced of two": "```json\n[\n{one},\n{two}\n]\n```",
}


def _filled(wrapper: str, number: int) -> tuple[str, list[tuple[str, str]]]:
    """The wrapper around the numbered arguments, and the calls that are in it."""
    arguments, others = ARGUMENTS[number], ARGUMENTS[(number + 5) % len(ARGUMENTS)]
    key = "parameters" if number % 3 == 2 else "arguments"
    text = marked(wrapper).replace("{one}", _object("get_weather", arguments, key)).replace("{two}", _object("send", others))
    return text, [("get_weather", arguments), ("send", others)][: 2 if "{two}" in wrapper else 1]


CORPUS = {f"{form} / {number}": _filled(wrapper, number) for form, wrapper in WRAPPERS.items() for number in range(len(ARGUMENTS))}
CORPUS |= {
    form: (marked(text), calls)
    for form, (text, calls) in {
        "arguments before the name": ('<|tool_call|>[{"arguments": {"a": 1}, "name": "f"}]', [("f", '{"a": 1}')]),
        "arguments as a string": ('<|tool_call|>[{"name": "f", "arguments": "{\\"a\\": 1}"}]<|/tool_call|>', [("f", '{"a": 1}')]),
        "openai's own form": ('[{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]', [("f", '{"a": 1}')]),
        "no arguments": ('<|tool_call|>[{"name": "f"}]<|/tool_call|>', [("f", "{}")]),
        "null arguments": ('<|tool_call|>[{"name": "f", "arguments": null}]', [("f", "{}")]),
        "an unknown tool behind the marker": ('<|tool_call|>[{"name": "who", "arguments": {}}]', [("who", "{}")]),
        "an escaped name": ('<|tool_call|>[{"name": "na\\u00efve\\n", "arguments": {"a": 1}}]', [("naïve\n", '{"a": 1}')]),
        "an id": ('<|tool_call|>[{"id": 7, "name": "f", "arguments": {"a": 1}}]', [("f", '{"a": 1}')]),
        "cut in the arguments": ('<|tool_call|>[{"name": "f", "arguments": {"text": "half', [("f", '{"text": "half')]),
        "the second cut before its name": ('<|tool_call|>[{"name": "f", "arguments": {}}, {"na', [("f", "{}")]),
        "the second cut within its name": ('<|tool_call|>[{"name": "f", "arguments": {}}, {"name": "get_w', [("f", "{}")]),
        "cut at once": ("<|tool_call|>", []),
        "cut before the name": ('Let me look.<|tool_call|>[{"na', []),
        "cut behind the name": ('<|tool_call|>[{"name": "f", "argum', []),
    }.items()
}
TEXTS = [
    "plain prose",
    "a list [1, 2] and {braces} in prose",
    "[1] is a footnote, [2] another",
    "[link](http://x) and more",
    "{name} is a placeholder",
    '{"name": "Anna", "age": 4}',
    '[{"name": "Anna"}, {"name": "Ben"}]',
    '{"city": "Paris", "days": [1, 2]}',
    '{"name": "unknown", "arguments": {}}',
    "```python\nprint({'name': 'f'})\n```",
    '```json\n{"a": 1}\n```',
    "```\nno json\n```",
    "functools is a module: functools.partial",
    "functools[0] of it",
    "<|tool_call|>garbage<|/tool_call|>",
    "<|tool_call|>[]<|/tool_call|>",
    "<|tool_call|>[1, 2]<|/tool_call|>",
    '<|tool_call|>[{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}]<|/tool_call|>',
    '[{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}]',
    '<|tool_call|>[{"title": "no name", "arguments": {}}]<|/tool_call|>',
    "<|tool_ca",
    "a < b and `c` and ``d``",
    "",
    "   ",
    "[",
    "```",
    '{"name": "f"',
]
SPELLED = ['<|tool_call|>[{"name": "f", "arguments": {}}]<|/tool_call|>', 'See: <|tool_call|>[{"name": "f", "arguments": {}}]']
"""Calls whose markers are letters and not tokens."""
TEXTS += SPELLED


def parse(pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """Return the text and the calls that the pieces add up to."""
    return parse_pieces(Phi4CallParser(NAMES), pieces)


@pytest.mark.parametrize("case", CORPUS)
def test_every_form_gives_its_calls_however_it_is_cut(case: str) -> None:
    text, calls = CORPUS[case]
    for pieces in cut_everywhere(text):
        said, found = parse(pieces)
        assert found == calls
        assert said.strip() in ("", "Let me look.")


def test_every_form_gives_its_calls_byte_by_byte(tokenizer: Tokenizer) -> None:
    """As tokens of one byte each, the finest cut there is: within characters too. Markers are tokens."""
    tokens = {tokenizer.raw(at): at for at in range(tokenizer.vocabulary.size) if len(tokenizer.raw(at)) == 1}
    markers = {mark: tokenizer.token_id(name) for name, mark in MARKERS.items()}
    for text, calls in CORPUS.values():
        stream = call_stream(tokenizer, *NAMES)
        for char in text:
            for token in [markers[char]] if char in markers else [tokens[bytes([byte])] for byte in char.encode()]:
                stream.push(TokenDelta((token,)))
        stream.flush()
        assert [(call.name, call.arguments) for call in stream.calls] == calls


@pytest.mark.parametrize("text", TEXTS)
def test_what_only_looks_like_a_call_stays_text(text: str) -> None:
    for pieces in cut_everywhere(text):
        assert parse(pieces) == (text, [])


@pytest.mark.parametrize("text", [text for text in TEXTS if CALLS_BEGIN in text and text not in SPELLED])
def test_behind_the_marker_too_but_the_marker_is_never_told(text: str) -> None:
    for pieces in cut_everywhere(marked(text)):
        said, calls = parse(pieces)
        assert (said, calls) == (text.replace(CALLS_BEGIN, "").replace(CALLS_END, ""), [])


def test_the_corpus_is_large_and_its_arguments_are_json() -> None:
    assert len(CORPUS) + len(TEXTS) >= 120
    for arguments in ARGUMENTS:
        json.loads(arguments)


def test_arguments_come_as_they_are_written() -> None:
    parser = Phi4CallParser(NAMES)
    parts = [parser.push(marked(piece)) for piece in ('<|tool_call|>[{"name": "f", "arg', 'uments": {"a"', ": 1", "}}]")]
    assert parts == [
        [],
        [CallPart(index=0, name="f", arguments='{"a"')],
        [CallPart(index=0, arguments=": 1")],
        [CallPart(index=0, arguments="}")],
    ]


def test_text_around_calls_is_kept() -> None:
    text = "Before <|tool_call|>[{}]<|/tool_call|> between <|tool_call|>[{}]<|/tool_call|> after".replace("{}", _object("f", "{}"))
    assert parse(list(marked(text))) == ("Before  between  after", [("f", "{}"), ("f", "{}")])


def test_plain_prose_is_not_held_back() -> None:
    parser = Phi4CallParser(NAMES)
    assert [parser.push(word) for word in ("Hello", " wor", "ld")] == [["Hello"], [" wor"], ["ld"]]


def test_random_text_is_never_lost() -> None:
    draw = random.Random(2)
    alphabet = [
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        ":",
        ",",
        " ",
        "a",
        "`",
        "```",
        BEGIN,
        END,
        "functools",
        '"name"',
        '"f"',
    ]
    for _ in range(3000):
        text = "".join(draw.choice(alphabet) for _ in range(draw.randrange(1, 25)))
        whole = parse([text])
        assert parse(list(text)) == whole
        if not whole[1] and BEGIN not in text:
            assert whole[0] == text.replace(END, "")


def testjoin_parts_drops_nothing() -> None:
    assert join_parts(
        ["a", "", "b", CallPart(index=0, name="f"), CallPart(index=0, arguments="{}"), CallPart(index=1, name="f")]
    ) == [
        "ab",
        CallPart(index=0, name="f", arguments="{}"),
        CallPart(index=1, name="f"),
    ]


@pytest.mark.parametrize(
    "text",
    ['[{"name": "circle", "arguments": {}}]', 'functools[{"name": "circle", "arguments": {}}]', '```json\n{"name": "circle"'],
)
def test_only_marked_calls_count_where_calls_are_a_promise(text: str) -> None:
    parser = Phi4CallParser(NAMES, marked_only=True)
    assert parser.push(text) + parser.finish() == [text]
    strict = Phi4CallParser(NAMES, marked_only=True)
    parts = strict.push(marked('<|tool_call|>[{"name": "circle", "arguments": {}}]<|/tool_call|>')) + strict.finish()
    assert [part.name for part in parts if isinstance(part, CallPart) and part.name] == ["circle"]
