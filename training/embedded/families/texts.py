"""Reads the families' texts (`texts/*.yaml`) and draws from them: words, wordings of a phrase, values of a description.

Knows no problem. The same random source draws the same texts: the order of draws is that of the slots.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import yaml

Draw = Callable[[Random], Any]

_split = cache(re.compile(r"{([^{}]+)}").split)
"""Cuts a template: every second part is a slot."""


@cache
def load(name: str) -> Any:
    """Return the contents of `texts/<name>.yaml`."""
    return yaml.load((Path(__file__).with_name("texts") / f"{name}.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)


WORDS: dict[str, list[str]] = {name: words.split() if isinstance(words, str) else words for name, words in load("words").items()}
PHRASES: dict[str, Any] = load("phrases")
NAMES, COMMON = WORDS["names"], WORDS["common"]


def fill(rng: Random, template: str, **values: Any) -> str:
    """Fill in the slots of a template, from `values` or by drawing what the slot describes."""
    if len(parts := _split(template)) == 1:
        return template
    filled = [str(values[slot] if slot in values else drawn(slot)(rng)) for slot in parts[1::2]]
    return "".join([text for pair in zip(parts[::2], (*filled, ""), strict=True) for text in pair])


def say(rng: Random, phrase: str, **values: Any) -> str:
    """Draw one of the wordings of a phrase, filled in."""
    return fill(rng, rng.choice(PHRASES[phrase]), **values)


def some_words(rng: Random, counts: Sequence[int], word: str = "common") -> str:
    """Draw described words, as many as one of the counts."""
    return " ".join(drawn(word)(rng) for _ in range(rng.choice(counts)))


def listing(items: Sequence[str], last: Callable[[], str] = lambda: " and ") -> str:
    """Write a list as a sentence holds it; `last` draws what stands before the last of several."""
    return ", ".join(items[:-1]) + last() + items[-1] if len(items) > 1 else "".join(items)


def nonsense_noun(rng: Random) -> str:
    """Make up a singular noun such as 'blorp'."""
    word = "".join(rng.choice(WORDS[part]) for part in ("onsets", "vowels", "codas"))
    return word if rng.random() < 0.6 else word + rng.choice(WORDS["noun endings"])


def plural(noun: str) -> str:
    """Make a plural the simple way."""
    return noun + ("es" if noun.endswith(("x", "z", "s")) else "s")


def sentence(rng: Random) -> str:
    """Write one sentence of no consequence, for long prompts."""
    template = rng.choice(PHRASES["sentence"])
    thing, place, other = (rng.choice(WORDS[kind]) for kind in ("things", "places", "common"))
    return fill(rng, template, thing=thing, place=place, other=other)


def _calculation(rng: Random) -> str:
    first, second, third = rng.randint(1, 999), rng.randint(1, 99), rng.randint(1, 99)
    signs = [rng.choice("+-*/") for _ in range(2)]
    return f"{first} {signs[0]} {second}" + (f" {signs[1]} {third}" if rng.random() < 0.4 else "")


VALUES: dict[str, Draw] = {
    "nonsense": nonsense_noun,
    "nonsense plural": lambda rng: plural(nonsense_noun(rng)),
    "number of any length": lambda rng: rng.randrange(10 ** rng.randint(1, 4)),
    "sql": lambda rng: say(rng, "sql", table=rng.choice(WORDS["tables"]), limit=rng.randint(1, 50)),
    "calculation": _calculation,
    "page": lambda rng: rng.choice(("", "", f"/{rng.choice(COMMON)}")),
    "mail host": lambda rng: rng.choice(("example", "mail", rng.choice(COMMON))),
    "lower name": lambda rng: rng.choice(NAMES).lower(),
    "boolean": lambda rng: rng.random() < 0.5,
    "decimal": lambda rng: round(rng.uniform(0.5, 90), rng.choice((1, 1, 2))),
    "text": partial(some_words, counts=(1, 1, 1, 2, 3), word="word"),
}
"""What draws a value, by its name in the data files."""


def _share(rng: Random, shares: dict[float, str]) -> Any:
    """Draw what stands under the first bound that a random number is below."""
    number = rng.random()
    return drawn(next(description for bound, description in shares.items() if number < bound))(rng)


VALUES |= {name: partial(fill, template=template) for name, template in load("values")["templates"].items()}
VALUES |= {name: partial(_share, shares=shares) for name, shares in load("values")["shares"].items()}


@cache
def drawn(description: str) -> Draw:
    """Return what draws a described value.

    `10..30` is an integer, `01..12` one of two digits, `1.00..30.00` a number of two decimals, `words 1 2` common words (as many as
    one of the numbers), `5 10` one of the integers; else a name of `VALUES` or names of word lists.
    """
    first, *rest = description.split()
    if ".." in first:
        low, high = first.split("..")
        if "." in low:
            return lambda rng: round(rng.uniform(float(low), float(high)), len(low.partition(".")[2]))
        if len(low) > 1 and low.startswith("0"):
            return lambda rng: str(rng.randint(int(low), int(high))).zfill(len(low))
        return partial(Random.randint, a=int(low), b=int(high))
    if first == "words":
        return partial(some_words, counts=[int(count) for count in rest])
    if description in VALUES:
        return VALUES[description]
    if description in WORDS:
        return partial(Random.choice, seq=WORDS[description])
    pool = [int(each) for each in (first, *rest)] if first.isdigit() else [word for name in (first, *rest) for word in WORDS[name]]
    return partial(Random.choice, seq=pool)
