"""What is particular to llama.cpp: ids that its server drops, its end tokens, its prefix cache, its faults."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.chat.tokenizer import Tokenizer
from serve_app.engine_config import LlamaCppSettings
from serve_app.engines.base import Engine
from serve_app.engines.llama_cpp.engine import LlamaCppEngine
from serve_app.engines.registry import build_engine
from serve_app.errors import EngineDead, InvalidRequest, ModelUnusable, Overloaded
from serve_app.models.export import derive
from serve_app.types import Capability, FinishReason, Regex, TokenRequest
from tests.contract.play import ask, play, prompt


async def _started(model_dir: Path, **settings: object) -> LlamaCppEngine:
    chosen = LlamaCppSettings.model_validate({"precision": "f32", "slots": 2, "max_model_len": 512} | settings)
    engine = build_engine(chosen, derive(model_dir, chosen))
    assert isinstance(engine, LlamaCppEngine)
    await engine.start()
    return engine


async def _whole(engine: Engine, request: TokenRequest) -> dict[str, Any]:
    """Ask llama.cpp's server itself, not streamed: then it tells every id."""
    assert isinstance(engine, LlamaCppEngine)
    body = json.loads(engine._encode_request(await engine._admit(request))) | {
        "stream": False,
        "response_fields": ["content", "tokens"],
    }
    async with engine._server.session.post("http://llama/completion", json=body) as response:
        value: dict[str, Any] = await response.json()
    return value


async def test_streamed_ids_are_those_of_a_whole_answer(llama_cpp_engine: Engine, tokenizer: Tokenizer) -> None:
    halves = [
        at for at in range(tokenizer.vocabulary.size) if tokenizer.raw(at).decode("utf-8", "replace").encode() != tokenizer.raw(at)
    ]
    bias = {0: -100.0, 1: -100.0} | dict.fromkeys(halves, 10.0)
    stray = 0
    for seed in range(6):
        request = ask(prompt(20, seed), temperature=2.0, seed=seed, max_tokens=200, logit_bias=bias)
        ids, end, _ = await play(llama_cpp_engine, request)
        assert list(ids) == (await _whole(llama_cpp_engine, request))["tokens"]
        assert end.usage.completion_tokens == len(ids) == 200
        stray += len(set(halves) & set(ids))
    assert stray > 100, "the test says nothing without tokens that are half a character"


async def test_what_llama_cpp_ends_by_is_no_end_unless_asked_for(llama_cpp_engine: Engine) -> None:
    forced = {"logit_bias": {1: 100.0}, "max_tokens": 4}
    ids, end, _ = await play(llama_cpp_engine, ask(prompt(20), **forced))
    assert (ids, end.reason, end.usage.completion_tokens) == ((1,) * 4, FinishReason.LENGTH, 4)
    ids, end, _ = await play(llama_cpp_engine, ask(prompt(20), stop_token_ids=(1,), **forced))
    assert (ids, end.reason, end.usage.completion_tokens) == ((), FinishReason.STOP, 1)
    ids, end, _ = await play(llama_cpp_engine, ask(prompt(20), stop_token_ids=(1,), min_tokens=3, **forced))
    assert (len(ids), end.reason, end.usage.completion_tokens) == (3, FinishReason.STOP, 4)


async def test_it_tokenizes_like_the_app(llama_cpp_engine: Engine, tokenizer: Tokenizer) -> None:
    assert isinstance(llama_cpp_engine, LlamaCppEngine)
    texts = [
        "What is 12345 + 30?\n\n",
        "def f(x):\n    return x's  \t y",
        "I'LL go, 'tis DON'T.",
        "a  b   c\r\n\r\n d",
        "<|user|>hi<|end|>",
    ]
    for text in texts:
        body = {"content": text, "parse_special": True}
        async with llama_cpp_engine._server.session.post("http://llama/tokenize", json=body) as response:
            assert (await response.json())["tokens"] == tokenizer.encode(text, special=True), text


async def test_capabilities_leave_out_what_llama_cpp_does_otherwise(llama_cpp_engine: Engine) -> None:
    missing = frozenset(Capability) - llama_cpp_engine.info.capabilities
    assert missing == {Capability.OUTPUT_PENALTIES, Capability.UNICODE_PATTERNS, Capability.STRUCTURED_MIN_TOKENS}
    plain = ask(prompt(5), max_tokens=5)
    request = TokenRequest(request_id="u", prompt=plain.prompt, sampling=plain.sampling, constraint=Regex("[äöü]+"))
    with pytest.raises(InvalidRequest, match="ASCII"):
        await play(llama_cpp_engine, request)


async def test_a_conversation_goes_on_from_generated_tokens_and_another_salt_shares_nothing(model_dir: Path) -> None:
    engine = await _started(model_dir)
    first = prompt(60, seed=9)
    answer, end, _ = await play(engine, ask(first))
    assert end.usage.cached_tokens == 0
    longer = (*first, *answer, *prompt(5, seed=4))
    cached = (await play(engine, ask(longer)))[1].usage.cached_tokens
    assert cached >= len(first) + len(answer) - 1
    assert engine.load().counters["reused_tokens"] == cached
    base = ask(longer)
    salted = TokenRequest(request_id="salted", prompt=base.prompt, sampling=base.sampling, cache_salt="tenant")
    assert (await play(engine, salted))[1].usage.cached_tokens == 0
    assert (await play(engine, ask(longer)))[1].usage.cached_tokens == 0
    await engine.close()
    off = await _started(model_dir, prefix_cache=False)
    for _ in range(2):
        assert (await play(off, ask(first)))[1].usage.cached_tokens == 0
    await off.close()


async def test_gpu_layers_without_a_gpu_are_refused(model_dir: Path) -> None:
    import xllamacpp

    kinds = {device["type"] for device in xllamacpp.get_device_info()}
    if kinds - {xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU}:
        pytest.skip("there is another device than the CPU")
    with pytest.raises(ModelUnusable, match=r"gpu_layers: 2 is set, but the installed xllamacpp sees no GPU"):
        await _started(model_dir, gpu_layers=2)


async def test_what_does_not_fit_is_refused_with_the_arithmetic(model_dir: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"256 slots of 131072 tokens take .* GiB of KV cache .* set fewer slots"):
        await _started(model_dir, slots=256, max_model_len=131072)


async def test_a_server_that_never_answers_counts_as_hung(model_dir: Path, tmp_path: Path) -> None:
    engine = await _started(model_dir, health_timeout_s=0.5)
    await engine.check_health()
    held: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_unix_server(lambda _, writer: held.append(writer), path=str(tmp_path / "s"))
    real = engine._server._session
    engine._server.connect(tmp_path / "s")
    with pytest.raises(EngineDead, match=r"has not answered for 0\.5 s"):
        await engine.check_health()
    silent.close()
    for writer in held:
        writer.close()
        await writer.wait_closed()
    with pytest.raises(EngineDead, match="is dead"):
        await engine.check_health()
    await engine.close()
    assert real is not None
    await real.close()


async def test_closing_tells_everyone(model_dir: Path) -> None:
    engine = await _started(model_dir, slots=1)
    tasks = [asyncio.create_task(play(engine, ask(prompt(10, i), max_tokens=400, ignore_eos=True))) for i in range(3)]
    while engine.load().counters["decode_tokens"] == 0:
        await asyncio.sleep(0.01)
    await engine.close()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert [type(result) for result in results] == [EngineDead] * 3
    with pytest.raises(EngineDead, match="not running"):
        await play(engine, ask(prompt(10)))
    with pytest.raises(EngineDead, match="not running"):
        await engine.check_health()


async def test_a_full_queue_refuses(model_dir: Path) -> None:
    engine = await _started(model_dir, slots=1, max_waiting=1)
    streams = [engine.generate(ask(prompt(10, i), max_tokens=400, ignore_eos=True)) for i in range(2)]
    tasks = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded) as refused:
        await play(engine, ask(prompt(10)))
    assert refused.value.retry_after_s
    for task, stream in zip(tasks, streams, strict=True):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stream.aclose()
    await engine.close()


@pytest.mark.parametrize(
    "settings", [{"flash_attention": True}, {"flash_attention": True, "kv_cache_type": "q8_0"}, {"kv_cache_type": "f16"}]
)
async def test_other_caches_and_attentions_answer(model_dir: Path, settings: dict[str, object]) -> None:
    engine = await _started(model_dir, **settings)
    assert len((await play(engine, ask(prompt(40), max_tokens=8)))[0]) == 8
    await engine.close()
