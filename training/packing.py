"""Turns the stream of examples into batches of token rows.

Several conversations share a row, mostly parted by `<|endoftext|>`; no attention mask parts them, so the model also
learns to leave earlier text alone. Knows no family.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.conversation import Example
from training.families import mixture
from training.tokenizer import END_OF_TEXT, encode_training

ROW_LENGTHS = (256, 768, 3072)
ROW_WEIGHTS = (0.46, 0.52, 0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One optimizer step's rows."""

    tokens: Tensor
    """int64, (rows, length)."""
    targets: Tensor
    """float, (rows, length): how much it counts that the token is predicted from those before it; mostly 0 or 1."""
    long: bool
    """Whether to use the long rotary factors."""


def batches(tokenizer: Tokenizer, seed: str, tokens_per_step: int, skip: int = 0) -> Iterator[Batch]:
    """Yield batches for ever.

    `skip` is the number of batches a resumed run has seen; it changes the seed, nothing is replayed.
    """
    rng = Random(f"{seed}/{skip}")
    packers = {length: _rows(tokenizer, rng.randrange(2**32), length, 0.5 if length > 1000 else 0.0) for length in ROW_LENGTHS}
    while True:
        length = rng.choices(ROW_LENGTHS, ROW_WEIGHTS)[0]
        rows = [next(packers[length]) for _ in range(max(1, tokens_per_step // length))]
        tokens = torch.tensor([[token for token, _ in row] for row in rows])
        targets = torch.tensor([[target for _, target in row] for row in rows])
        yield Batch(tokens=tokens, targets=targets, long=rng.random() < 0.07)


def _rows(tokenizer: Tokenizer, seed: int, length: int, long_share: float) -> Iterator[list[tuple[int, float]]]:
    rng = Random(seed)
    row: list[tuple[int, float]] = []
    open_end = False
    for example in mixture(seed, long_share=long_share):
        pairs = list(encode_training(tokenizer, example.messages))
        if len(pairs) >= length:
            continue
        plain = _is_plain(example)
        if row and not (open_end and plain and rng.random() < 0.3):
            row.append((END_OF_TEXT, 0.0))
        if len(row) + len(pairs) > length:
            yield (row + [(END_OF_TEXT, 0.0)] * length)[:length]
            row = []
        row += pairs
        open_end = plain


def _is_plain(example: Example) -> bool:
    return example.messages[0].role != "system"
