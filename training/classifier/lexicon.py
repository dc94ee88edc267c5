"""Reads the lexicon of concepts (`concepts.txt`)."""

import numpy as np

from serve_app.routing.features import FIRST_CONCEPT, MAX_CONCEPTS, Hashes, Lexicon, hash_word
from training.classifier.written import sections


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
