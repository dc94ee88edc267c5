"""Fits the linear model: the lexicon (`concepts.txt`), texts to a sparse matrix, multinomial logistic regression on it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.linear_model import LogisticRegression

from serve_app.routing.features import FIRST_CONCEPT, GROUPS, MAX_CONCEPTS, OFFSETS, TABLE_ROWS, Hashes, Lexicon, extract, hash_word
from training.classifier.generate import sections

Floats = NDArray[np.float32]

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


def _rarity(features: csr_matrix) -> Floats:
    """Return each column's inverse document frequency over the root mean square of all: the rarer, the less it is held down."""
    rows, found = features.shape[0], np.bincount(features.indices, minlength=features.shape[1])
    rarity = np.maximum(np.log(rows / (found + 1.0)), 1e-3)
    return np.asarray(rarity / np.sqrt((rarity**2).mean()), dtype=np.float32)


class Fitted:
    """A model fitted on some rows of `matrix`."""

    def __init__(self, features: csr_matrix, labels: NDArray[np.str_], weights: Floats) -> None:
        """Fit; columns that no row uses keep the weight 0."""
        columns = np.unique(features.indices)
        used = features[:, columns]
        gains = np.zeros(TABLE_ROWS, dtype=np.float32)
        for group in GROUPS:
            gains[OFFSETS[group] :] = GAINS[group]
        scale = gains[columns] * _rarity(used)
        model = LogisticRegression(C=STRENGTH, max_iter=300, tol=1e-4)
        model.fit((used @ diags(scale)).astype(np.float32), labels, sample_weight=weights)
        self.labels: NDArray[np.str_] = model.classes_
        self.bias = model.intercept_.astype(np.float32)
        self.table: Floats = np.zeros((TABLE_ROWS, len(self.labels)), dtype=np.float32)
        self.table[columns] = (model.coef_ * scale).T

    def predict(self, features: csr_matrix) -> NDArray[np.str_]:
        """Return the likeliest label of each row."""
        return self.labels[np.asarray(features @ self.table + self.bias).argmax(axis=1)]
