"""A tokenizer as llama.cpp keeps it in a GGUF file, written so that its server streams every token id.

llama.cpp's server withholds tokens whose text ends within a character, and forgets their ids. So a token whose bytes are no text
of their own gets another text: its stray bytes as characters of Unicode's private use area. Ids are what the app feeds and reads;
the text is for llama.cpp alone, and for constraints (`serve_app.engines.llama_cpp.grammar`).
"""

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from serve_app.chat.vocabulary import read_tokenizer_file, read_vocabulary
from serve_app.errors import ModelUnusable

STRAY = 0xE000
"""A stray byte b is written as chr(STRAY + b)."""


class TokenType(IntEnum):
    """The format's kinds of tokens."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True)
class GgufVocabulary:
    """What a GGUF file says of the tokenizer."""

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...]
    pre: str
    """llama.cpp's name of the way text is cut before the merges."""


def text_of(raw: bytes) -> str:
    """Return the bytes as text, stray ones in the private use area."""
    return raw.decode("utf-8", errors="phi-serve-stray")


def _stray(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(STRAY + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("phi-serve-stray", _stray)


def gguf_vocabulary(model_dir: Path, size: int) -> GgufVocabulary:
    """Return the model's vocabulary as our GGUF files have it, `size` entries; raises `ModelUnusable` where its ids are beyond."""
    file = read_tokenizer_file(model_dir)
    vocabulary = read_vocabulary(model_dir, file)
    if any(vocabulary.tokens[size:]):
        raise ModelUnusable(f"the tokenizer has ids beyond the model's vocabulary of {size}")
    spelled = {token_id: text for text, token_id in file.vocab.items()}
    tokens, types = [], []
    for token_id in range(size):
        raw = vocabulary.raw(token_id)
        text, kind = f"[PAD{token_id}]", TokenType.UNUSED
        if token_id in vocabulary.control_ids:
            text, kind = raw.decode(), TokenType.CONTROL
        elif token_id in spelled:
            text, kind = spelled[token_id], TokenType.NORMAL
            as_text = text_of(raw)
            if as_text.encode() != raw:
                text, kind = as_text, TokenType.USER_DEFINED
        elif raw:  # an added token that is text like any other
            text, kind = raw.decode(), TokenType.USER_DEFINED
        tokens.append(text)
        types.append(kind)
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in file.content["model"]["merges"])
    return GgufVocabulary(tuple(tokens), tuple(types), merges, _pre_tokenizer(file.content["pre_tokenizer"]))


_LETTERS = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:"
_PRE: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("gpt-4o", lambda pattern: _LETTERS in pattern and "\\p{N}{1,3}" in pattern),
    ("llama-bpe", lambda pattern: pattern.startswith("(?i:'s|'t") and "\\p{N}{1,3}" in pattern),
    ("qwen2", lambda pattern: pattern.startswith("(?i:'s|'t") and "|\\p{N}|" in pattern),
)


def _pre_tokenizer(step: Any) -> str:
    """Tell llama.cpp's name from the pattern that the text is split by; `gpt-2` is byte-level BPE without one."""
    patterns = [
        part["pattern"].get("Regex", "") for part in (step or {}).get("pretokenizers", [step]) if part and "pattern" in part
    ]
    return next((name for name, fits in _PRE if any(map(fits, patterns))), "gpt-2")


@dataclass(frozen=True)
class Served:
    """The vocabulary of a GGUF file as llama.cpp understands it."""

    texts: tuple[bytes, ...]
    """What each id stands for; control tokens by their names."""
    control_ids: frozenset[int]
    exact: bool
    """Whether the server streams the id of every token."""
    turn_end: int
    """The id by which llama.cpp ends an answer under a constraint."""


def served_vocabulary(keys: Mapping[str, Any], model_dir: Path) -> Served:
    """Return the vocabulary of a GGUF header's keys; raises `ModelUnusable` unless its ids mean what the model's tokenizer says."""
    tokens, types = keys.get("tokenizer.ggml.tokens"), keys.get("tokenizer.ggml.token_type")
    ends = [keys.get(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eos")]
    turn_end = next((end for end in ends if end is not None), None)
    if not isinstance(tokens, list) or not isinstance(types, list) or len(tokens) != len(types) or type(turn_end) is not int:
        raise ModelUnusable("the GGUF file's keys describe no tokenizer; export or fetch it again")
    own = gguf_vocabulary(model_dir, len(tokens))
    plain = {token_id: token for token, token_id in read_tokenizer_file(model_dir).vocab.items()}
    for token_id, (token, wanted, kind) in enumerate(zip(tokens, own.tokens, own.types, strict=True)):
        if kind is not TokenType.UNUSED and token not in (wanted, plain.get(token_id)):
            raise ModelUnusable(
                f"token {token_id} of the GGUF file is not that of the model's tokenizer; the file belongs to another model"
            )
    exact = all(
        kind is TokenType.UNUSED or (token == wanted and kind == given)
        for token, wanted, given, kind in zip(tokens, own.tokens, types, own.types, strict=True)
    )
    if not 0 <= turn_end < len(tokens):
        raise ModelUnusable("the GGUF file's end token is not in its vocabulary; export or fetch it again")
    raw = read_vocabulary(model_dir).raw
    texts = tuple(
        raw(token_id) if kind is TokenType.NORMAL else token.encode(errors="replace")
        for token_id, (token, kind) in enumerate(zip(own.tokens, own.types, strict=True))
    )
    control = frozenset(token_id for token_id, kind in enumerate(own.types) if kind in (TokenType.CONTROL, TokenType.UNUSED))
    return Served(texts, control, exact, turn_end)
