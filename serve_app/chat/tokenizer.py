"""Encodes text as the model's token ids, with or without control tokens in the text.

Knows no chats. `serve_app.chat.vocabulary` knows the bytes of each id. Holds two instances of the Rust tokenizer: one recognises
control tokens in the text, the other encodes their names as ordinary text.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer

from serve_app.chat.vocabulary import TOKENIZER_FILE, TokenizerFile, Vocabulary, read_tokenizer_file, read_vocabulary
from serve_app.errors import ModelUnusable

_ASYNC_ABOVE_CHARS = 4096
"""Shorter texts encode in under a millisecond; longer ones leave the event loop."""
_CALL_CHARS = 50
"""A call costs as much as so many characters."""


class Tokenizer:
    """Byte-level BPE from a `tokenizer.json`."""

    def __init__(self, plain: RustTokenizer, marked: RustTokenizer | None, vocabulary: Vocabulary) -> None:
        """Use `plain` where control tokens in a text are ordinary text, `marked` where they count; None: nowhere."""
        self._plain = plain
        self._marked = marked
        self._chars = 0
        """Characters encoded within the event loop since it last ran."""
        self.vocabulary = vocabulary
        """The bytes of each id."""

    @classmethod
    def load(cls, model_dir: Path, *, control: bool = True) -> "Tokenizer":
        """Read tokenizer.json and the files beside it.

        Without `control` the tokenizer recognises no control tokens in text and takes 100 MB less for 200,000 tokens.

        Raises `ModelUnusable` where these files contradict each other, or the installed library `tokenizers` cannot read them.
        """
        file = read_tokenizer_file(model_dir)
        vocabulary = read_vocabulary(model_dir, file)
        without = {text: token_id for text, token_id in file.added.items() if text not in file.control}
        plain = _load(file, without, control=False)
        return cls(plain, _load(file, file.added, control=True) if control else None, vocabulary)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return token ids; `special` says whether control tokens written in the text count as such."""
        return list(self._select(special).encode(text, add_special_tokens=False).ids)

    async def encode_async(self, text: str, *, special: bool) -> list[int]:
        """Return token ids as `encode` does, but encode long texts outside the event loop, and let it run between short ones."""
        if len(text) <= _ASYNC_ABOVE_CHARS:
            self._chars += len(text) + _CALL_CHARS
            if self._chars > _ASYNC_ABOVE_CHARS:  # a chat of thousands of short turns would stop all streams for seconds
                self._chars = 0
                await asyncio.sleep(0)
            return self.encode(text, special=special)
        return list((await self._select(special).async_encode(text, add_special_tokens=False)).ids)

    def _select(self, special: bool) -> RustTokenizer:
        tokenizer = self._marked if special else self._plain
        if tokenizer is None:
            raise ValueError("this tokenizer was loaded without control tokens")
        return tokenizer

    def token_id(self, token: str) -> int:
        """Return the id of an added token; raises `KeyError` when the vocabulary lacks it."""
        return self.vocabulary.added[token]

    def raw(self, token_id: int) -> bytes:
        """Return the bytes of a token; empty for ids that are none."""
        return self.vocabulary.raw(token_id)


def _load(file: TokenizerFile, added: Mapping[str, int], *, control: bool) -> RustTokenizer:
    """Return the library's tokenizer; raises `ModelUnusable` unless each of its ids is the file's."""
    try:
        tokenizer = RustTokenizer.from_str(file.write_for_library(control=control))
    except Exception as error:  # the library raises no narrower type
        raise ModelUnusable(
            f"the tokenizers library cannot read {TOKENIZER_FILE} ({str(error)[:200]}); fetch the model again"
        ) from error
    expected = {**file.vocab, **added}
    actual = tokenizer.get_vocab(with_added_tokens=True)
    if actual != expected:
        text = next(text for text in (*expected, *actual) if expected.get(text) != actual.get(text))
        raise ModelUnusable(
            f"{TOKENIZER_FILE} gives `{text[:80]}` the id {expected.get(text)}, but the installed tokenizers library gives it "
            f"{actual.get(text)}"
        )
    return tokenizer
