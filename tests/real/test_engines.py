"""The real model's vocabulary, shape and files on every engine: logits as transformers computes them, control ids, constraints.

The weights are random, so that a greedy text would prove little; logits are compared position by position along given tokens.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.stand_in import ROLE_TOKENS, TOOL_TOKENS
from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.phi4.call_grammar import build_forced_calls, build_guided_calls
from serve_app.chat.tokenizer import Tokenizer
from serve_app.engines.base import Engine
from serve_app.engines.registry import build_engine
from serve_app.errors import InvalidRequest
from serve_app.models.export import derive
from serve_app.types import Constraint, EngineKind, FinishReason, Grammar, JsonSchema, OneOf, Regex, Sampling, TokenRequest
from tests.contract.conftest import MODEL_ENGINES
from tests.contract.play import ask, play

NOISE = 2e-3
"""Nats by which float32 engines may differ in a logprob: they sum 256 products a weight in other orders. Seen: below 3e-4."""
TEXTS = (
    "What is 12 + 30? Explain it step by step, please.",
    "Comment ça va ? Où est la bibliothèque, s'il vous plaît ?",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.",
    "قفز الثعلب البني السريع فوق الكلب الكسول في الصباح الباكر.",
    "דג סקרן שט בים מאוכזב ולפתע מצא לו חברה.",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर से कूदती है।",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน",
    "いろはにほへと ちりぬるを わかよたれそ つねならむ",
    "敏捷的棕色狐狸跳过了懒狗，然后回家睡觉了。",
    "다람쥐 헌 쳇바퀴에 타고파 하는 작은 동물이다.",
    "🎉👩‍👩‍👧‍👦🏳️‍🌈 emoji, \t tabs\n\nand 1234567890 digits <|end|>",
)
LENGTHS = (5, 100, 1000, 3000)


def _mark(name: str) -> Any:
    """Leave what takes half a minute to start to `make test-slow`; `make test` has it on the demo model."""
    return pytest.param(name, marks=pytest.mark.slow) if MODEL_ENGINES[name].kind is EngineKind.VLLM else name


@pytest.fixture(scope="module", params=[_mark(name) for name in MODEL_ENGINES])
async def engine(request: pytest.FixtureRequest, real_dir: Path) -> AsyncIterator[Engine]:
    settings = MODEL_ENGINES[request.param]
    built = build_engine(settings, derive(real_dir, settings))
    await built.start()
    yield built
    await built.close()


@pytest.fixture(scope="module")
def logprobs(real_dir: Path) -> Callable[[tuple[int, ...], tuple[int, ...]], NDArray[np.float32]]:
    """Return a function from ids and positions to transformers' logprobs after each of them, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(real_dir, dtype=torch.float32).eval()

    @cache  # every engine is held against the same ones
    def compute(ids: tuple[int, ...], places: tuple[int, ...]) -> NDArray[np.float32]:
        with torch.inference_mode():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[0, list(places)]
            found: NDArray[np.float32] = torch.log_softmax(model.lm_head(hidden), dim=-1).numpy()
        return found

    return compute


def _prompts(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Ten scripts and emoji, and all of them again and again up to 3,000 tokens, control tokens between them."""
    texts = [tuple(tokenizer.encode(text, special=False)) for text in TEXTS]
    row = [token for text in texts for token in (200_021, *text, 200_020, 200_019)]
    return texts + [tuple((row * 40)[-length:]) for length in LENGTHS]


async def test_logits_are_those_of_transformers(
    engine: Engine, real_tokenizer: Tokenizer, logprobs: Callable[[tuple[int, ...], tuple[int, ...]], NDArray[np.float32]]
) -> None:
    decided = 0
    for ids in _prompts(real_tokenizer):
        ends = tuple(sorted({len(ids), max(1, len(ids) // 2), max(1, len(ids) - 3)}))
        rows = logprobs(ids, tuple(end - 1 for end in ends))
        played = await asyncio.gather(*(play(engine, ask(ids[:end], max_tokens=1, logprobs=20)) for end in ends))
        for row, (_, _, (found,)) in zip(rows, played, strict=True):
            assert np.abs([value - row[token] for token, value in found.top]).max() < NOISE
            best, second = np.sort(row)[-1:-3:-1]
            if best - second > 2 * NOISE:
                assert found.token == int(row.argmax())
                decided += 1
    assert decided > 30


@pytest.mark.parametrize("token", [200_019, 200_021, 200_025, 200_028])
async def test_ids_beyond_the_number_of_tokens_can_be_biased_and_end_an_answer(engine: Engine, token: int) -> None:
    prompt = (200_021, 3686, 200_020, 200_019)
    ids, end, _ = await play(engine, ask(prompt, max_tokens=3, logit_bias={token: 100.0}))
    assert ids == (token,) * 3
    ids, end, _ = await play(engine, ask(prompt, max_tokens=3, logit_bias={token: 100.0}, stop_token_ids=(token,)))
    assert (ids, end.reason, end.usage.completion_tokens) == ((), FinishReason.STOP, 1)


@pytest.mark.parametrize("field", ["logit_bias", "stop_token_ids", "prompt"])
async def test_ids_beyond_the_models_rows_are_refused(engine: Engine, field: str) -> None:
    sampling = {"logit_bias": {200_064: 1.0}} if field == "logit_bias" else {}
    sampling |= {"stop_token_ids": (200_064,)} if field == "stop_token_ids" else {}  # type: ignore[dict-item]
    with pytest.raises(InvalidRequest, match="token ids must be below 200064"):
        await play(engine, ask((200_064,) if field == "prompt" else (5,), **sampling))
    ids, _, _ = await play(engine, ask((200_063, 199_998), max_tokens=2, logit_bias={200_063: -100.0}))
    assert len(ids) == 2, "rows that are no token are rows all the same"


OBJECT = json.dumps(
    {
        "type": "object",
        "properties": {"city": {"enum": ["Zürich", "東京"]}, "n": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "n"],
        "additionalProperties": False,
    }
)
PARAMETERS = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
TOOLS = parse_tools([{"name": "get", "parameters": PARAMETERS}])
CONSTRAINTS: dict[str, Constraint] = {
    "schema": JsonSchema(OBJECT),
    "regex": Regex("[a-c]{3}x"),
    "choice": OneOf(("red", "green")),
    "grammar": Grammar('start: <|tool_call|> "[" /[0-9]{2}/ "]" <|/tool_call|>'),
    "calls": build_forced_calls(TOOLS, parallel=False),
    "guide": build_guided_calls(TOOLS),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
async def test_constraints_hold(engine: Engine, real_tokenizer: Tokenizer, name: str) -> None:
    sampling = Sampling(temperature=1.0, seed=7, max_tokens=60, stop_token_ids=(200_020, 199_999))
    if name == "guide":  # once the call has begun, the guide lets only the offered tool follow, whatever is likely
        bias = {200_025: 100.0}
        begin = Sampling(temperature=0.0, max_tokens=30, logit_bias=bias, stop_token_ids=(200_020, 199_999, 200_026))
        sampling = begin
    request = TokenRequest(
        request_id=name, prompt=(200_021, 3686, 200_020, 200_019), sampling=sampling, constraint=CONSTRAINTS[name]
    )
    ids, end, _ = await play(engine, request)
    said = b"".join(map(real_tokenizer.raw, ids)).decode()
    match name:
        case "schema":
            assert json.loads(said)["city"] in ("Zürich", "東京")
            assert end.reason is FinishReason.STOP
        case "regex":
            assert re.fullmatch("[a-c]{3}x", said)
        case "choice":
            assert said in ("red", "green")
        case "grammar":
            assert re.fullmatch(r"<\|tool_call\|>\[[0-9]{2}\]<\|/tool_call\|>", said)
            assert (ids[0], ids[-1]) == (200_025, 200_026)
        case "calls":
            calls = json.loads(said.removeprefix("<|tool_call|>").removesuffix("<|/tool_call|>"))
            assert calls == [{"name": "get", "arguments": {"a": "x"}}]
        case "guide":
            assert said.startswith('<|tool_call|>[{"name": "get", "arguments": {'), said


@pytest.mark.parametrize("top_p", [0.9])
async def test_a_seed_draws_the_same_again(engine: Engine, top_p: float) -> None:
    prompts = [(200_021, 3686 + at, 200_020, 200_019) for at in range(4)]
    requests = [ask(ids, temperature=1.0, seed=at, max_tokens=12, top_p=top_p) for at, ids in enumerate(prompts)]
    alone = [(await play(engine, request))[0] for request in requests]
    assert [(await play(engine, request))[0] for request in requests] == alone
    assert len(set(alone)) == 4
    if engine.info.kind is not EngineKind.LLAMA_CPP or top_p == 1.0:
        # llama.cpp sorts for top_p. Of 200,000 tokens with almost equal chances, rounding decides the order, and batches move it.
        together = await asyncio.gather(*(play(engine, request) for request in requests))
        assert [ids for ids, _, _ in together] == alone


@pytest.fixture(scope="module")
def begun() -> dict[str, tuple[int, ...]]:
    """Answers of the first engine, for the others to continue."""
    return {}


async def test_a_stream_continues_on_another_engine(engine: Engine, begun: dict[str, tuple[int, ...]]) -> None:
    """Every engine continues from what the first one drew, and ends as that did: ids mean the same everywhere."""
    prompt = (200_021, 3686, 200_020, 200_019)
    # Tokens far from each other, control tokens among them, which the bias makes certain in every engine.
    wanted = (200_025, 77, 150_003, 200_026, 198_001, 9)
    said = begun.setdefault("first", ())
    if not said:
        for token in wanted:
            ids, _, _ = await play(engine, ask((*prompt, *said), max_tokens=1, logit_bias={token: 100.0}))
            said += ids
        begun["first"] = said + (await play(engine, ask((*prompt, *said), max_tokens=6)))[0]
    whole = begun["first"]
    assert whole[: len(wanted)] == wanted
    for cut in (len(wanted), len(wanted) + 3):
        rest, _, _ = await play(engine, ask((*prompt, *whole[:cut]), max_tokens=len(whole) - cut))
        assert whole[:cut] + rest == whole


def test_the_formats_tokens_are_the_stand_ins(real_tokenizer: Tokenizer) -> None:
    assert {*ROLE_TOKENS.values(), *TOOL_TOKENS.values()} <= real_tokenizer.vocabulary.control_ids
