"""The same greedy tokens from transformers, ONNX Runtime, llama.cpp and vLLM in float32, for prompts of 5 to 3,000 tokens."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.chat.formats.phi4.render import Phi4Template
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import Chat, Message
from serve_app.engines.base import Engine
from tests.contract.play import ask, play, prompt

NEW_TOKENS = 24
LENGTHS = (5, 9, 17, 33, 64, 100, 127, 128, 129, 255, 256, 257, 400, 600, 3000)
BETWEEN = (1000, 1500, 2000, 2047, 2500)


def transformers_greedy(model_dir: Path, new_tokens: int) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    """Return a function from prompt ids to the greedy tokens of transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()

    def generate(ids: tuple[int, ...]) -> tuple[int, ...]:
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([ids]), max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, eos_token_id=None,
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            )  # fmt: skip
        return tuple(out[0, len(ids) :].tolist())

    return generate


@pytest.fixture(scope="session")
def reference(model_dir: Path) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    return transformers_greedy(model_dir, NEW_TOKENS)


@pytest.fixture(scope="session", params=[LENGTHS, pytest.param(BETWEEN, marks=pytest.mark.slow)], ids=["all kinds", "long"])
async def wanted(
    request: pytest.FixtureRequest, reference: Callable[[tuple[int, ...]], tuple[int, ...]], tokenizer: Tokenizer
) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Prompts and transformers' answers. Random ids say little about a trained model, so every length also ends in a question."""
    question = await Phi4Template(tokenizer).render(Chat(messages=(Message(role="user", content="What is 12 + 30?"),)))
    prompts = [prompt(length) if length < 40 else prompt(length - len(question)) + question for length in request.param]
    return {ids: reference(ids) for ids in prompts}


@pytest.mark.timeout(900)  # transformers reads 16,000 tokens first
async def test_prompts_give_equal_tokens_on_every_engine(
    model_engine: Engine, wanted: dict[tuple[int, ...], tuple[int, ...]]
) -> None:
    alone = [(await play(model_engine, ask(ids, max_tokens=NEW_TOKENS)))[0] for ids in wanted]
    played = await asyncio.gather(*(play(model_engine, ask(ids, max_tokens=NEW_TOKENS)) for ids in wanted))
    assert alone == list(wanted.values())
    assert [result[0] for result in played] == alone
