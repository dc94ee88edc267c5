"""Prompts of the project that are written out whole: examination questions with options, chats, reading passages.

The folder `written/` has one file per kind, with sections `[language task]` (passages: `[language]`) and one text a line, line
breaks escaped. How they were written, and what that means for the figures: docs/routing-policy.md.
"""

import random
from collections.abc import Iterator, Sequence

from training.classifier.texts import sections

_BARE = 0.15
"""Share of the questions that come without their options."""
_MARKS = [[form.format(letter) for letter in "ABCDE"] for form in ("({}) ", "{}. ", "{}) ")]
_MARKS += [["- "] * 5, ["1. ", "2. ", "3. ", "4. ", "5. "]]

Line = tuple[str, str, str]
"""Language, task, text."""


def lines(kind: str) -> Iterator[Line]:
    """Yield the lines of `written/<kind>.txt`."""
    for heading, line in sections(f"written/{kind}.txt"):
        lang, _, task = heading.partition(" ")
        yield lang, task, line


def prompts(rng: random.Random) -> Iterator[Line]:
    """Yield every chat, and every question with its options listed in one of the usual ways."""
    yield from lines("chats")
    for lang, task, line in lines("choices"):
        question, *options = line.split(" | ")
        yield lang, task, question + (listed(options, rng) if rng.random() >= _BARE else "")


def listed(options: Sequence[str], rng: random.Random) -> str:
    """Return options as examinations list them: lettered, numbered, with dashes, or inline; at most five of them."""
    if not options:
        return ""
    if rng.random() < 0.15:
        return " Options: " + " / ".join(options)
    marks = rng.choice(_MARKS)
    gap = rng.choice(("\n", " "))
    return "".join(gap + mark + option for mark, option in zip(marks, options, strict=False))
