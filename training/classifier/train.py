"""Trains the task classifier and writes its weights: a sparse matrix of the texts, multinomial logistic regression on it.

    python -m training.classifier.train DATA... [--left-out]

DATA are JSONL files of `{"text", "task", "source"}` rows, or folders, of which `train.jsonl` is read. The project's own prompts and
passages with other questions (`generate.py`) are always added. `--left-out` also trains once per source without it and prints the
accuracy on its rows.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.linear_model import LogisticRegression

from serve_app.routing.features import FIRST_CONCEPT, GROUPS, MAX_CONCEPTS, OFFSETS, TABLE_ROWS, Hashes, Lexicon, extract, hash_word
from serve_app.routing.tasks import FORMAT, WEIGHTS
from serve_app.types import Task
from training.classifier.generate import GENERATED, Row, generated_rows, lines, mixed, sections

Floats = NDArray[np.float32]

_SOURCE_BALANCE = 0.15
"""Rows of a source of n rows weigh n to the minus this power, so that no source drowns the others."""
_OWN_WEIGHT = 2.5
"""How much more a row of the project's own counts: it stands for a way to ask, not for one of many alike."""
GAINS = {"chars": 1.2, "words": 0.7, "shapes": 0.5, "concepts": 0.5, "pairs": 0.8, "sequence": 0.8, "asked": 1.4, "measures": 0.3}
"""Weight of each group of features: the larger, the less its weights are held down."""
STRENGTH = 12.0
"""Inverse regularisation."""


def arrays() -> tuple[Hashes, "np.ndarray[tuple[int], np.dtype[np.uint8]]"]:
    """Return every listed word's hash and the number of its concept, as the weights file keeps them."""
    found: dict[int, int] = {}
    numbers: dict[str, int] = {}
    for heading, line in sections("concepts.txt"):
        number = numbers.setdefault(heading, FIRST_CONCEPT + len(numbers))
        for word in line.split():
            stem = word.removesuffix("*")
            unspaced = any(ord(char) >= 0x3040 or 0x0E00 <= ord(char) <= 0x0E7F for char in stem)
            found.setdefault(hash_word(stem, whole=stem == word and not unspaced), number)
    if FIRST_CONCEPT + len(numbers) > MAX_CONCEPTS:
        raise ValueError(f"concepts.txt: at most {MAX_CONCEPTS - FIRST_CONCEPT} concepts, got {len(numbers)}")
    return np.fromiter(found, dtype=np.uint64, count=len(found)), np.fromiter(found.values(), dtype=np.uint8, count=len(found))


def load() -> Lexicon:
    """Return the lexicon as training uses it."""
    return Lexicon.build(*arrays())


def matrix(texts: Sequence[str], lexicon: Lexicon) -> csr_matrix:
    """Return one sparse row per text: each group scaled by one over the root of its count."""
    indices, values, bounds = [], [], [0]
    for text in texts:
        for rows in extract(text, lexicon):
            indices.append(rows)
            values.append(np.full(len(rows), max(1, len(rows)) ** -0.5, dtype=np.float32))
        bounds.append(bounds[-1] + sum(len(rows) for rows in indices[-len(GROUPS) :]))
    result = csr_matrix((np.concatenate(values), np.concatenate(indices), bounds), shape=(len(texts), TABLE_ROWS))
    result.sum_duplicates()
    return result


class Fitted:
    """A model fitted on some rows of `matrix`."""

    def __init__(self, features: csr_matrix, labels: NDArray[np.str_], sources: NDArray[np.str_]) -> None:
        """Fit: labels count the same in sum, and within a label large sources are damped.

        Columns are held down by their group's gain and by their inverse document frequency over the root mean square of all: the
        rarer, the less. Columns that no row uses keep the weight 0.
        """
        sizes = Counter(sources)
        weights = np.array([sizes[each] ** -_SOURCE_BALANCE * (_OWN_WEIGHT if each == GENERATED else 1) for each in sources])
        for label in set(labels):
            weights[labels == label] /= weights[labels == label].sum()
        weights = (weights / weights.mean()).astype(np.float32)
        columns, found = np.unique(features.indices, return_counts=True)
        rarity = np.maximum(np.log(features.shape[0] / (found + 1.0)), 1e-3)
        gains = np.zeros(TABLE_ROWS, dtype=np.float32)
        for group in GROUPS:
            gains[OFFSETS[group] :] = GAINS[group]
        scale = gains[columns] * (rarity / np.sqrt((rarity**2).mean())).astype(np.float32)
        model = LogisticRegression(C=STRENGTH, max_iter=300, tol=1e-4)
        model.fit((features[:, columns] @ diags(scale)).astype(np.float32), labels, sample_weight=weights)
        self.labels: NDArray[np.str_] = model.classes_
        self.bias = model.intercept_.astype(np.float32)
        self.table: Floats = np.zeros((TABLE_ROWS, len(self.labels)), dtype=np.float32)
        self.table[columns] = (model.coef_ * scale).T

    def predict(self, features: csr_matrix) -> NDArray[np.str_]:
        """Return the likeliest label of each row."""
        return self.labels[np.asarray(features @ self.table + self.bias).argmax(axis=1)]


def read_rows(paths: Iterable[Path]) -> Iterator[Row]:
    """Yield the rows of the files; folders stand for their `train.jsonl`."""
    for path in paths:
        file = path / "train.jsonl" if path.is_dir() else path
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield {"text": row["text"], "task": row["task"], "source": row.get("source", file.stem)}


def corpus(paths: Iterable[Path]) -> tuple[list[Row], int]:
    """Return everything to train on, and how many rows of it are given (they come first): those can be measured with, left out."""
    given, own = list(read_rows(paths)), generated_rows()
    passages = [{"text": text, "task": str(Task.GENERAL), "source": GENERATED} for _, _, text in lines("passages")]
    return [*given, *own, *mixed([*given, *own, *passages])], len(given)


def columns(rows: Sequence[Row]) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Return the labels and the sources of the rows."""
    return np.array([row["task"] for row in rows]), np.array([row["source"] for row in rows])


def left_out(rows: Sequence[Row], given: int, features: csr_matrix) -> dict[str, tuple[int, int]]:
    """Train once without each source; return (right, rows) on those of its rows that were given."""
    labels, sources = columns(rows)
    found = {}
    for source in sorted(set(sources[:given])):
        kept = np.flatnonzero(sources != source)
        model = Fitted(features[kept], labels[kept], sources[kept])
        held = np.flatnonzero(sources[:given] == source)
        right = model.predict(features[held]) == labels[held]
        found[str(source)] = (int(right.sum()), len(right))
    return found


def write(path: Path, model: Fitted) -> None:
    """Write the weights, one byte each: a group's largest is 127, its scale is multiplied in when they are read."""
    scales, packed = [], np.zeros((TABLE_ROWS, len(model.labels)), dtype=np.int8)
    for begin, end in pairwise([*(OFFSETS[group] for group in GROUPS), TABLE_ROWS]):
        part = slice(begin, end)
        scales.append(max(float(np.abs(model.table[part]).max()), 1e-9) / 127)
        packed[part] = np.round(model.table[part] / scales[-1])
    words, concepts = arrays()
    labels, factors = np.array(model.labels, dtype="U16"), np.array(scales, dtype=np.float32)
    lexicon = {"words": words, "concepts": concepts}
    np.savez_compressed(path, format=np.int64(FORMAT), labels=labels, table=packed, scales=factors, bias=model.bias, **lexicon)


def print_left_out(found: dict[str, tuple[int, int]]) -> None:
    """Print the accuracy on each source left out, and on all rows."""
    for source, (right, total) in found.items():
        print(f"  without {source:<18} {right / total:6.1%} of {total}")
    rights, totals = (sum(counts) for counts in zip(*found.values(), strict=True))
    mean = float(np.mean([right / total for right, total in found.values()]))
    print(f"  all rows, each by the model without its source: {rights / totals:.1%}; mean of the sources {mean:.1%}")


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train the task classifier.")
    parser.add_argument("data", nargs="+", type=Path, help="JSONL files, or folders that hold a train.jsonl")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--left-out", action="store_true", help="also print the accuracy on each source left out")
    options = parser.parse_args()
    rows, given = corpus(options.data)
    print(f"{len(rows)} rows, {given} of them given: {dict(Counter(row['task'] for row in rows))}", flush=True)
    features = matrix([row["text"] for row in rows], load())
    if options.left_out:
        print_left_out(left_out(rows, given, features))
    write(options.out, Fitted(features, *columns(rows)))
    print(f"{options.out.name}: {options.out.stat().st_size / 2**10:,.0f} KiB")


if __name__ == "__main__":
    main()
