"""all-MiniLM-L6-v2, which nobody here trained, against its own library's arithmetic. Needs `make tools`.

sentence-transformers is not installed here; its model is transformers' BertModel with the folder's tokenizer, pooling and scaling,
which is what these tests compute.
"""

import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertModel

from serve_app.config import ModelSettings
from serve_app.encoding import Vectors
from serve_app.engines.encoder.engine import OnnxEncoder
from serve_app.errors import ContextOverflow
from serve_app.models.encoder import EncoderModel
from tests.cluster.fetch_tools import MINILM
from tests.contract.test_encoder import ask, running

pytestmark = pytest.mark.skipif(not MINILM.exists(), reason="all-MiniLM-L6-v2 is not here; run `make tools`")
TEXTS = [
    "Hi",
    "",
    "   ",
    "The quick brown fox jumps over the lazy dog.",
    "Ein kurzer deutscher Satz mit Umlauten: äöüß.",
    "日本語の文章です。検索に使います。",
    "Это предложение на русском языке.",
    "هذه جملة باللغة العربية",
    "😀 emoji and e\u0301 combining, \u200b zero width, \tand tabs\nand lines",
    "code: for i in range(10): print(i ** 2)  # comment",
    "x" * 150 + " a word that is too long for WordPiece",
    "A long text. " * 40,
    "Another long one, which is cut at the model's limit. " * 80,
]


@pytest.fixture(scope="module")
def model() -> EncoderModel:
    return EncoderModel.load("mini", ModelSettings(), MINILM)


@pytest.fixture(scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OnnxEncoder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHI_SERVE_CACHE", str(tmp_path_factory.mktemp("cache")))
        async with running(MINILM) as started:
            yield started


def _library(texts: list[str]) -> Vectors:
    """Return the library's vectors: cut at the model's 256 tokens, padded in one batch, mean over the mask, length 1."""
    tokenizer, bert = AutoTokenizer.from_pretrained(MINILM), BertModel.from_pretrained(MINILM).eval()
    read = tokenizer([text.strip() for text in texts], padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        tokens = bert(**read).last_hidden_state
    mask = read["attention_mask"].unsqueeze(-1).float()
    found: Vectors = torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)).numpy()
    return found


async def test_vectors_are_the_librarys_for_short_long_and_multilingual_texts(model: EncoderModel, engine: OnnxEncoder) -> None:
    inputs = await model.tokenize(TEXTS, engine.info.context_length, truncate=True)
    expected = _library(TEXTS)
    together = (await engine.encode(ask(*inputs))).vectors
    alone = np.concatenate([(await engine.encode(ask(ids))).vectors for ids in inputs])
    print(f"largest difference: batched {np.abs(together - expected).max():.1e}, alone {np.abs(alone - expected).max():.1e}")
    np.testing.assert_allclose(together, expected, atol=1e-4)
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert (engine.info.context_length, together.shape) == (256, (len(TEXTS), 384))


async def test_too_long_a_text_is_refused_with_its_tokens_and_the_limit(model: EncoderModel) -> None:
    with pytest.raises(ContextOverflow, match="is 256 tokens, but input 1 has 1122 tokens"):
        await model.tokenize(["short", TEXTS[-1]], 256, truncate=False)


async def test_similar_texts_are_near_each_other(model: EncoderModel, engine: OnnxEncoder) -> None:
    texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply today."]
    first, second, third = (await engine.encode(ask(*await model.tokenize(texts, 256, truncate=False)))).vectors
    assert first @ second > 0.5 > 0.2 > first @ third


@pytest.mark.slow
async def test_short_texts_are_faster_together_than_one_by_one(engine: OnnxEncoder) -> None:
    chance = np.random.default_rng(0)
    inputs = [tuple(map(int, chance.integers(1000, 30_000, chance.integers(4, 14)))) for _ in range(200)]
    best = [float("inf")] * 2
    for _ in range(5):
        began = time.perf_counter()
        for ids in inputs:
            await engine.encode(ask(ids))
        middle = time.perf_counter()
        await engine.encode(ask(*inputs))
        best = [min(best[0], middle - began), min(best[1], time.perf_counter() - middle)]
    print(f"{best[0] / best[1]:.2f} times as fast")
    assert best[0] > 1.2 * best[1]
