"""The exact bytes of every dialect, kept in files beside this one. `UPDATE_GOLDEN=1 pytest tests/golden` rewrites them."""

import os
from pathlib import Path

import pytest

from serve_app.chat.text_stream import TextStream
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import (
    AnswerEvent,
    ChoiceEnd,
    Started,
    TextDelta,
    TextLogprob,
    ThoughtDelta,
    ToolCallDelta,
    fold,
)
from serve_app.dialects import anthropic, ollama, openai, reasoning
from serve_app.dialects.base import AnswerContext, Dialect, Generate, dump, parse
from serve_app.errors import ContextOverflow, EngineDead, Overloaded, ServeError
from serve_app.record import RequestRecord
from serve_app.types import FinishReason, Timings, TokenDelta, Usage

HERE = Path(__file__).parent / "bytes"
BODIES = {
    "/v1/chat/completions": b'{"messages":[{"role":"user","content":"hi"}],"stream_options":{"include_usage":true},"stream":true}',
    "/v1/responses": b'{"model":"phi4-mini","input":"hi","max_output_tokens":50,"stream":true}',
    "/v1/messages": b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":50,"stream":true}',
    "/v1/completions": b'{"prompt":"hi","stream":true}',
    "/api/chat": b'{"model":"phi4-mini","messages":[{"role":"user","content":"hi"}]}',
    "/api/generate": b'{"model":"phi4-mini","prompt":"hi"}',
    "/reasoning": b'{"prompt":"hi","task_type":"math"}',
}


def _end(reason: FinishReason, tokens: int) -> ChoiceEnd:
    usage = Usage(prompt_tokens=7, completion_tokens=tokens)
    timings = Timings(queue_s=0.125, prefill_s=0.25, decode_s=0.5)
    return ChoiceEnd(reason=reason, usage=usage, timings=timings, tokens=(5, 6, 7))


def _split_utf8(tokenizer: Tokenizer) -> list[AnswerEvent]:
    """An emoji whose bytes come one token at a time."""
    by_bytes = {tokenizer.raw(token): token for token in range(tokenizer.vocabulary.size) if len(tokenizer.raw(token)) == 1}
    stream = TextStream(tokenizer)
    deltas = [stream.push(TokenDelta((by_bytes[bytes([byte])],))) for byte in "a\U0001f600".encode()]
    return [*(delta for told in deltas for delta in told), _end(FinishReason.STOP, 6)]


CASES: dict[str, list[AnswerEvent]] = {
    "ok": [TextDelta(text="Hello"), TextDelta(text=' "you"\n'), _end(FinishReason.STOP, 3)],
    "length": [TextDelta(text="Hel"), _end(FinishReason.LENGTH, 1)],
    "empty": [_end(FinishReason.STOP, 1)],
    "tool-calls": [
        TextDelta(text="Well. "),
        ToolCallDelta(index=0, id="call_1", name="area", arguments=""),
        ToolCallDelta(index=0, arguments='{"radius": '),
        ToolCallDelta(index=0, arguments="5}"),
        ToolCallDelta(index=1, id="call_2", name="now", arguments="{}"),
        _end(FinishReason.TOOL_CALLS, 30),
    ],
}
THOUGHTS = [ThoughtDelta(text="hm"), TextDelta(text="Six."), _end(FinishReason.STOP, 5)]
LOGPROBS = TextDelta(text="Hi", logprobs=(TextLogprob(token="Hi", raw=b"Hi", logprob=-0.5, top=(("Hi", b"Hi", -0.5),)),))
DIALECTS = {"anthropic": anthropic.DIALECT, "openai": openai.DIALECT, "ollama": ollama.DIALECT, "reasoning": reasoning.DIALECT}
ENDPOINTS = [
    (dialect, endpoint) for dialect in DIALECTS.values() for endpoint in dialect.endpoints if isinstance(endpoint, Generate)
]


def _call(endpoint: Generate, body: bytes) -> AnswerContext:  # type: ignore[type-arg]
    parsed = parse(endpoint.codec.body, body)
    request, stream = endpoint.codec.decode(parsed, "req-1")
    return AnswerContext(
        request=request,
        record=RequestRecord(request_id="req-1", model="phi-4-mini-instruct", group="onnx"),
        body=parsed,
        stream=stream,
        created=1_700_000_000,
        elapsed=lambda: 2.0,
    )


def _compare(name: str, produced: bytes) -> None:
    file = HERE / f"{name.strip('/').replace('/', '-')}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        HERE.mkdir(exist_ok=True)
        file.write_bytes(produced)
    assert produced == file.read_bytes()


async def _both(endpoint: Generate, call: AnswerContext, events: list[AnswerEvent], case: str) -> None:  # type: ignore[type-arg]
    events = [Started(prompt_tokens=7), *events]

    async def play():  # type: ignore[no-untyped-def]
        for event in events:
            yield event

    whole = endpoint.codec.encode(await fold(play()), call)
    _compare(f"{endpoint.path}-{case}-whole", dump(whole))
    if call.stream:
        encoder = endpoint.codec.encoder(call)
        _compare(f"{endpoint.path}-{case}-stream", b"".join(chunk for event in events for chunk in encoder.push(event)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dialect", "endpoint"), ENDPOINTS, ids=[endpoint.path for _, endpoint in ENDPOINTS])
async def test_answers(dialect: Dialect, endpoint: Generate, case: str) -> None:
    await _both(endpoint, _call(endpoint, BODIES[endpoint.path]), CASES[case], case)


@pytest.mark.parametrize(("dialect", "endpoint"), ENDPOINTS, ids=[endpoint.path for _, endpoint in ENDPOINTS])
async def test_split_characters(dialect: Dialect, endpoint: Generate, tokenizer: Tokenizer) -> None:
    await _both(endpoint, _call(endpoint, BODIES[endpoint.path]), _split_utf8(tokenizer), "split-utf8")


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate", "/reasoning"]
)
async def test_thoughts(path: str) -> None:
    endpoint = next(endpoint for _, endpoint in ENDPOINTS if endpoint.path == path)
    await _both(endpoint, _call(endpoint, BODIES[path]), THOUGHTS, "thoughts")


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        ("/v1/chat/completions", b',"logprobs":true,"top_logprobs":1}'),
        ("/v1/completions", b',"logprobs":1}'),
        ("/api/chat", b',"logprobs":true,"top_logprobs":1}'),
        ("/api/generate", b',"logprobs":true,"top_logprobs":1}'),
    ],
)
async def test_logprobs(path: str, extra: bytes) -> None:
    endpoint = next(endpoint for _, endpoint in ENDPOINTS if endpoint.path == path)
    await _both(endpoint, _call(endpoint, BODIES[path][:-1] + extra), [LOGPROBS, CASES["empty"][0]], "logprobs")


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions", "/api/chat", "/api/generate"]
)
def test_an_error_midway(path: str) -> None:
    endpoint = next(endpoint for _, endpoint in ENDPOINTS if endpoint.path == path)
    encoder = endpoint.codec.encoder(_call(endpoint, BODIES[path]))
    chunks = [*encoder.push(TextDelta(text="Hel")), *encoder.fail(EngineDead("a replica of group onnx died"))]
    _compare(f"{path}-error-midway-stream", b"".join(chunks))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("error", [ContextOverflow("too long", param="messages"), Overloaded("full"), EngineDead("died")])
def test_errors(dialect: str, error: ServeError) -> None:
    _compare(f"{dialect}-{error.code}", dump(DIALECTS[dialect].encode_error(error, "req-1")))
