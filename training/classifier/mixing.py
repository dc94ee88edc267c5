"""Passages of the training rows with another question after them, so that the question decides the label and not the passage.

A logical reading question and a comprehension question can stand on the same text; the rows to train on have each kind on texts of
its own, which a linear model would learn instead. A mixed row keeps its passage's source, so leaving that out leaves it out too.
"""

import random
import re
from collections.abc import Sequence

from training.classifier.generate import Row, listed, sections

_SEED = 11
_LEAST_CHARS = {"en": 160, "zh": 60}
_OPTION_CHARS = {"en": 90, "zh": 40}
_SENTENCE = {"en": re.compile(r"(?<=[.!?])\s+|\n+"), "zh": re.compile(r"(?<=[。！？；])|\n+")}
_LATIN = re.compile(r"[a-zA-Z]")
_PER_PASSAGE = 2


def mixed(rows: Sequence[Row]) -> list[Row]:
    """Return new rows made from the long general ones of `rows`; the same on every call."""
    rng = random.Random(_SEED)
    stems: dict[str, list[str]] = {}
    for heading, stem in sections("stems.txt"):
        stems.setdefault(heading, []).append(stem)
    long = [(row, lang) for row in rows if row["task"] == "general" and (lang := _lang(row["text"]))]
    passages = [(row["source"], lang, _parts(row["text"], lang)) for row, lang in long]
    pools = {lang: [part for _, other, parts in passages if other == lang for part in parts] for lang in _LEAST_CHARS}
    found = []
    for source, lang, parts in passages:
        for _ in range(_PER_PASSAGE):
            at = rng.randrange(len(parts))
            passage = ("" if lang == "zh" else " ").join(parts[at : at + rng.randint(1, 6)])
            found.append({"text": rng.choice(stems[f"{lang} before"]).format(passage), "task": "general", "source": source})
            for task in ("reasoning", "general"):
                stem = rng.choice(stems[f"{lang} {task}"])
                options = ""
                if rng.random() < 0.75:
                    options = listed([rng.choice(pools[lang])[: _OPTION_CHARS[lang]] for _ in range(rng.randint(2, 4))], rng)
                gap = rng.choice(("\n", "" if lang == "zh" else " "))
                text = stem + gap + passage if rng.random() < 0.2 else passage + gap + stem
                found.append({"text": text + options, "task": task, "source": source})
    return found


def _lang(text: str) -> str | None:
    """Return en or zh when `text` is long enough to be a passage, else None."""
    lang = "en" if len(_LATIN.findall(text)) > len(text) / 2 else "zh"
    return lang if len(text) >= _LEAST_CHARS[lang] and "```" not in text else None


def _parts(text: str, lang: str) -> list[str]:
    parts = [part.strip() for part in _SENTENCE[lang].split(text)]
    return [part for part in parts if len(part) > 8] or [text]
