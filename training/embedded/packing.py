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
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.embedded.families import mixture
from training.embedded.tokenizer import END_OF_TEXT, encode_training

ROW_LENGTHS = (256, 768, 4096)
ROW_WEIGHTS = (0.43, 0.53, 0.04)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One optimizer step's rows."""

    tokens: Tensor
    """int64, (rows, length)."""
    targets: Tensor
    """float, (rows, length): how much it counts that the token is predicted from those before it; mostly 0 or 1."""
    long: bool
    """Whether to use the long rotary factors."""


class Stream(IterableDataset[Batch]):
    """Batches without end, written by as many processes as a loader has; each process has a seed of its own."""

    def __init__(self, tokenizer: Tokenizer, seed: str, tokens_per_step: int, skip: int) -> None:
        """`skip` is the number of batches a resumed run has seen; it changes the seed, nothing is replayed."""
        self.tokenizer, self.seed, self.tokens_per_step, self.skip = tokenizer, seed, tokens_per_step, skip

    def __iter__(self) -> Iterator[Batch]:
        """Yield this process's share."""
        process = get_worker_info()
        rng = Random(f"{self.seed}/{process.id}/{self.skip}" if process else f"{self.seed}/{self.skip}")
        packers = {each: _rows(self.tokenizer, rng.randrange(2**32), each, 0.5 if each > 1000 else 0.0) for each in ROW_LENGTHS}
        while True:
            length = rng.choices(ROW_LENGTHS, ROW_WEIGHTS)[0]
            rows = [next(packers[length]) for _ in range(max(1, self.tokens_per_step // length))]
            tokens = torch.tensor([[token for token, _ in row] for row in rows])
            targets = torch.tensor([[target for _, target in row] for row in rows])
            yield Batch(tokens=tokens, targets=targets, long=rng.random() < 0.07)

    def loaded(self, workers: int) -> Iterator[Batch]:
        """Yield the batches; with `workers` above 0 that many processes write them ahead."""
        return iter(DataLoader(self, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None))


def _rows(tokenizer: Tokenizer, seed: int, length: int, long_share: float) -> Iterator[list[tuple[int, float]]]:
    rng = Random(seed)
    row: list[tuple[int, float]] = []
    open_end = False
    for example in mixture(seed, long_share=long_share):
        pairs = list(encode_training(tokenizer, example.messages))
        if len(pairs) >= length:
            continue
        plain = example.messages[0].role != "system"
        if row and not (open_end and plain and rng.random() < 0.3):
            row.append((END_OF_TEXT, 0.0))
        if len(row) + len(pairs) > length:
            yield (row + [(END_OF_TEXT, 0.0)] * length)[:length]
            row = []
        row += pairs
        open_end = plain
