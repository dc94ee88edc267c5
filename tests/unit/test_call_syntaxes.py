"""Which syntax of calls a model's template and tokens mean, and how one is built."""

import pytest

from serve_app.chat.answer_parser import AnswerParser
from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.call_syntaxes import CALL_SYNTAXES, build_call_syntax, detect_call_syntax
from serve_app.chat.formats.hermes.tokens import MARKERS
from serve_app.chat.formats.phi4.tokens import CONTROL_TOKENS
from serve_app.chat.text_stream import TextStream
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import TextDelta
from serve_app.errors import ModelUnusable
from serve_app.models.locate import EMBEDDED
from serve_app.types import TokenDelta
from tests.chat import load_renamed

LOOP = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
LLAMA = LOOP + """{{- '"parameters": ' }}{{ tool_call.arguments | tojson }}"""


@pytest.mark.parametrize(
    ("template", "added", "name"),
    [
        ((EMBEDDED / "chat_template.jinja").read_text(), CONTROL_TOKENS, "phi4"),
        (LOOP, {"<|im_end|>", *MARKERS}, "hermes"),
        (LOOP + "<tool_call>", {"<|im_end|>"}, "hermes"),
        (LOOP + "<tool_call>\n<function=", MARKERS, "none"),
        (LOOP + "<tool_call>f<arg_key>", MARKERS, "none"),
        (LLAMA, {"<|python_tag|>"}, "llama3"),
        (LLAMA + "{{ '<|start_header_id|>ipython' }}", (), "llama3"),
        (LLAMA + "<|python_tag|>", (), "llama3"),
        (LLAMA, (), "none"),
        (LOOP, {"<|python_tag|>"}, "none"),
        (LOOP, (), "none"),
        ("{{ messages }}", MARKERS, "none"),
        ("{{ messages }}", CONTROL_TOKENS, "none"),
        ("", (), "none"),
    ],
)
def test_template_and_tokens_say_how_calls_are_written(template: str, added: frozenset[str], name: str) -> None:
    assert detect_call_syntax(template, added) == name


@pytest.mark.parametrize(
    ("name", "markers"),
    [
        ("phi4", {"<|tool_call|>", "<|/tool_call|>"}),
        ("hermes", {"<tool_call>", "</tool_call>"}),
        ("llama3", {"<|python_tag|>"}),
    ],
)
def test_a_syntax_is_built_for_a_vocabulary(name: str, markers: set[str]) -> None:
    syntax = build_call_syntax(name, {*CONTROL_TOKENS, *MARKERS, "<|python_tag|>"})
    assert syntax is not None
    assert syntax.markers.keys() == markers


def test_what_no_vocabulary_has_is_spelled() -> None:
    for name in ("hermes", "llama3"):
        syntax = build_call_syntax(name, ())
        assert syntax is not None
        assert syntax.markers == {}
    assert build_call_syntax("none", ()) is None
    with pytest.raises(ModelUnusable, match="needs the tokens"):
        build_call_syntax("phi4", MARKERS)
    assert set(CALL_SYNTAXES) == {"phi4", "hermes", "llama3"}


@pytest.mark.parametrize("with_tokens", [False, True])
def test_a_stream_finds_calls_byte_by_byte(tmp_path_factory: pytest.TempPathFactory, with_tokens: bool) -> None:
    """Through the text stream: markers as tokens or as text, within characters too; stop strings may name markers."""
    names = {"<|tool_call|>": "<tool_call>", "<|/tool_call|>": "</tool_call>"} if with_tokens else {}
    tokenizer = load_renamed(tmp_path_factory.mktemp("model"), names)
    syntax = build_call_syntax("hermes", tokenizer.vocabulary.added)
    assert syntax is not None
    tools = parse_tools([{"name": "f"}])
    said = 'Ünï <tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>\n'
    bytes_ids = {tokenizer.raw(at): at for at in range(tokenizer.vocabulary.size) if len(tokenizer.raw(at)) == 1}
    for stop in ((), ("</tool_call>",)):
        parser = AnswerParser(lambda begun: syntax.build_call_parser(tools, begun=begun), syntax.markers)
        stream = TextStream(tokenizer, stop, parser=parser)
        deltas = []
        for token in _byte_tokens(tokenizer, said, bytes_ids, with_tokens):
            if not stream.stopped:
                deltas += stream.push(TokenDelta((token,)))
        deltas += stream.flush()
        assert [(call.name, call.arguments) for call in stream.calls] == [("f", '{"a": "é"}')]
        assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == "Ünï"
        assert stream.stop_sequence == (stop[0] if stop else None)


def _byte_tokens(tokenizer: Tokenizer, said: str, bytes_ids: dict[bytes, int], with_tokens: bool) -> list[int]:
    if not with_tokens:
        return [bytes_ids[bytes([byte])] for byte in said.encode()]
    ids = tokenizer.encode(said, special=True)
    control = tokenizer.vocabulary.control_ids
    return [
        part for token in ids for part in ([token] if token in control else [bytes_ids[bytes([b])] for b in tokenizer.raw(token)])
    ]
