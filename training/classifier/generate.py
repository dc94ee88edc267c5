"""The project's own prompts, and passages of the training rows with other questions.

Templates (`templates/`, one file a language) are filled in. A file lists slots (`name = one | two`) and, under `[task]`, templates;
`{name}` and `{name2}` are different values of slot `name`; `common.txt` has the slots that every language shares. Texts written out
whole (`written/`) have one file per kind: chats, examination questions with options, reading passages, with sections
`[language task]` (passages: `[language]`) and one text a line, line breaks escaped. How they were written, and what that means for
the figures: docs/routing-policy.md. Every task is decorated alike (greetings, thanks, lower case, typos), so that no decoration
gives a label away.

A logical reading question and a comprehension question can stand on the same text; the rows to train on have each kind on texts of
its own, which a linear model would learn instead. So their passages get other questions, which decide the label. A mixed row keeps
its passage's source, so leaving that out leaves it out too.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from serve_app.types import Task

FOLDER = Path(__file__).parent
_HEADING = re.compile(r"\[([a-z ]+)\]")
_BARE = 0.15
"""Share of the questions that come without their options."""
_MARKS = [[form.format(letter) for letter in "ABCDE"] for form in ("({}) ", "{}. ", "{}) ")]
_MARKS += [["- "] * 5, ["1. ", "2. ", "3. ", "4. ", "5. "]]

GENERATED = "generated"
_SLOT = re.compile(r"\{([a-z]+?)(\d?)\}")
_SEEDS = (7, 8)
"""Every template is filled in once for each."""
_MOST_PER_TEMPLATE = 6
_MOST_NESTED = 3
"""Slots within slots."""
_WITHOUT_BLANKS = {"zh", "ja", "th"}
Slots = dict[str, list[str]]
Row = dict[str, str]
"""A labelled prompt: text, task, source."""
_SEED = 11
_LEAST_CHARS = {"en": 160, "zh": 60}
_OPTION_CHARS = {"en": 90, "zh": 40}
_SENTENCE = {"en": re.compile(r"(?<=[.!?])\s+|\n+"), "zh": re.compile(r"(?<=[。！？；])|\n+")}
_LATIN = re.compile(r"[a-zA-Z]")
_PER_PASSAGE = 2
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


def generated_rows() -> list[Row]:
    """Return the project's own prompts, the same on every call, none twice."""
    common, _ = _parse("common")
    parsed = {path.stem: _parse(path.stem) for path in sorted(FOLDER.glob("templates/??.txt"))}
    rows = [(lang, common | own, task, template) for lang, (own, templates) in parsed.items() for task, template in templates]
    tasks: dict[str, str] = {}
    for rng in map(random.Random, _SEEDS):
        for lang, name, text in prompts(rng):
            tasks.setdefault(_decorate(text, lang, common | parsed[lang][0], rng), name)
        for lang, slots, task, template in rows:
            for text in _expand(template, slots, rng):
                tasks.setdefault(_decorate(text, lang, slots, rng), task)
    return [{"text": text, "task": str(Task(task)), "source": GENERATED} for text, task in tasks.items()]


def _parse(name: str) -> tuple[Slots, list[tuple[str, str]]]:
    rows = list(sections(f"templates/{name}.txt"))
    slots = {name: values.split(" | ") for name, _, values in (line.partition(" = ") for task, line in rows if not task)}
    return slots, [(task, line) for task, line in rows if task]


def _expand(template: str, slots: Slots, rng: random.Random) -> Iterator[str]:
    used = [name for name, _ in _SLOT.findall(template) if name in slots]
    for _ in range(min(_MOST_PER_TEMPLATE, 1 + 2 * len(used))):
        drawn: dict[str, list[str]] = {}
        text = template
        for _ in range(_MOST_NESTED):
            for name, _ in _SLOT.findall(text):
                if name in slots and name not in drawn:
                    drawn[name] = rng.sample(slots[name], min(len(slots[name]), 9))
            text = _SLOT.sub(partial(_value, drawn), text)
        yield text


def _value(drawn: Mapping[str, list[str]], match: re.Match[str]) -> str:
    name, number = match.groups()
    if name not in drawn:
        return match.group()
    values = drawn[name]
    return values[(int(number or 1) - 1) % len(values)]


def _decorate(text: str, lang: str, slots: Slots, rng: random.Random) -> str:
    gap = "" if lang in _WITHOUT_BLANKS else " "
    if rng.random() < 0.12 and "hello" in slots:
        text = rng.choice(slots["hello"]) + gap + text
    if rng.random() < 0.08 and "thanks" in slots:
        text = text + gap + rng.choice(slots["thanks"])
    dice = rng.random()
    if dice < 0.10:
        text = text.lower()
    elif dice < 0.13:
        text = text.upper()
    elif dice < 0.25:
        text = swap_letters(text, rng, 1 + len(text) // 80)
    if rng.random() < 0.1:
        text = text.rstrip("?.!？。")
    return text


def swap_letters(text: str, rng: random.Random, times: int) -> str:
    """Return `text` with typos: neighbours swapped, a letter lost or doubled."""
    letters = list(text)
    for _ in range(times):
        places = [at for at in range(1, len(letters) - 2) if letters[at].isalpha() and letters[at + 1].isalpha()]
        if not places:
            break
        at = rng.choice(places)
        kind = rng.randrange(3)
        if kind == 0:
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
        elif kind == 1:
            del letters[at]
        else:
            letters.insert(at, letters[at])
    return "".join(letters)


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
