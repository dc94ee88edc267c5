"""Reads the lexicon of concepts (`concepts.txt`)."""

from pathlib import Path

import numpy as np

from serve_app.routing.features import FIRST_CONCEPT, MAX_CONCEPTS, Hashes, Lexicon, hash_word

CONCEPTS = Path(__file__).with_name("concepts.txt")


def entries() -> dict[int, int]:
    """Return the concept number of every listed word, by the word's hash."""
    found: dict[int, int] = {}
    concept = FIRST_CONCEPT - 1
    for line in CONCEPTS.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            concept += 1
        elif line and not line.startswith("#"):
            for word in line.split():
                for key in _keys(word):
                    found.setdefault(key, concept)
    if concept >= MAX_CONCEPTS:
        raise ValueError(f"{CONCEPTS.name}: at most {MAX_CONCEPTS - FIRST_CONCEPT} concepts, got {concept + 1 - FIRST_CONCEPT}")
    return found


def arrays() -> tuple[Hashes, "np.ndarray[tuple[int], np.dtype[np.uint8]]"]:
    """Return hashes and concepts as the weights file keeps them."""
    found = entries()
    return np.fromiter(found, dtype=np.uint64, count=len(found)), np.fromiter(found.values(), dtype=np.uint8, count=len(found))


def load() -> Lexicon:
    """Return the lexicon as training uses it."""
    return Lexicon.build(*arrays())


def _keys(word: str) -> list[int]:
    stem = word.removesuffix("*")
    if stem != word or any(ord(char) >= 0x3040 for char in stem) or any(0x0E00 <= ord(char) <= 0x0E7F for char in stem):
        return [hash_word(stem, whole=False)]
    return [hash_word(stem, whole=True)]
