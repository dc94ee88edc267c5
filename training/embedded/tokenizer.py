"""Trains and loads the tokenizer: byte-level BPE behind the gpt-4o splitting rule, every digit its own token.

No merge holds two digits because the training text reaches the trainer with every run of digits cut apart, so such a
pair is never counted. Knows no model.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Encoding, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from training.embedded.conversation import Message

_FILES = Path(__file__).with_name("files")
SPECIAL_TOKENS = tuple((_FILES / "special_tokens.txt").read_text().split())
"""Ids 0 to 9, in this order."""
END_OF_TEXT, END = 0, 1
VOCABULARY_SIZE = 2048
SPLIT_PATTERN = "|".join((_FILES / "split_patterns.txt").read_text().splitlines())
"""The splitting rule of the o200k (gpt-4o) vocabulary, which Phi-4-mini uses."""
CHAT_TEMPLATE = "".join((_FILES / "chat_template.jinja").read_text().splitlines())
"""Phi-4-mini's prompt form: tools travel inside the system message, as a JSON string."""
FIRST_WEIGHT = 4.0
"""The first token of an answer decides what kind of answer it is: to call a tool or not, yes or no."""
NAME_WEIGHT = 3.0
"""The name in a call decides which tool it is."""
_NAMES = re.compile(r'{"name": "([^"]*)", "arguments"')


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> Tokenizer:
    """Train on plain texts (no markers inside) and return a tokenizer with ids 0..vocabulary_size-1."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, digits, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    options = {"vocab_size": vocabulary_size, "special_tokens": list(SPECIAL_TOKENS), "min_frequency": 2, "show_progress": False}
    trainer = trainers.BpeTrainer(initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), **options)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if (size := tokenizer.get_vocab_size()) != vocabulary_size:
        raise ValueError(f"the text yields only {size} tokens, not {vocabulary_size}: give more text")
    # Byte-level stand-ins such as the superscripts are single characters, so two "digits" mean a real merge.
    if joined := [token for token in tokenizer.get_vocab() if sum(character.isdigit() for character in token) > 1]:
        raise ValueError(f"tokens that join digits: {joined[:5]}")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((_FILES / "tokenizer_config.json").read_text())
    config |= {"model_max_length": context_length, "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def encode_prompt(tokenizer: Tokenizer, messages: Iterable[Message]) -> list[int]:
    """Encode messages up to and including the assistant's marker."""
    ids: list[int] = []
    for message in messages:
        ids += [_marker(message.role), *_encode(tokenizer, message).ids, END]
    return [*ids, _marker("assistant")]


def encode_training(tokenizer: Tokenizer, messages: Iterable[Message]) -> Iterator[tuple[int, float]]:
    """Yield every token with its weight as a target: the assistant's text and its `<|end|>` are targets, nothing else is."""
    for message in messages:
        yield _marker(message.role), 0.0
        body = _encode(tokenizer, message)
        yield from zip([*body.ids, END], _weights(message, body.offsets), strict=True)


def _weights(message: Message, spans: list[tuple[int, int]]) -> list[float]:
    """Return the weights of a message's tokens, which stand at `spans` of its text, and of the `<|end|>` after them."""
    if message.role != "assistant":
        return [0.0] * (len(spans) + 1)
    names = [found.span(1) for found in _NAMES.finditer(message.content)]
    named = [any(begin < last and first < end for first, last in names) for begin, end in spans]
    return [FIRST_WEIGHT, *(NAME_WEIGHT if each else 1.0 for each in (*named, False)[1:])]


def _marker(role: str) -> int:
    return SPECIAL_TOKENS.index(f"<|{role}|>")


def _encode(tokenizer: Tokenizer, message: Message) -> Encoding:
    text = message.content + (f"<|tool|>{message.tools}<|/tool|>" if message.tools else "")
    return tokenizer.encode(text, add_special_tokens=False)
