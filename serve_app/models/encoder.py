"""A served embedding model: its tokenizer and its facts. Knows no group, engine or dialect.

Texts become token ids here, as for models that generate. The special tokens of the model come from its tokenizer alone: a text
that spells one is ordinary text.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer

from serve_app.chat.vocabulary import TOKENIZER_FILE
from serve_app.config import ModelSettings
from serve_app.conversation import Chat
from serve_app.encoding import Ids
from serve_app.errors import ContextOverflow, InvalidRequest, ModelUnusable
from serve_app.files.encoder_folder import EncoderFolder
from serve_app.models.encoder_export.architecture import read_shape
from serve_app.models.weights import Weights

_ASYNC_ABOVE_CHARS = 4096
"""Shorter texts encode in about a millisecond; longer ones leave the event loop."""


@dataclass(frozen=True, slots=True)
class EncoderModel:
    """One embedding model under its own name."""

    name: str
    settings: ModelSettings
    about: EncoderFolder
    weights: Weights
    tokenizer: RustTokenizer
    opening: Ids
    """Special tokens that the tokenizer puts before a text."""
    closing: Ids
    """Special tokens that it puts after a text."""

    @classmethod
    def load(cls, name: str, settings: ModelSettings, folder: Path) -> "EncoderModel":
        """Read tokenizer and configuration in `folder`; raises `ModelUnusable` where they cannot be used."""
        about = EncoderFolder.read(folder)
        tokenizer = _load_tokenizer(folder, about)
        opening, closing = _find_special_ids(tokenizer)
        weights = Weights.read_encoder(folder, _count_weights(about))
        return cls(name, settings, about, weights, tokenizer, opening, closing)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it can do, in Ollama's words."""
        return ("embedding",)

    @property
    def go_template(self) -> str:
        """It has no prompt template."""
        return ""

    def count_least(self, chat: Chat) -> int:
        """Return 0: it takes no chats."""
        return 0

    async def tokenize(self, inputs: Sequence[str | Ids], limit: int, *, truncate: bool) -> tuple[Ids, ...]:
        """Return the token ids of each input, special tokens included; ids of a client get them unless they begin with them.

        Inputs of more than `limit` tokens are cut with `truncate`, their last special tokens kept; otherwise they raise
        `ContextOverflow`. Raises `InvalidRequest` for ids outside the vocabulary.
        """
        texts = [self._prepare(each) for each in inputs if isinstance(each, str)]
        is_short = sum(map(len, texts)) <= _ASYNC_ABOVE_CHARS
        encoded = iter(self._encode(texts) if is_short else await asyncio.to_thread(self._encode, texts))
        found = []
        for at, given in enumerate(inputs):
            ids = next(encoded) if isinstance(given, str) else self._complete(at, given)
            if len(ids) > limit:
                if not truncate:
                    raise ContextOverflow(
                        f"This model's maximum input length is {limit} tokens, but input {at} has {len(ids)} tokens, special "
                        "tokens included. Shorten or split it.",
                        param="input",
                    )
                ids = (*ids[: limit - len(self.closing)], *self.closing)
            found.append(ids)
        return tuple(found)

    def _prepare(self, text: str) -> str:
        """Return a text as the model's library gives it to the tokenizer."""
        text = f"{self.about.prefix}{text}".strip()
        return text.lower() if self.about.lowercase else text

    def _encode(self, texts: list[str]) -> list[Ids]:
        return [tuple(each.ids) for each in self.tokenizer.encode_batch_fast(texts)]

    def _complete(self, at: int, ids: Ids) -> Ids:
        """Return a client's token ids with special tokens, as a text of these tokens would have them."""
        self._require_known(at, ids)
        has_special = self.opening and ids[: len(self.opening)] == self.opening
        return ids if has_special else (*self.opening, *ids, *self.closing)

    def _require_known(self, at: int, ids: Ids) -> None:
        if min(ids) < 0 or max(ids) >= self.about.vocabulary:  # no loop in Python: a request may have a million ids
            wrong = next(token for token in ids if not 0 <= token < self.about.vocabulary)
            raise InvalidRequest(
                f"input {at} has the token id {wrong if abs(wrong) < 10**18 else 'of a large number'}; this model's ids are 0 to "
                f"{self.about.vocabulary - 1}. Ids of another model's tokenizer mean other texts here: send the text itself.",
                param="input",
            )


def _load_tokenizer(folder: Path, about: EncoderFolder) -> RustTokenizer:
    try:
        tokenizer = RustTokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception as error:  # the library raises no narrower type
        raise ModelUnusable(
            f"the tokenizers library cannot read {TOKENIZER_FILE} ({str(error)[:200]}); fetch the model again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= about.vocabulary:
        raise ModelUnusable(
            f"{TOKENIZER_FILE} has the id {highest}, but config.json says vocab_size: {about.vocabulary}, and ids must be below it"
        )
    return tokenizer


def _find_special_ids(tokenizer: RustTokenizer) -> tuple[Ids, Ids]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    read = tokenizer.encode("a")
    text = [at for at, special in enumerate(read.special_tokens_mask) if not special] or [len(read.ids)]
    return tuple(read.ids[: text[0]]), tuple(read.ids[text[-1] + 1 :])


def _count_weights(about: EncoderFolder) -> int:
    """Return the number of weights; for a model that the export does not know, those of its embeddings."""
    try:
        return read_shape(about.config).weights
    except ModelUnusable:
        return about.vocabulary * about.dimensions
