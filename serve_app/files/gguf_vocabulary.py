"""The vocabulary of a GGUF file, spelled so that llama.cpp's server streams every token id.

llama.cpp's server withholds tokens whose text ends within a character, and loses their ids. So a token whose bytes are not valid
UTF-8 is spelled differently: each undecodable byte becomes a character of Unicode's private use area. The application sends and
reads ids only; the texts matter to llama.cpp and to constraints (`serve_app.engines.llama_cpp.grammar`).
"""

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from serve_app.chat.formats.names import find_format_tokens
from serve_app.chat.vocabulary import TokenizerFile, read_tokenizer_file, read_vocabulary
from serve_app.errors import ModelUnusable

PRIVATE_USE_START = 0xE000
"""An undecodable byte b is spelled chr(PRIVATE_USE_START + b)."""
TOKENS_KEY, TYPES_KEY, TURN_END_KEY = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.eot_token_id"
"""Keys of a GGUF header."""


class TokenType(IntEnum):
    """Types of tokens in the GGUF format."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True)
class GgufVocabulary:
    """The tokenizer's part of a GGUF file."""

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...]
    pre: str
    """llama.cpp's name for the pattern that splits text before the merges."""
    turn_end: int
    """The id by which llama.cpp ends an answer under a constraint; the file's key for it is eot_token_id."""


def spell_bytes(raw: bytes) -> str:
    """Return the bytes as text, undecodable bytes as characters of the private use area."""
    return raw.decode("utf-8", errors="phi-serve-private-use")


def _spell_undecodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(PRIVATE_USE_START + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("phi-serve-private-use", _spell_undecodable)


def build_gguf_vocabulary(model_dir: Path, size: int, file: TokenizerFile | None = None) -> GgufVocabulary:
    """Return the model's vocabulary as our GGUF files spell it, with `size` entries; `file` is the tokenizer's if read already.

    Raises `ModelUnusable` when the tokenizer has ids beyond `size`.
    """
    file = file or read_tokenizer_file(model_dir)
    vocabulary = read_vocabulary(model_dir, file)
    if any(vocabulary.tokens[size:]):
        raise ModelUnusable(f"the tokenizer has ids beyond the model's vocabulary of {size}")
    texts = {token_id: text for text, token_id in file.vocab.items()}
    tokens, types = [], []
    for token_id in range(size):
        raw = vocabulary.raw(token_id)
        text, kind = f"[PAD{token_id}]", TokenType.UNUSED
        if token_id in vocabulary.control_ids:
            text, kind = raw.decode(), TokenType.CONTROL
        elif token_id in texts:
            text, kind = texts[token_id], TokenType.NORMAL
            as_text = spell_bytes(raw)
            if as_text.encode() != raw:
                text, kind = as_text, TokenType.USER_DEFINED
        elif raw:  # an added token that is ordinary text
            text, kind = raw.decode(), TokenType.USER_DEFINED
        tokens.append(text)
        types.append(kind)
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in file.content["model"]["merges"])
    turn_end = vocabulary.added.get(find_format_tokens(vocabulary.added).turn_end, vocabulary.stop_ids[-1])
    return GgufVocabulary(tuple(tokens), tuple(types), merges, _name_pre_tokenizer(file.content["pre_tokenizer"]), turn_end)


_LETTERS = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:"
_PRE_TOKENIZERS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("gpt-4o", lambda pattern: _LETTERS in pattern and "\\p{N}{1,3}" in pattern),
    ("llama-bpe", lambda pattern: pattern.startswith("(?i:'s|'t") and "\\p{N}{1,3}" in pattern),
    ("qwen2", lambda pattern: pattern.startswith("(?i:'s|'t") and "|\\p{N}|" in pattern),
)


def _name_pre_tokenizer(step: Any) -> str:
    """Return llama.cpp's name for the pattern that splits the text; `gpt-2` is byte-level BPE without a pattern."""
    parts = [part for part in (step or {}).get("pretokenizers", [step]) if part]
    if any(part.get("type") == "Digits" and part.get("individual_digits") for part in parts):
        return "smollm"
    patterns = [part["pattern"].get("Regex", "") for part in parts if "pattern" in part]
    return next((name for name, fits in _PRE_TOKENIZERS if any(map(fits, patterns))), "gpt-2")


@dataclass(frozen=True)
class LoadedVocabulary:
    """The vocabulary of a GGUF file as llama.cpp reads it."""

    texts: tuple[bytes, ...]
    """The bytes of each id; control tokens by their names."""
    control_ids: frozenset[int]
    end_ids: tuple[int, ...]
    """Ids that end the model's answers."""
    control_tokens: frozenset[str]
    """Names of the model's control tokens, which llama.cpp finds in text."""


def load_gguf_vocabulary(keys: Mapping[str, Any], model_dir: Path) -> LoadedVocabulary:
    """Return the vocabulary of a GGUF header's keys; raises `ModelUnusable` unless it is the model's in our spelling."""
    tokens, _ = read_token_list(keys)
    file = read_tokenizer_file(model_dir)
    own = build_gguf_vocabulary(model_dir, len(tokens), file)
    if not has_our_spelling(keys, own):
        raise ModelUnusable("the GGUF file's tokens differ from the tokenizer beside it; export or fetch the file again")
    vocabulary = read_vocabulary(model_dir, file)
    texts = tuple(
        vocabulary.raw(token_id) if kind is TokenType.NORMAL else token.encode(errors="replace")
        for token_id, (token, kind) in enumerate(zip(own.tokens, own.types, strict=True))
    )
    control = frozenset(token_id for token_id, kind in enumerate(own.types) if kind in (TokenType.CONTROL, TokenType.UNUSED))
    names = frozenset(vocabulary.raw(token_id).decode() for token_id in vocabulary.control_ids)
    return LoadedVocabulary(texts, control, vocabulary.stop_ids, names)


def read_token_list(keys: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Return texts and types of a GGUF header's tokens; raises `ModelUnusable` when the header has none."""
    tokens, types = keys.get(TOKENS_KEY), keys.get(TYPES_KEY)
    if not isinstance(tokens, list) or not isinstance(types, list) or len(tokens) != len(types) or not tokens:
        raise ModelUnusable("the GGUF file's keys describe no tokenizer; export or fetch it again")
    return [str(token) for token in tokens], types


def has_our_spelling(keys: Mapping[str, Any], own: GgufVocabulary) -> bool:
    """Return whether a GGUF header spells every token as `own` does, so that the server streams every id."""
    tokens, types = read_token_list(keys)
    return tuple(tokens) == own.tokens and tuple(types) == own.types and keys.get(TURN_END_KEY) == own.turn_end


def require_same_ids(keys: Mapping[str, Any], own: GgufVocabulary, file: TokenizerFile, name: str) -> None:
    """Raise `ModelUnusable` unless each token of the GGUF file `name`, in whatever spelling, is the model's token of that id.

    Added tokens may differ in spaces, which converters normalize. Where the model has no token of an id, the file may have any
    token that the model lacks.
    """
    plain = {token_id: text for text, token_id in file.vocab.items()}
    added = {token_id: text for text, token_id in file.added.items()}
    tokens, types = read_token_list(keys)
    for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        known = plain.get(token_id, added.get(token_id))
        if known is None:
            elsewhere = file.vocab.get(token, file.added.get(token))
            if elsewhere is not None:
                raise ModelUnusable(
                    f"{name} gives {_quote(token)} the id {token_id}, and the model's tokenizer the id {elsewhere}; the file was "
                    "converted with wrong ids: convert it with a version of tokenizers below 0.22.2, or take another file"
                )
            if kind != TokenType.NORMAL or token.startswith("[PAD"):
                continue
        elif token in (known, own.tokens[token_id]) or (token_id in added and _remove_spaces(token) == _remove_spaces(known)):
            continue
        ours = "no token" if known is None else _quote(known)
        raise ModelUnusable(
            f"token {token_id} of {name} is {_quote(token)}, but {ours} in the model's tokenizer; the file belongs to another model"
        )
    if len(tokens) <= max(*plain, *added):
        raise ModelUnusable(f"{name} has {len(tokens)} tokens, fewer than the model's tokenizer; the file belongs to another model")


def _remove_spaces(text: str) -> str:
    return text.replace("\u2581", " ").replace(" ", "")


def _quote(token: str) -> str:
    return f"`{token[:80]}`"
