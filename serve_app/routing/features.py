"""Turns a prompt's text into sparse features for the task classifier. Pure numpy; training and serving call the same function.

Six groups of features, each a set of rows of one weight table:

- `chars`: hashed character 2- to 4-grams, which survive typos;
- `words`: hashed words and pairs of neighbours;
- `shapes`: n-grams of the text with every run of letters written `a` and every number `0`, so that "7 x 8 = ?" or a call in code
  look alike in all languages;
- `concepts`: what a word means to the classifier (calculate, function, premise, poem...) whatever its language, from a lexicon
  that is stored with the weights: each concept, each pair that occurs together, each pair in sequence;
- `asked`: the words and concepts of the one sentence that asks: the last that ends in a question mark, else the first;
- `measures`: buckets of length, share of digits, operators, brackets and lines.

Hashes of all spans come from one array of prefix sums: sum(c[i] * P**i) mod 2**64 over a span, divided by P**start, is the same
wherever the span stands. So no Python loop runs over characters or words.
"""

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

READ_CHARS = 1200
"""Only this much of a text is read: two thirds from its beginning, the rest from its end."""

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_HASHED_BITS = {"chars": 16, "words": 15, "shapes": 13, "asked": 15}
MAX_CONCEPTS = 128
_MEASURE_ROWS = 256
GROUPS = ("chars", "words", "shapes", "concepts", "asked", "measures")
_SIZES = {name: 1 << bits for name, bits in _HASHED_BITS.items()} | {
    "concepts": MAX_CONCEPTS + 2 * MAX_CONCEPTS * MAX_CONCEPTS,
    "measures": _MEASURE_ROWS,
}
OFFSETS = {name: sum(_SIZES[before] for before in GROUPS[:at]) for at, name in enumerate(GROUPS)}
TABLE_ROWS = sum(_SIZES.values())
"""Rows of the weight table."""

_SPACE, _LETTER, _IDEOGRAPH, _DIGIT, _OTHER = range(5)
_PRIME = 0x9E3779B97F4A7C15
_LIMIT = READ_CHARS * 3 + 64  # decomposition can lengthen a text; what is longer still is cut
_MAX_STEM = 12
_TABLE_BITS = 20
_WHOLE = np.uint64(0xD6E8FEB86659FD93)
"""Marks the hash of a word that is listed whole, so that a stem does not match it."""
_NUMBER, _START = 1, 2
FIRST_CONCEPT = 3
"""Concepts below are not words: a number, and the beginning of the text."""


def _powers(base: int) -> Hashes:
    values, value = [], 1
    for _ in range(_LIMIT + 1):
        values.append(value)
        value = value * base % 2**64
    return np.array(values, dtype=np.uint64)


_POWERS = _powers(_PRIME)
_INVERSES = _powers(pow(_PRIME, -1, 2**64))


def _classes() -> NDArray[np.uint8]:
    """Return the class of every character of the basic plane; what lies above counts as `_OTHER`."""
    table = np.full(0x10000, _OTHER, dtype=np.uint8)
    for code in range(0x10000):
        category = unicodedata.category(chr(code))
        if category[0] in "LM":
            table[code] = _LETTER
        elif category == "Nd":
            table[code] = _DIGIT
        elif category[0] in "ZC":
            table[code] = _SPACE
    for first, last in ((0x0E00, 0x0E7F), (0x3040, 0x30FF), (0x3400, 0x9FFF)):  # thai, kana, han: written without spaces
        letters = table[first : last + 1]
        letters[letters == _LETTER] = _IDEOGRAPH
    return table


_CLASS = _classes()
_LATIN_DIGIT = np.uint32(ord("0"))
_NEWLINE = np.uint32(ord("\n"))
_PUNCTUATION = str.maketrans("。、「」『』（）｛｝“”„«»‘’−–—÷⋅·،؟।", '.,""""(){}"""""\'\'---/**,?.')
_OPERATORS = np.zeros(128, dtype=bool)
_OPERATORS[[ord(char) for char in "+-*/=^%<>"]] = True
_BRACKETS = np.zeros(128, dtype=bool)
_BRACKETS[[ord(char) for char in "(){}[];_\\$#`|&"]] = True
_ENDS = np.zeros(128, dtype=bool)
_ENDS[[ord(char) for char in ".!?\n"]] = True
_LEAST_SENTENCE = 12
"""A first sentence shorter than this (a greeting, an abbreviation) does not end."""
_GAP = re.compile(r"\(\s*\)")
_SALTS = np.arange(1, 64, dtype=np.uint64) * np.uint64(0xA24BAED4963EE407)
_MIX = np.uint64(0xFF51AFD7ED558CCD)


@dataclass(frozen=True, slots=True)
class Spans:
    """A folded text ready for span hashes: codes, class and hash prefix sums."""

    codes: NDArray[np.uint32]
    classes: NDArray[np.uint8]
    sums: Hashes

    def hashes(self, starts: Rows, ends: Rows) -> Hashes:
        """Return the hash of each span; equal texts have equal hashes wherever they stand."""
        return (self.sums[ends] - self.sums[starts]) * _INVERSES[starts]


def fold(text: str) -> str:
    """Return the part of `text` that is read, without case, accents or typographic variants."""
    if len(text) > READ_CHARS:
        head = READ_CHARS * 2 // 3
        text = text[:head] + "\n" + text[head - READ_CHARS :]
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.translate(_PUNCTUATION))
    if "(" in text:
        text = _GAP.sub("?", text)  # how examinations write the place of the answer
    return text.casefold()


def read(text: str) -> Spans:
    """Return the spans of `text`: digits are one digit, accents are gone, blanks are single."""
    codes = np.frombuffer(fold(text).encode("utf-32-le", "replace"), dtype=np.uint32)
    codes = np.minimum(codes[: _LIMIT - 1], 0xFFFF)
    codes = codes[(codes < 0x300) | (codes > 0x36F)]
    classes = _CLASS[codes]
    blank = classes == _SPACE
    keep = ~blank
    keep[1:] |= ~blank[:-1]
    lines = codes == _NEWLINE
    codes = np.where(classes == _DIGIT, _LATIN_DIGIT, np.where(blank & ~lines, np.uint32(32), codes))[keep]
    classes = classes[keep]
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(codes * _POWERS[: len(codes)], out=sums[1:])
    return Spans(codes, classes, sums)


def hash_word(word: str, *, whole: bool) -> int:
    """Return the hash under which a stem, or a whole word, is looked up; the word is folded as texts are."""
    spans = read(word)
    value = np.uint64(spans.sums[-1])
    return int(value ^ _WHOLE) if whole else int(value)


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Concept numbers by word hash."""

    table: NDArray[np.uint8]

    @classmethod
    def build(cls, hashes: Hashes, concepts: NDArray[np.uint8]) -> "Lexicon":
        """Return the lexicon of words that hash to `hashes`."""
        table = np.zeros(1 << _TABLE_BITS, dtype=np.uint8)
        table[_slot(hashes)] = concepts
        return cls(table)

    def find(self, spans: Spans, starts: Rows, ends: Rows) -> Rows:
        """Return the concept of each word at `starts`, 0 for none; the longest listed stem wins."""
        if not len(starts):
            return np.zeros(0, dtype=np.int64)
        stops = starts[:, None] + np.arange(_MAX_STEM + 1)
        stops[:, 0] = ends  # column 0 is the whole word
        fits = stops <= ends[:, None]
        np.minimum(stops, ends[:, None], out=stops)
        hashes = spans.hashes(starts[:, None], stops)
        hashes[:, 0] ^= _WHOLE
        found = self.table[_slot(hashes)] * fits
        longest = (found[:, 1:] > 0)[:, ::-1].argmax(axis=1)
        stems = found[np.arange(len(found)), _MAX_STEM - longest]
        merged = np.where(found[:, 0] > 0, found[:, 0], stems).astype(np.int64)
        numbers = spans.classes[starts] == _DIGIT
        merged[numbers] = _NUMBER
        return merged

    @staticmethod
    def thin(concepts: Rows) -> Rows:
        """Return the concepts in order without gaps, a run of the same one as one."""
        concepts = concepts[concepts > 0]
        again = np.zeros(len(concepts), dtype=bool)
        again[1:] = concepts[1:] == concepts[:-1]
        kept: Rows = concepts[~again]
        return kept


def _slot(hashes: Hashes) -> NDArray[np.uint64]:
    return (hashes * _MIX) >> np.uint64(64 - _TABLE_BITS)


def _rows(hashes: Hashes, salt: int, group: str) -> Rows:
    bits = np.uint64(64 - _HASHED_BITS[group])
    rows: Rows = (((hashes + _SALTS[salt]) * _MIX) >> bits).astype(np.int64) + OFFSETS[group]
    return rows


def _chars(spans: Spans) -> Rows:
    starts = np.arange(len(spans.codes))
    stops = starts[:, None] + np.arange(2, 5)
    inside = stops <= len(spans.codes)
    hashes = spans.hashes(starts[:, None], np.minimum(stops, len(spans.codes)))
    return _rows(hashes[inside], 0, "chars")


def _words(hashes: Hashes) -> Rows:
    pairs = hashes[:-1] * np.uint64(3) + hashes[1:]
    return np.concatenate((_rows(hashes, 1, "words"), _rows(pairs, 2, "words")))


def _shapes(spans: Spans) -> Rows:
    letters = (spans.classes == _LETTER) | (spans.classes == _IDEOGRAPH)
    shape = np.where(letters, np.uint32(ord("a")), spans.codes)
    shape = shape[(spans.classes != _SPACE) | (spans.codes == _NEWLINE)]
    again = np.zeros(len(shape), dtype=bool)
    again[1:] = (shape[1:] == shape[:-1]) & ((shape[1:] == ord("a")) | (shape[1:] == ord("0")))
    value = shape[~again].astype(np.uint64)
    grams, rows = value, [_rows(value, 3, "shapes")]
    for order in range(2, 6):
        if len(value) < order:
            break
        grams = grams[:-1] * np.uint64(_PRIME) + value[order - 1 :]
        rows.append(_rows(grams, 2 + order, "shapes"))
    return np.concatenate(rows)


def _concepts(stream: Rows) -> Rows:
    sequence = np.concatenate(([_START], stream))
    present = np.unique(stream)
    pairs = (present[:, None] * MAX_CONCEPTS + present)[np.triu_indices(len(present), 1)]
    square = MAX_CONCEPTS * MAX_CONCEPTS
    neighbours = np.unique(sequence[:-1] * MAX_CONCEPTS + sequence[1:])
    offset = OFFSETS["concepts"]
    return np.concatenate((present + offset, pairs + (offset + MAX_CONCEPTS), neighbours + (offset + MAX_CONCEPTS + square)))


def _asked_rows(hashes: Hashes, stream: Rows) -> Rows:
    concepts = stream.astype(np.uint64)
    pairs = concepts[:-1] * np.uint64(MAX_CONCEPTS) + concepts[1:]
    parts = (hashes, hashes[:-1] * np.uint64(3) + hashes[1:], concepts, pairs, concepts[:1])
    return np.concatenate([_rows(part, 10 + at, "asked") for at, part in enumerate(parts)])


def _measures(spans: Spans, words: int) -> Rows:
    size = max(1, len(spans.codes))
    ascii_codes = spans.codes[spans.codes < 128]
    counts = (
        words,
        int((spans.classes == _DIGIT).sum()) * 100 // size,
        int(_OPERATORS[ascii_codes].sum()) * 200 // size,
        int(_BRACKETS[ascii_codes].sum()) * 200 // size,
        int((spans.codes == _NEWLINE).sum()),
        int(_OPERATORS[ascii_codes].sum()),
        int(_BRACKETS[ascii_codes].sum()),
    )
    rows = [16 * at + min(count, 32767).bit_length() for at, count in enumerate(counts)]
    return np.array(rows, dtype=np.int64) + OFFSETS["measures"]


def _asked(codes: NDArray[np.uint32]) -> tuple[int, int]:
    """Return the bounds of the sentence that asks."""
    marks = np.flatnonzero(_ENDS[np.minimum(codes, 127)])
    questions = np.flatnonzero(codes[marks] == ord("?"))
    if len(questions):
        last = questions[-1]
        return (int(marks[last - 1]) + 1 if last else 0), int(marks[last])
    for end in marks:
        if end > _LEAST_SENTENCE:
            return 0, int(end)
    return 0, len(codes)


def extract(text: str, lexicon: Lexicon) -> tuple[Rows, ...]:
    """Return the table rows that `text` switches on, per group of `GROUPS`; a row that occurs twice is listed twice."""
    spans = read(text)
    classes = spans.classes
    solid = (classes != _SPACE) & (classes != _OTHER)
    begins = solid.copy()
    begins[1:] = solid[1:] & ((classes[1:] != classes[:-1]) | (classes[1:] == _IDEOGRAPH))
    starts = np.flatnonzero(begins)
    # A word ends where its class does; an ideograph's "word" may run on, so that listed stems of several can match.
    breaks = np.flatnonzero(np.concatenate((classes[1:] != classes[:-1], [True]))) + 1 if len(classes) else starts
    ends = breaks[np.searchsorted(breaks, starts, side="right")] if len(starts) else starts
    found = lexicon.find(spans, starts, ends)
    near = np.where(classes[starts] == _IDEOGRAPH, np.minimum(starts + 1, ends), ends) if len(starts) else ends
    hashes = spans.hashes(starts, near)
    begin, end = _asked(spans.codes)
    inside = slice(*np.searchsorted(starts, (begin, end)))
    asked = _asked_rows(hashes[inside], lexicon.thin(found[inside]))
    stream = lexicon.thin(found)
    return _chars(spans), _words(hashes), _shapes(spans), _concepts(stream), asked, _measures(spans, len(starts))
