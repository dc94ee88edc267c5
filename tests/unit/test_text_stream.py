"""Text is the same however its tokens are cut, never half a character, never past a stop string."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.chat.text_stream import TextStream
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import AnswerDelta, TextDelta, ThoughtDelta, ToolCallDelta
from serve_app.models.locate import EMBEDDED
from serve_app.types import TokenDelta, TokenLogprob
from tests.chat import call_stream, parser

TOKENIZER = Tokenizer.load(EMBEDDED)
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)


def _play(ids: list[int], stop: tuple[str, ...], cuts: list[int]) -> tuple[str, TextStream]:
    stream = TextStream(TOKENIZER, stop)
    parts: list[AnswerDelta] = []
    bounds = [0, *sorted({cut % (len(ids) + 1) for cut in cuts}), len(ids)]
    for low, high in itertools.pairwise(bounds):
        parts += stream.push(TokenDelta(tuple(ids[low:high])))
        if stream.stopped:
            break
    parts += stream.flush()
    return _text(parts), stream


def _text(parts: list[AnswerDelta]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextDelta))


@given(TEXTS, st.lists(st.integers(0, 200), max_size=8))
def test_text_survives_any_cut(text: str, cuts: list[int]) -> None:
    assert _play(TOKENIZER.encode(text, special=False), (), cuts)[0] == text


@given(TEXTS, st.text(min_size=1, max_size=4), st.lists(st.integers(0, 200), max_size=8))
def test_the_answer_ends_before_the_first_stop_string(text: str, stop: str, cuts: list[int]) -> None:
    ids = TOKENIZER.encode(text, special=False)
    decoded = _play(ids, (), [])[0]
    played, stream = _play(ids, (stop,), cuts)
    assert played == decoded.split(stop, 1)[0]
    assert stream.stopped == (stop in decoded)


def test_a_stop_string_across_tokens_never_shows() -> None:
    ids = TOKENIZER.encode("one two END three", special=False)
    stream = TextStream(TOKENIZER, ("END",))
    seen = []
    for token in ids:
        seen.append(_text(stream.push(TokenDelta((token,)))))
        if stream.stopped:
            break
    assert "".join(seen) == "one two "
    assert stream.tokens < len(ids)


def test_stop_strings_wait_for_min_tokens() -> None:
    ids = TOKENIZER.encode("one END two END three", special=False)
    later = next(i for i in range(len(ids), 0, -1) if "END" not in "".join(TOKENIZER.raw(t).decode() for t in ids[i:])) - 1
    stream = TextStream(TOKENIZER, ("END",), min_tokens=len(TOKENIZER.encode("one END", special=False)))
    text = "".join(_text(stream.push(TokenDelta((token,)))) for token in ids[:later] if not stream.stopped)
    assert text.startswith("one END two")


def test_half_a_character_is_held_back() -> None:
    ids = [token for token in range(TOKENIZER.vocabulary.size) if TOKENIZER.raw(token) in (b"\xf0", b"\x9f", b"\x98", b"\x80")]
    by_bytes = {TOKENIZER.raw(token): token for token in ids}
    stream = TextStream(TOKENIZER)
    first = [stream.push(TokenDelta((by_bytes[raw],))) for raw in (b"\xf0", b"\x9f", b"\x98")]
    assert first == [[], [], []]
    assert stream.push(TokenDelta((by_bytes[b"\x80"],))) == [TextDelta(text="\U0001f600")]


def test_an_unfinished_character_ends_as_a_replacement() -> None:
    half = next(token for token in range(TOKENIZER.vocabulary.size) if TOKENIZER.raw(token) == b"\xf0")
    stream = TextStream(TOKENIZER)
    assert stream.push(TokenDelta((half,))) == []
    assert stream.flush() == [TextDelta(text="�")]


@pytest.mark.parametrize("token", ["<|end|>", "<|system|>"])
def test_control_tokens_are_not_text(token: str) -> None:
    assert TextStream(TOKENIZER).push(TokenDelta((TOKENIZER.token_id(token),))) == []


CALL = '[{"name": "f", "arguments": {"a": 5}}]'
BEGIN, END = (TOKENIZER.token_id(token) for token in ("<|tool_call|>", "<|/tool_call|>"))


def _called(stream: TextStream, ids: list[int]) -> list[AnswerDelta]:
    return [part for token in ids for part in stream.push(TokenDelta((token,)))] + stream.flush()


def test_calls_are_told_from_text() -> None:
    stream = call_stream(TOKENIZER, "f", choice=1)
    parts = _called(stream, [*TOKENIZER.encode("Well. ", special=False), BEGIN, *TOKENIZER.encode(CALL, special=False), END])
    calls = [part for part in parts if isinstance(part, ToolCallDelta)]
    assert _text(parts) == "Well. "
    assert [bool(part.id) for part in calls] == [True] + [False] * (len(calls) - 1)
    assert (calls[0].name, "".join(part.arguments for part in calls)) == ("f", '{"a": 5}')
    assert {part.choice for part in parts} == {1}
    assert [(call.name, call.arguments) for call in stream.calls] == [("f", '{"a": 5}')]


def test_without_tools_nothing_is_a_call() -> None:
    stream = TextStream(TOKENIZER)
    assert _text(_called(stream, [BEGIN, *TOKENIZER.encode(CALL, special=False), END])) == CALL
    assert stream.calls == ()


def test_logprobs_of_a_calls_tokens_are_not_lost() -> None:
    stream = call_stream(TOKENIZER, "f")
    ids = [BEGIN, *TOKENIZER.encode(CALL, special=False), END]
    parts = [part for token in ids for part in stream.push(TokenDelta((token,), (TokenLogprob(token, -1.0),)))]
    assert sum(len(part.logprobs) for part in parts if isinstance(part, TextDelta)) == len(ids)


def test_a_stop_string_ends_what_was_held_for_a_call() -> None:
    stream = call_stream(TOKENIZER, "f", stop=("STOP",))
    parts = [
        part
        for token in TOKENIZER.encode('[{"x STOP y', special=False)
        if not stream.stopped
        for part in stream.push(TokenDelta((token,)))
    ]
    assert _text(parts) == '[{"x '


def test_thoughts_are_told_from_the_answer_and_never_searched_for_calls() -> None:
    stream = TextStream(TOKENIZER, parser=parser("f", think_tags=("<think>", "</think>")))
    ids = TOKENIZER.encode('<think>[{"name": "f", "arguments": {}}]</think>\n[{"name": "f", "arguments": {}}]', special=False)
    parts = _called(stream, ids)
    thoughts = [part.text for part in parts if isinstance(part, ThoughtDelta)]
    assert "".join(thoughts) == '[{"name": "f", "arguments": {}}]'
    assert not [part for part in parts if isinstance(part, TextDelta)]
    assert len(stream.calls) == 1
