"""Embedding models of the tests: the files of a tiny one, the real one of `make tools`, and an encoder that is only scripted."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from serve_app.encoding import Encoded, EncodeRequest
from serve_app.errors import ServeError
from serve_app.types import EngineInfo, EngineKind, EngineLoad, Timings

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{each}" for each in "abcdefghijklmnopqrstuvwxyz"),
)
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
    "vocab_size": len(WORDS),
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}


def write_files(folder: Path, *, pooling: str = "mean_tokens", normalized: bool = True, **changes: Any) -> Path:
    """Write everything but weights: a WordPiece tokenizer of letters, and the files of sentence-transformers."""
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    tokenizer = Tokenizer(
        models.WordPiece({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]", max_input_chars_per_word=1000)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(WORDS[:5]))
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_truncation(8)  # as published files have; the server must not follow it
    tokenizer.save(str(folder / "tokenizer.json"))
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalized else [])]
    (folder / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]))
    modes = ("cls_token", "mean_tokens", "max_tokens")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": mode == pooling for mode in modes}))
    return folder


class FakeEncoder:
    """Makes a vector of each input's ids, deterministically; `faults` are raised by the next calls, in order."""

    def __init__(self, dimensions: int = 16, context: int = 48) -> None:
        self.dimensions = dimensions
        self.info = EngineInfo(
            kind=EngineKind.ONNX_ENCODER, context_length=context, capabilities=frozenset(), max_concurrency=8, precision="fp32"
        )
        self.requests: list[EncodeRequest] = []
        self.faults: list[ServeError] = []
        self.hangs = False
        self.cancelled = 0

    async def start(self) -> None:
        """Be ready."""

    async def encode(self, request: EncodeRequest) -> Encoded:
        self.requests.append(request)
        if self.faults:
            raise self.faults.pop(0)
        try:
            if self.hangs:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        rows = [np.sin(np.arange(1, self.dimensions + 1) * (1 + sum(ids) + len(ids))) for ids in request.inputs]
        vectors = np.asarray(rows, np.float32)[:, : request.dimensions]
        if request.normalized is not False:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Encoded(vectors=vectors, timings=Timings(prefill_s=0.001))

    async def check_health(self) -> None:
        """Be healthy."""

    def load(self) -> EngineLoad:
        return EngineLoad()

    async def close(self) -> None:
        """Release nothing."""
