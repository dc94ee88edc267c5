"""Reads a model's vocabulary, the bytes of each token id, from the model's files, which must agree with each other.

The one place that knows ids. Ids are the file's own numbers: they may have gaps, so the number of tokens does not give the
highest id, and the model's vocab_size may be above both. Knows no chats and encodes no text.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from serve_app.chat.formats.names import find_format_tokens
from serve_app.errors import ModelUnusable

TOKENIZER_FILE = "tokenizer.json"
_ADDED = "added_tokens.json"
_SETTINGS = "tokenizer_config.json"
_ONLY = "only byte-level BPE can be served"


@dataclass(frozen=True, slots=True)
class AddedFlags:
    """How an added token is found in text."""

    lstrip: bool = False
    """Whether white space before it is part of it."""
    rstrip: bool = False
    """Whether white space after it is part of it."""
    single_word: bool = False
    """Whether it counts only where no letter or digit stands beside it."""


@dataclass(frozen=True)
class Vocabulary:
    """Every id from 0 to `size` - 1."""

    tokens: tuple[bytes, ...]
    """Bytes by id; the bytes of an added token are its text, and an id without a token has none."""
    added: Mapping[str, int]
    """Ids of the added tokens by their text."""
    control_ids: frozenset[int]
    """Added tokens that the chat format names or the file flags as special; their text is not part of an answer."""
    stop_ids: tuple[int, ...]
    """The model's own end tokens, from its generation config."""
    added_flags: Mapping[str, AddedFlags] = field(default_factory=dict)
    """Flags of the added tokens that have any, by their text."""
    prefix_ids: tuple[int, ...] = ()
    """Tokens that the tokenizer's file puts before a text, such as the one that begins a text."""

    @property
    def size(self) -> int:
        """The model's vocab_size, the width of its logits: ids are below it."""
        return len(self.tokens)

    def raw(self, token_id: int) -> bytes:
        """Return the bytes of a token; empty for an id without one."""
        return self.tokens[token_id] if 0 <= token_id < len(self.tokens) else b""

    @cached_property
    def longest_token_bytes(self) -> int:
        """Length in bytes of the longest ordinary token: a text of n bytes has at least n divided by this many tokens."""
        return max(len(raw) for token_id, raw in enumerate(self.tokens) if token_id not in self.control_ids)


@dataclass(frozen=True)
class TokenizerFile:
    """A checked `tokenizer.json`."""

    content: Mapping[str, Any]
    """The parsed file."""
    vocab: Mapping[str, int]
    """Ids of ordinary tokens by the file's spelling of their bytes, without those in `added`."""
    added: Mapping[str, int]
    """Ids of added tokens by their text."""
    control: frozenset[str]
    """Texts of the control tokens among `added`."""

    def write_for_library(self, *, control: bool) -> str:
        """Return JSON from which every version of the library `tokenizers` makes a tokenizer with this file's ids.

        Several versions renumber added tokens that `model.vocab` lacks, so the result lists them there. Without `control` the names
        of control tokens are ordinary text.
        """
        kept = {text: token_id for text, token_id in self.added.items() if control or text not in self.control}
        entries = [entry for entry in self.content["added_tokens"] if entry["content"] in kept]
        model = {**self.content["model"], "vocab": {**self.vocab, **kept}}
        return json.dumps({**self.content, "added_tokens": entries, "model": model}, ensure_ascii=False)

    def fill_gaps(self, size: int) -> str:
        """Return JSON in which every id below `size` is a token, for readers that confuse the number of tokens with the highest id.

        Ids without a token become special tokens that no text contains.
        """
        used = {*self.vocab.values(), *self.added.values()}
        fillers = {f"<|no token {token_id}|>": token_id for token_id in range(size) if token_id not in used}
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        entries = [{**entry, "special": entry["content"] in self.control} for entry in self.content["added_tokens"]]
        entries += [{"id": token_id, "content": text, **flags} for text, token_id in fillers.items()]
        model = {**self.content["model"], "vocab": {**self.vocab, **self.added, **fillers}}
        ordered = sorted(entries, key=lambda entry: int(entry["id"]))
        return json.dumps({**self.content, "added_tokens": ordered, "model": model}, ensure_ascii=False)


def read_tokenizer_file(folder: Path) -> TokenizerFile:
    """Read the tokenizer.json of a model's `folder`.

    Raises `ModelUnusable` naming file, token and ids where the files contradict each other, and for another kind of tokenizer
    than byte-level BPE.
    """
    content = read_json(folder, TOKENIZER_FILE)
    if content is None:
        if (folder / "tokenizer.model").exists():
            raise ModelUnusable(f"the model's folder has a SentencePiece tokenizer.model and no {TOKENIZER_FILE}; {_ONLY}")
        raise ModelUnusable(f"the model's folder has no {TOKENIZER_FILE}; fetch the model again")
    _require_byte_level(content)
    try:
        model, entries = content["model"], [*content["added_tokens"]]
        written = {str(text): int(token_id) for text, token_id in model["vocab"].items()}
        added = {str(entry["content"]): int(entry["id"]) for entry in entries}
        special = {str(entry["content"]) for entry in entries if entry.get("special")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelUnusable(f"{TOKENIZER_FILE} does not have the form of a tokenizer; fetch the model again") from error
    _require_one_id_each(entries, written, added)
    _require_agreement(folder, added)
    vocab = {text: token_id for text, token_id in written.items() if text not in added}
    named = find_format_tokens(added).control
    return TokenizerFile(content, vocab, added, frozenset(text for text in added if text in special or text in named))


def _require_byte_level(content: Mapping[str, Any]) -> None:
    """Raise `ModelUnusable` naming the kind of tokenizer, unless it is byte-level BPE."""
    model = content.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind is None:
        raise ModelUnusable(f"{TOKENIZER_FILE} does not have the form of a tokenizer; fetch the model again")
    if kind != "BPE":
        raise ModelUnusable(f"{TOKENIZER_FILE} holds a tokenizer of the kind {str(kind)[:40]}; {_ONLY}")
    if model.get("byte_fallback"):
        raise ModelUnusable(f"{TOKENIZER_FILE} holds a BPE tokenizer with byte fallback, as SentencePiece makes them; {_ONLY}")
    if '"ByteLevel"' not in json.dumps([content.get("pre_tokenizer"), content.get("decoder")]):
        raise ModelUnusable(f"{TOKENIZER_FILE} holds a BPE tokenizer of characters, without the step ByteLevel; {_ONLY}")


def read_vocabulary(folder: Path, file: TokenizerFile | None = None) -> Vocabulary:
    """Return the vocabulary of a model's `folder`, whose tokenizer file may have been read already.

    Raises `ModelUnusable` as `read_tokenizer_file` does, and where an id is not below config.json's vocab_size or a configured end
    token does not exist.
    """
    file = file or read_tokenizer_file(folder)
    config = read_json(folder, "config.json") or {}
    by_id = dict(_decode_vocab(file.vocab)) | {token_id: text.encode() for text, token_id in file.added.items()}
    highest = max(by_id)
    size = config.get("vocab_size", highest + 1)
    if type(size) is not int or highest >= size:
        raise ModelUnusable(
            f"{TOKENIZER_FILE} gives {_show_token(by_id[highest])} the id {highest}, but config.json says vocab_size: {size}, and "
            "ids must be below it; fetch the model again"
        )
    stop_ids: tuple[int, ...] = ()
    for name in ("config.json", "generation_config.json"):
        written = (read_json(folder, name) or {}).get("eos_token_id")
        ids = _list_ids(written)
        _require_tokens(ids, by_id, f"{name} says eos_token_id: {written}")
        stop_ids = ids or stop_ids
    if not stop_ids:
        raise ModelUnusable("neither generation_config.json nor config.json names an eos_token_id; fetch the model again")
    control_ids = frozenset(file.added[text] for text in file.control)
    tokens = tuple(by_id.get(token_id, b"") for token_id in range(size))
    flags = {
        str(entry["content"]): flags for entry in file.content["added_tokens"] if (flags := _read_flags(entry)) != AddedFlags()
    }
    return Vocabulary(tokens, file.added, control_ids, stop_ids, flags, _read_prefix(file))


def _read_flags(entry: Mapping[str, Any]) -> AddedFlags:
    return AddedFlags(*(bool(entry.get(name)) for name in ("lstrip", "rstrip", "single_word")))


def _read_prefix(file: TokenizerFile) -> tuple[int, ...]:
    """Return the tokens before the text in the post-processor's template; raises `ModelUnusable` for one that does not exist."""
    try:
        names = _list_prefix(file.content.get("post_processor") or {})
    except (TypeError, AttributeError) as error:
        raise ModelUnusable(f"{TOKENIZER_FILE} has a post_processor of no known form; fetch the model again") from error
    unknown = [name for name in names if name not in file.added]
    if unknown:
        raise ModelUnusable(
            f"{TOKENIZER_FILE} begins texts with {_show_token(unknown[0])}, which is no token; fetch the model again"
        )
    return tuple(file.added[name] for name in names)


def _list_prefix(step: Mapping[str, Any]) -> list[str]:
    for part in [step, *(step.get("processors") or ())]:
        if part.get("type") == "TemplateProcessing":
            before = takewhile(lambda piece: "Sequence" not in piece, part.get("single") or ())
            return [str(piece.get("SpecialToken", {}).get("id")) for piece in before]
    return []


def _require_one_id_each(entries: list[Any], vocab: Mapping[str, int], added: Mapping[str, int]) -> None:
    """Raise `ModelUnusable` where tokenizer.json gives a token two ids or an id to two tokens."""
    by_id: dict[int, str] = {token_id: text for text, token_id in vocab.items()}
    if len(by_id) != len(vocab) or min(by_id, default=0) < 0:
        raise ModelUnusable(f"{TOKENIZER_FILE} gives one id to two tokens of its vocabulary; fetch the model again")
    for entry in entries:
        text, token_id = str(entry["content"]), int(entry["id"])
        other = vocab.get(text, added[text])
        if other != token_id:
            raise ModelUnusable(
                f"{TOKENIZER_FILE} gives {_show_token(text)} the id {token_id} and also {other}; fetch the model again"
            )
        if by_id.setdefault(token_id, text) != text or token_id < 0:
            holder = _show_token(by_id[token_id])
            raise ModelUnusable(
                f"{TOKENIZER_FILE} gives {_show_token(text)} the id {token_id}, which is that of {holder}; fetch the model again"
            )


def _require_agreement(folder: Path, added: Mapping[str, int]) -> None:
    """Raise `ModelUnusable` where a file beside tokenizer.json gives one of its added tokens another id."""
    settings = read_json(folder, _SETTINGS) or {}
    decoder = settings.get("added_tokens_decoder") or {}
    try:
        claims = [(_SETTINGS, str(entry["content"]), int(token_id)) for token_id, entry in decoder.items()]
        claims += [(_ADDED, str(text), int(token_id)) for text, token_id in (read_json(folder, _ADDED) or {}).items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelUnusable(f"{_SETTINGS} or {_ADDED} does not list added tokens with their ids; fetch the model again") from error
    for name, text, token_id in claims:
        if text in added and added[text] != token_id:
            raise ModelUnusable(
                f"{TOKENIZER_FILE} gives {_show_token(text)} the id {added[text]}, but {name} the id {token_id}; "
                "fetch the model again"
            )


def _require_tokens(ids: tuple[int, ...], known: Collection[int], claim: str) -> None:
    for token_id in ids:
        if token_id not in known:
            raise ModelUnusable(f"{claim}, but {TOKENIZER_FILE} has no token with the id {token_id}; fetch the model again")


def _list_ids(value: object) -> tuple[int, ...]:
    """Return the ids in a configuration's field, which holds an id, a list of ids or nothing."""
    return tuple(entry for entry in (value if isinstance(value, list) else [value]) if type(entry) is int)


def _decode_vocab(vocab: Mapping[str, int]) -> Iterator[tuple[int, bytes]]:
    """Yield id and bytes of every ordinary token; raises `ModelUnusable` for a spelling that is not byte-level."""
    table = map_chars_to_bytes()
    try:
        for text, token_id in vocab.items():
            yield token_id, bytes([table[char] for char in text])
    except KeyError as error:
        raise ModelUnusable(
            f"{TOKENIZER_FILE} spells tokens otherwise than byte-level BPE does, and only that can be served"
        ) from error


def map_chars_to_bytes() -> dict[str, int]:
    """Return the inverse of GPT-2's byte-to-character table, in which byte-level BPE vocabularies are written."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def _show_token(token: str | bytes) -> str:
    text = token.decode("utf-8", "replace") if isinstance(token, bytes) else token
    return f"`{text[:80]}`"


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the JSON object in a file of the folder, None without such a file; raises `ModelUnusable` for any other content."""
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnusable(f"{name} cannot be read as JSON; fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelUnusable(f"{name} is not a JSON object; fetch the model again")
    return value
