"""Prompts of the project that are written out whole: examination questions with options, chats, reading passages.

The folder `written/` has one file per kind, with sections `[language task]` (passages: `[language]`) and one text a line, line
breaks escaped. How they were written, and what that means for the figures: docs/routing-policy.md. Reads the classifier's other
text files, too: `[heading]` lines, and below each its lines.
"""

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
_HEADING = re.compile(r"\[([a-z ]+)\]")
_BARE = 0.15
"""Share of the questions that come without their options."""
_MARKS = [[form.format(letter) for letter in "ABCDE"] for form in ("({}) ", "{}. ", "{}) ")]
_MARKS += [["- "] * 5, ["1. ", "2. ", "3. ", "4. ", "5. "]]

Line = tuple[str, str, str]
"""Language, task, text."""


def sections(name: str) -> Iterator[tuple[str, str]]:
    r"""Yield every line of `name` with its heading, "" above the first; `# ` begins a comment, `\n` is a line break.

    Raises `OSError` when there is no such file.
    """
    heading = ""
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if found := _HEADING.fullmatch(line):
            heading = found[1]
        elif line and not line.startswith("# "):
            yield heading, line.replace("\\n", "\n")


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
