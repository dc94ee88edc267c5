"""Writes a model's tokenizer so that libraries which number tokens themselves arrive at the file's own ids.

vLLM's constrained decoding reads the tokenizer through transformers and assumes that the number of tokens is the highest id. It
would then know none of Phi-4's control tokens. In the tokenizer written here every id below vocab_size is a token. Knows no engine.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from serve_app.chat.vocabulary import TOKENIZER_FILE, Vocabulary, read_tokenizer_file, read_vocabulary
from serve_app.files.cache import cache_dir, write_cached_folder

_CONFIG = {"model_type": "phi3"}
"""vLLM looks for a config.json beside every tokenizer; without one it logs errors and waits 2 s, twice a start. With this type
transformers read tokenizer.json as it is, whatever the model; with others, such as qwen2, they change it."""
_FORMAT = "every id is a token; with config.json"
"""Part of the cache key; change it whenever the folder's content changes."""


def write_dense_tokenizer(model_dir: Path) -> Path:
    """Return a cached folder with tokenizer.json, tokenizer_config.json and config.json for transformers' fast tokenizers.

    Raises `ModelUnusable` where the model's files contradict each other.
    """
    file = read_tokenizer_file(model_dir)
    vocabulary = read_vocabulary(model_dir, file)
    text = file.fill_gaps(vocabulary.size)
    settings = json.dumps(_build_config(model_dir, vocabulary), indent=2)
    digest = hashlib.blake2b(f"{_FORMAT};{settings};{text}".encode(), digest_size=8).hexdigest()
    target = cache_dir() / "tokenizer" / digest

    def write(folder: Path) -> None:
        (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")

    return write_cached_folder(target, "writing the tokenizer for vLLM", write)


def _build_config(model_dir: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a tokenizer_config.json. Its end token is that of the model's own tokenizer_config.json, else the last stop token."""
    file = model_dir / "tokenizer_config.json"
    named = json.loads(file.read_text(encoding="utf-8")).get("eos_token") if file.exists() else None
    end = named.get("content") if isinstance(named, dict) else named
    if end not in vocabulary.added:
        end = vocabulary.raw(vocabulary.stop_ids[-1]).decode("utf-8", "replace")
    return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "clean_up_tokenization_spaces": False}
