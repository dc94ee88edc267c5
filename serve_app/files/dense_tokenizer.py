"""Writes a model's tokenizer so that libraries which number tokens themselves find the file's own ids.

vLLM's constrained decoding reads the tokenizer through transformers and takes the number of tokens for the highest id, so that it
would know none of Phi-4's control tokens. Here every id below vocab_size is a token. Knows no engine.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from serve_app.chat.vocabulary import TOKENIZER_FILE, Vocabulary, read_tokenizer_file, read_vocabulary
from serve_app.files.cache import cache_dir, locked, writing
from serve_app.files.scratch import scratch_folder

_FORM = "every id is a token"
"""Changes whenever the folder is written otherwise."""


def dense_tokenizer(model_dir: Path) -> Path:
    """Return a folder, in the cache, with tokenizer.json and tokenizer_config.json for transformers' fast tokenizers.

    Raises `ModelUnusable` where the model's files contradict each other.
    """
    file = read_tokenizer_file(model_dir)
    vocabulary = read_vocabulary(model_dir, file)
    text = file.fill_gaps(vocabulary.size)
    settings = json.dumps(_settings(model_dir, vocabulary), indent=2)
    digest = hashlib.blake2b(f"{_FORM};{settings};{text}".encode(), digest_size=8).hexdigest()
    target = cache_dir() / "tokenizer" / digest
    if target.exists():
        return target
    with writing("the tokenizer for vLLM"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_suffix(".lock")), scratch_folder(target.parent) as scratch:
            if not target.exists():
                folder = scratch / "out"
                folder.mkdir()
                (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")
                (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
                os.replace(folder, target)
    return target


def _settings(model_dir: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a tokenizer_config.json. Its end token is the one that the model's own names, else the last of the end tokens."""
    file = model_dir / "tokenizer_config.json"
    named = json.loads(file.read_text(encoding="utf-8")).get("eos_token") if file.exists() else None
    end = named.get("content") if isinstance(named, dict) else named
    if end not in vocabulary.added:
        end = vocabulary.raw(vocabulary.stop_ids[-1]).decode("utf-8", "replace")
    return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "clean_up_tokenization_spaces": False}
