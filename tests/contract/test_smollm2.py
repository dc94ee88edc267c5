"""SmolLM2-135M-Instruct, which nobody here trained, on every engine: as a folder in float32, and as its published GGUF file.

Needs `make tools`.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serve_app.chat.tokenizer import Tokenizer
from serve_app.engine_config import EngineSettings, LlamaCppSettings, OnnxSettings, VllmSettings
from serve_app.engines.base import Engine
from serve_app.engines.llama_cpp.server import LlamaServer
from serve_app.engines.registry import build_engine
from serve_app.files.gguf_header import read_header
from serve_app.models.export import derive
from serve_app.models.weights import Weights
from serve_app.types import FinishReason
from tests.contract.play import ask, play
from tests.smollm2 import SMOLLM2, needs_smollm2, smollm2_folder

pytestmark = needs_smollm2

CONTEXT = 512
ENGINES: dict[str, EngineSettings] = {
    "onnx": OnnxSettings(slots=8, max_model_len=CONTEXT),
    "llama_cpp": LlamaCppSettings(precision="f32", slots=8, max_model_len=CONTEXT),
    "vllm": VllmSettings(max_num_seqs=8, max_model_len=CONTEXT, kv_cache_gib=0.25),
}
QUESTIONS = (
    "What is the capital of France?",
    "Hi",
    "Write a haiku about rain.",
    "Name three primary colors.",
    "What is 2 + 3?",
    "How many days has a week?",
    "Translate 'good morning' into Spanish.",
    "Why is the sky blue?",
    "Write a Python function that adds two numbers.",
    "Who wrote Romeo and Juliet?",
    "Give me a recipe for pancakes.",
    "What do bees make?",
    "Explain gravity in one sentence.",
    "Grüße aus Köln! Wie heißt du?",
    "请用一句话介绍你自己。",
    "Qu'est-ce que c'est qu'un chat ?",
    "List 5 animals that can fly.",
    "Is 1234567890 an even number?",
    "Thanks! 🙂",
    "Complete: the quick brown fox jumps over",
)
TEXTS = (
    "Hello world, it's 12345 o'clock; don't you'll we've!",
    "  leading   spaces\n\n\ttabs\r\n end ",
    "Grüße aus Köln, façade naïve",
    "Привет, мир! 42",
    "你好,世界。今天天气怎么样?",
    "こんにちは世界",
    "مرحبا بالعالم ٣٤٥",
    "हिन्दी में नमस्ते १२३",
    "안녕하세요",
    "🙂👩‍👩‍👧 emoji ½ ² Ⅷ",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "def f(x):\n    return x**2 # comment",
)
NEAR_TIE = 1e-3
"""Difference of two logits below which float32 sums of different order may choose either token."""


@pytest.fixture(scope="module")
def folder() -> Path:
    return smollm2_folder()


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache for exports of half a gigabyte each, which must not outlive the test."""
    path = tmp_path_factory.mktemp("smollm2-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHI_SERVE_CACHE", str(path))
        yield
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    """The tokenizer as transformers reads it. Its class for GPT-2, which tokenizer_config.json names, drops the split of digits."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def prompts(theirs: Any) -> list[tuple[int, ...]]:
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    texts = [theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    return [tuple(theirs(text).input_ids) for text in texts]


@asynccontextmanager
async def running(settings: EngineSettings, folder: Path) -> AsyncIterator[Engine]:
    engine = build_engine(settings, derive(folder, settings))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def published() -> AsyncIterator[LlamaServer]:
    """llama.cpp with the file as published, without our engine."""
    server = LlamaServer(LlamaCppSettings(slots=1, max_model_len=CONTEXT))
    await server.start(SMOLLM2, read_header(SMOLLM2))
    try:
        yield server
    finally:
        await server.close()


def test_the_folder_is_described(folder: Path) -> None:
    weights = Weights.read(folder)
    assert (weights.parameters, weights.parameter_size, weights.family) == (134_515_008, "134.5M", "llama")


async def test_the_tokenizers_ids_are_llama_cpps(folder: Path, theirs: Any) -> None:
    ours = Tokenizer.load(folder)
    async with published() as server:
        for text in TEXTS:
            body = {"content": text, "add_special": False, "parse_special": True}
            async with server.session.post("http://llama/tokenize", json=body) as response:
                wanted = (await response.json())["tokens"]
            assert ours.encode(text, special=True) == wanted, text
            assert theirs(text).input_ids == wanted, text
            assert b"".join(map(ours.raw, wanted)).decode() == text


async def test_the_published_file_is_served_as_it_comes(folder: Path, theirs: Any, prompts: list[tuple[int, ...]]) -> None:
    async with running(LlamaCppSettings(gguf=str(SMOLLM2), slots=4, max_model_len=CONTEXT), folder) as engine:
        assert engine.info.precision == "q4_1"
        ids, end, _ = await play(engine, ask(tuple(theirs("The capital of France is").input_ids), max_tokens=4))
        assert theirs.decode(ids).startswith(" Paris")
        assert end.usage.completion_tokens == len(ids) == 4
        stop = Tokenizer.load(folder).vocabulary.stop_ids
        ids, end, _ = await play(engine, ask(prompts[1], max_tokens=60, stop_token_ids=stop))
        assert end.reason is FinishReason.STOP
        assert theirs.decode(ids).startswith("Hello! How can I help you")
        assert not {*ids} & {*stop}
        # llama.cpp's server drops the ids of tokens that end within a character; the copy's spelling keeps them.
        (half,) = theirs("Ü").input_ids[:1]
        assert len(theirs("Ü").input_ids) == 2
        told, _, _ = await play(engine, ask(prompts[0], max_tokens=5, logit_bias={half: 100.0}))
        assert told == (half,) * 5


@pytest.mark.slow
async def test_the_exports_give_equal_tokens(folder: Path, prompts: list[tuple[int, ...]]) -> None:
    """A small part of the slow test of every engine, which says what they must be equal to."""
    answers = []
    for name in ("onnx", "llama_cpp"):
        async with running(ENGINES[name], folder) as engine:
            played = await asyncio.gather(*(play(engine, ask(ids, max_tokens=12)) for ids in prompts[:4]))
            answers.append([ids for ids, _, _ in played])
    assert answers[0] == answers[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        *(OnnxSettings(precision=each, max_model_len=CONTEXT, slots=2) for each in ("int8", "int4", "int4_mixed")),
        *(LlamaCppSettings(precision=each, max_model_len=CONTEXT, slots=2) for each in ("f16", "q8_0", "q4_0")),
    ],
    ids=lambda settings: f"{settings.kind}-{settings.precision}",
)
async def test_every_precision_knows_how_tales_begin(folder: Path, theirs: Any, settings: EngineSettings) -> None:
    """Weights that were rounded to four bits twice have forgotten capitals, in int4 and q4_0 alike."""
    async with running(settings, folder) as engine:
        ids, _, _ = await play(engine, ask(tuple(theirs("Once upon a time").input_ids), max_tokens=1))
    assert theirs.decode(ids) == ","


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[Any]:
    from transformers import AutoModelForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other are slow where cores are shared
    yield AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.set_num_threads(threads)


def _compute_logits(model: Any, ids: tuple[int, ...]) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].float().numpy()


@pytest.mark.slow
async def test_the_published_files_logprobs_are_close_to_transformers(
    folder: Path, reference: Any, prompts: list[tuple[int, ...]]
) -> None:
    """Proves names, permutation and tokenizer of the folder: llama.cpp reads the file itself. It rounds activations to 8 bits."""
    off: list[float] = []
    async with running(LlamaCppSettings(gguf=str(SMOLLM2), slots=1, max_model_len=CONTEXT), folder) as engine:
        for ids in prompts:
            _, _, (found,) = await play(engine, ask(ids, max_tokens=1, logprobs=10))
            wanted = torch.log_softmax(torch.from_numpy(_compute_logits(reference, ids)[-1]), -1)
            off += [abs(value - float(wanted[token])) for token, value in found.top]
    assert np.mean(off) < 0.15
    assert max(off) < 1.0


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_greedy_tokens_are_equal_on_every_engine(folder: Path, reference: Any, prompts: list[tuple[int, ...]]) -> None:
    answers: dict[str, list[tuple[int, ...]]] = {}
    for name, settings in ENGINES.items():  # one after the other: each has half a gigabyte of weights
        async with running(settings, folder) as engine:
            played = await asyncio.gather(*(play(engine, ask(ids, max_tokens=24)) for ids in prompts))
            answers[name] = [ids for ids, _, _ in played]
    for question, ids, given in zip(QUESTIONS, prompts, zip(*answers.values(), strict=True), strict=True):
        logits = _compute_logits(reference, (*ids, *given[0]))[len(ids) - 1 : -1]
        first, second = np.sort(logits, -1)[:, :-3:-1].T
        decided = int(np.argmax(np.append(first - second < NEAR_TIE, True)))
        assert given[0][:decided] == tuple(logits.argmax(-1)[:decided]), question
        assert {each[:decided] for each in given} == {given[0][:decided]}, question
        assert decided == 24, f"a near-tie after {decided} tokens: {question}"
