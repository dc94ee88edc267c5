"""Turns a prompt's text into sparse features for the task classifier. Pure numpy; training and serving call the same function.

Eight groups of features, each a set of rows of one weight table:

- `chars`: hashed character 2- to 4-grams, which survive typos;
- `words`: hashed words and pairs of neighbours;
- `shapes`: n-grams of the text with every run of letters written `a` and every number `0`, so that "7 x 8 = ?" or a call in code
  look alike in all languages;
- `concepts`: what a word means to the classifier (calculate, function, premise, poem...) whatever its language, from a lexicon
  that is stored with the weights; `pairs` of them that occur together; their `sequence`, two by two;
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
"""Only this much of a text is read: half from its beginning, half from its end."""

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_HASHED_BITS = {"chars": 16, "words": 15, "shapes": 13, "asked": 15}
MAX_CONCEPTS = 128
_MEASURE_ROWS = 256
GROUPS = ("chars", "words", "shapes", "concepts", "pairs", "sequence", "asked", "measures")
_SIZES = {name: 1 << bits for name, bits in _HASHED_BITS.items()} | {
    "concepts": MAX_CONCEPTS,
    "pairs": MAX_CONCEPTS * MAX_CONCEPTS,
    "sequence": MAX_CONCEPTS * MAX_CONCEPTS,
    "measures": _MEASURE_ROWS,
}
OFFSETS = {name: sum(_SIZES[before] for before in GROUPS[:at]) for at, name in enumerate(GROUPS)}
TABLE_ROWS = sum(_SIZES.values())
"""Rows of the weight table."""

_SPACE, _LETTER, _IDEOGRAPH, _DIGIT, _OTHER = range(5)
_IN_WORDS = np.array([False, True, True, True, False])
"""By class: whether words are made of it."""
_PRIME = 0x9E3779B97F4A7C15
_LIMIT = READ_CHARS * 3 + 64  # decomposition can lengthen a text; what is longer still is cut
MOST_ROWS = 5 * _LIMIT
"""No group of a text has so many rows."""
_MAX_STEM = 12
_TABLE_BITS = 20
_STEM_LENGTHS = np.array([0, *range(_MAX_STEM, 0, -1)])
"""What is looked up of a word, the best first: the whole of it, then its beginnings."""
_PLACES = np.arange(_LIMIT)
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
_KINDS = np.zeros(0x10000, dtype=np.int64)
_KINDS[[ord(char) for char in "+-*/=^%<>"]] = 1
_KINDS[[ord(char) for char in "(){}[];_\\$#`|&"]] = 2
_KINDS[ord("\n")] = 3
_KINDS[ord("0")] = 4
_ENDS = np.zeros(0x10000, dtype=bool)
_ENDS[[ord(char) for char in ".!?\n"]] = True
_LEAST_SENTENCE = 12
"""A first sentence shorter than this (a greeting, an abbreviation) does not end."""
_GAP = re.compile(r"\(\s*\)")
_LATIN_LETTER = np.uint32(ord("a"))
_PLAIN = np.where(
    _CLASS == _DIGIT, _LATIN_DIGIT, np.where(_CLASS == _SPACE, np.uint32(ord(" ")), np.arange(0x10000, dtype=np.uint32))
)
"""Digits as one digit, blanks but line breaks as one blank."""
_PLAIN[ord("\n")] = _NEWLINE
_SHAPE = np.where((_CLASS == _LETTER) | (_CLASS == _IDEOGRAPH), _LATIN_LETTER, np.arange(0x10000, dtype=np.uint32))
_RUNS = np.isin(np.arange(0x10000), [_LATIN_LETTER, _LATIN_DIGIT])
"""Shapes of which a run counts as one."""
_CHAR_ORDERS, _SHAPE_ORDERS = (2, 3, 4), (1, 2, 3, 4, 5)
_ABOVE = np.triu(np.ones((MAX_CONCEPTS, MAX_CONCEPTS), dtype=bool), 1)
_BEGINNING = np.array([_START], dtype=np.int64)
_FIRST_SALT = {"chars": 0, "words": 1, "shapes": 3, "asked": 10}
_SALTS = np.arange(1, 64, dtype=np.uint64) * np.uint64(0xA24BAED4963EE407)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFTS = {name: np.uint64(64 - bits) for name, bits in _HASHED_BITS.items()}


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
        head = READ_CHARS // 2
        text = text[:head] + "\n" + text[head - READ_CHARS :]
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.translate(_PUNCTUATION))
    if "(" in text:
        text = _GAP.sub("?", text)  # how examinations write the place of the answer
    return text.casefold()


def read(text: str) -> Spans:
    """Return the spans of `text`: digits are one digit, accents are gone, blanks are single."""
    folded = fold(text)
    codes = np.frombuffer(folded.encode("utf-32-le", "replace"), dtype=np.uint32)[: _LIMIT - 1]
    if not folded.isascii():
        codes = np.minimum(codes, 0xFFFF)
        codes = codes[(codes < 0x300) | (codes > 0x36F)]
    classes = _CLASS[codes]
    solid = classes != _SPACE
    keep = solid.copy()
    keep[1:] |= solid[:-1]
    codes = _PLAIN[codes[keep]]
    return Spans(codes, classes[keep], _sums(codes))


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
        last = ends[:, None]
        stops = starts[:, None] + _STEM_LENGTHS
        stops[:, 0] = ends
        short = stops > last
        np.minimum(stops, last, out=stops)
        hashes = spans.hashes(starts[:, None], stops)
        hashes[:, 0] ^= _WHOLE
        found = self.table[_slot(hashes)]
        found[short] = 0
        merged: Rows = found[_PLACES[: len(found)], found.astype(bool).argmax(axis=1)].astype(np.int64)
        merged[spans.classes[starts] == _DIGIT] = _NUMBER
        return merged

    @staticmethod
    def thin(concepts: Rows) -> Rows:
        """Return the concepts in order without gaps, a run of the same one as one."""
        concepts = concepts[concepts > 0]
        new = np.ones(len(concepts), dtype=bool)
        new[1:] = concepts[1:] != concepts[:-1]
        kept: Rows = concepts[new]
        return kept


def _slot(hashes: Hashes) -> NDArray[np.uint64]:
    return (hashes * _MIX) >> np.uint64(64 - _TABLE_BITS)


def _rows(group: str, *parts: Hashes) -> Rows:
    """Return the table rows of the hashes; parts of one group are told apart by a salt each."""
    first = _FIRST_SALT[group]
    mixed = np.concatenate([part + _SALTS[first + at] for at, part in enumerate(parts)])
    mixed *= _MIX
    mixed >>= _SHIFTS[group]
    rows: Rows = mixed.view(np.int64)
    rows += OFFSETS[group]
    return rows


def _grams(sums: Hashes, orders: tuple[int, ...]) -> Hashes:
    """Return the hashes of every run of `orders` codes, from their prefix sums."""
    size = len(sums) - 1
    parts = [(sums[order:] - sums[:-order]) * _INVERSES[: size + 1 - order] for order in orders if order <= size]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)


def _sums(codes: NDArray[np.uint32]) -> Hashes:
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(codes * _POWERS[: len(codes)], out=sums[1:])
    return sums


def _pairs(hashes: Hashes) -> Hashes:
    return hashes[:-1] * np.uint64(3) + hashes[1:]


def _shapes(spans: Spans) -> Rows:
    solid = spans.classes != _SPACE
    solid |= spans.codes == _NEWLINE
    shape = _SHAPE[spans.codes[solid]]
    kept = np.ones(len(shape), dtype=bool)
    after = shape[1:]
    kept[1:] = (after != shape[:-1]) | ~_RUNS[after]
    return _rows("shapes", _grams(_sums(shape[kept]), _SHAPE_ORDERS))


def _concepts(stream: Rows) -> tuple[Rows, Rows, Rows]:
    """Return the rows of what is there, of what is there together, and of what follows what."""
    present = np.bincount(stream, minlength=1).nonzero()[0]
    pairs = (present[:, None] * MAX_CONCEPTS + present)[_ABOVE[: len(present), : len(present)]]
    sequence = np.concatenate((_BEGINNING, stream))
    neighbours = sequence[:-1] * MAX_CONCEPTS + sequence[1:]
    return present + OFFSETS["concepts"], pairs + OFFSETS["pairs"], neighbours + OFFSETS["sequence"]


def _asked_rows(hashes: Hashes, stream: Rows) -> Rows:
    concepts = stream.astype(np.uint64)
    return _rows("asked", hashes, _pairs(hashes), concepts, _pairs(concepts), concepts[:1])


def _measures(spans: Spans, words: int) -> Rows:
    size = max(1, len(spans.codes))
    _, operators, brackets, lines, digits = np.bincount(_KINDS[spans.codes], minlength=5).tolist()
    counts = (words, digits * 100 // size, operators * 200 // size, brackets * 200 // size, lines, operators, brackets)
    rows = [16 * at + min(count, 32767).bit_length() for at, count in enumerate(counts)]
    return np.array(rows, dtype=np.int64) + OFFSETS["measures"]


def _asked(codes: NDArray[np.uint32]) -> tuple[int, int]:
    """Return the bounds of the sentence that asks."""
    marks = _ENDS[codes].nonzero()[0]
    questions = (codes[marks] == ord("?")).nonzero()[0]
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
    change = np.ones(len(classes) + 1, dtype=bool)
    change[1:-1] = classes[1:] != classes[:-1]
    starts = (_IN_WORDS[classes] & (change[:-1] | (classes == _IDEOGRAPH))).nonzero()[0]
    # A word ends where its class does; an ideograph's "word" may run on, so that listed stems of several can match.
    breaks = change.nonzero()[0]
    ends = breaks[breaks.searchsorted(starts, side="right")]
    found = lexicon.find(spans, starts, ends)
    near = np.where(classes[starts] == _IDEOGRAPH, starts + 1, ends)
    hashes = spans.hashes(starts, near)
    begin, end = _asked(spans.codes)
    inside = slice(*starts.searchsorted((begin, end)))
    asked = _asked_rows(hashes[inside], lexicon.thin(found[inside]))
    stream = lexicon.thin(found)
    chars = _rows("chars", _grams(spans.sums, _CHAR_ORDERS))
    words = _rows("words", hashes, _pairs(hashes))
    return chars, words, _shapes(spans), *_concepts(stream), asked, _measures(spans, len(starts))
