"""The model's tokenizer: text to ids without control tokens, ids to bytes.

Knows nothing of chats. Two instances of the Rust tokenizer are kept, because whether control tokens in the text are recognised is
a mutable flag on the object and long texts are encoded off the loop.
"""

import json
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer

_ASYNC_ABOVE_CHARS = 4096
"""Shorter texts encode in under a millisecond; longer ones leave the event loop."""


def _byte_of_char() -> dict[str, int]:
    """Return the inverse of GPT-2's byte-to-character table, which byte-level BPE vocabularies are written in."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


class Tokenizer:
    """Byte-level BPE from a `tokenizer.json`."""

    def __init__(self, plain: RustTokenizer, marked: RustTokenizer, stop_ids: tuple[int, ...]) -> None:
        """Use `plain` for text whose control tokens are mere text, `marked` where they count."""
        plain.encode_special_tokens = True
        self._plain = plain
        self._marked = marked
        self.stop_ids = stop_ids
        """The model's own end tokens, from its generation config."""

    @classmethod
    def load(cls, model_dir: Path) -> "Tokenizer":
        """Read tokenizer.json and the stop ids beside it; raises `FileNotFoundError` when there is none."""
        text = (model_dir / "tokenizer.json").read_text(encoding="utf-8")
        plain = json.loads(text)
        for token in plain["added_tokens"]:
            token["special"] = True  # others are recognised in text even where control tokens are off
        return cls(RustTokenizer.from_str(json.dumps(plain)), RustTokenizer.from_str(text), _read_stop_ids(model_dir))

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return token ids; `special` says whether control tokens written in the text count as such."""
        tokenizer = self._marked if special else self._plain
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    async def encode_async(self, text: str, *, special: bool) -> list[int]:
        """Do as `encode`, leaving the event loop free while a long text is encoded."""
        if len(text) <= _ASYNC_ABOVE_CHARS:
            return self.encode(text, special=special)
        tokenizer = self._marked if special else self._plain
        return list((await tokenizer.async_encode(text, add_special_tokens=False)).ids)

    def token_id(self, token: str) -> int:
        """Return the id of a control token; raises `KeyError` when the vocabulary lacks it."""
        token_id: int | None = self._marked.token_to_id(token)
        if token_id is None:
            raise KeyError(token)
        return token_id

    @cached_property
    def vocabulary_size(self) -> int:
        """Number of ids, control tokens included."""
        return int(self._marked.get_vocab_size(with_added_tokens=True))

    @cached_property
    def longest_token_bytes(self) -> int:
        """Bytes of the longest ordinary token: a text of n bytes has at least n divided by this many tokens."""
        return max(len(raw) for token_id, raw in enumerate(self._bytes) if token_id not in self.special_ids)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of control tokens; their text is not part of an answer."""
        return frozenset(token_id for token_id, token in self._marked.get_added_tokens_decoder().items() if token.special)

    def raw(self, token_id: int) -> bytes:
        """Return the bytes of a token; empty for ids outside the vocabulary."""
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    @cached_property
    def _bytes(self) -> list[bytes]:
        table = _byte_of_char()
        added = self._marked.get_added_tokens_decoder()
        size = max(self._marked.get_vocab(with_added_tokens=True).values()) + 1
        result = [b""] * size
        for token, token_id in self._marked.get_vocab(with_added_tokens=True).items():
            if token_id in added:
                result[token_id] = token.encode()
            else:
                result[token_id] = bytes(table[char] for char in token)
        return result


def _read_stop_ids(model_dir: Path) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        file = model_dir / name
        if file.exists():
            ids = json.loads(file.read_text()).get("eos_token_id")
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()
