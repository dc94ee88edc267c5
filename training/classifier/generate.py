"""Writes training prompts from the templates in `templates/`, one file per language, and decorates those that are written out.

A file lists slots (`name = one | two`) and, under `[task]`, templates. `{name}` and `{name2}` are different values of slot `name`.
`common.txt` has the slots that every language shares. Every task is decorated alike (greetings, thanks, lower case, typos), so that
no decoration gives a label away.
"""

import random
import re
from collections.abc import Iterator, Mapping
from functools import partial

from serve_app.types import Task
from training.classifier.written import FOLDER, prompts, sections

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
