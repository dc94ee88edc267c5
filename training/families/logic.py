"""Syllogisms with real and made-up nouns, and ordering puzzles."""

import re
from itertools import pairwise
from random import Random

from training.conversation import Check, Example, ask
from training.families.vocabulary import NAMES, distinct_plurals

_FORMS = (
    ("All {a} are {b}. Some {b} are {c}.", "some {a} are {c}", False, "The {b} that are {c} may not be {a}."),
    (
        "All {a} are {b}. All {b} are {c}.",
        "all {a} are {c}",
        True,
        "Every one of the {a} is among the {b}, and so among the {c}.",
    ),
    ("All {a} are {b}. Some {a} are {c}.", "some {b} are {c}", True, "The {a} that are {c} are also {b}."),
    (
        "No {a} are {b}. All {c} are {a}.",
        "no {c} are {b}",
        True,
        "Every one of the {c} is among the {a}, and none of those is among the {b}.",
    ),
    (
        "All {a} are {b}. All {c} are {b}.",
        "all {a} are {c}",
        False,
        "Both are {b}, but that does not join {a} and {c}.",
    ),
    ("Some {a} are {b}. Some {b} are {c}.", "some {a} are {c}", False, "The {b} that are {c} may not be {a}."),
)
_QUESTIONS = (
    "Can we conclude that {}?",
    "Can we conclude that {}?",
    "Does it follow that {}?",
    "Is it certain that {}?",
)


def syllogism(rng: Random) -> Example:
    """Two premises and a conclusion that follows or does not."""
    a, b, c = distinct_plurals(rng, 3)
    form = rng.randrange(len(_FORMS))
    premises, conclusion, valid, reason = _FORMS[form]
    words = {"a": a, "b": b, "c": c}
    text = premises.format(**words)
    question = f"{text} {rng.choice(_QUESTIONS).format(conclusion.format(**words))}"
    order = dict(zip(dict.fromkeys(re.findall(r"{(\w)}", premises + conclusion)), "ABC", strict=True))
    named = ", ".join(f"{letter} = {words[name]}" for name, letter in order.items())
    verdict = "Yes" if valid else "No"
    answer = f"Let {named}. {premises.format(**order)} So {conclusion.format(**order)}? {verdict}. {reason.format(**words)}"
    return ask("syllogism", f"{form}{a}{b}{c}", question, answer, Check(kind="contains", expected=f"? {verdict}."))


_ORDERS = (
    ("taller", "shorter", "tallest", "shortest"),
    ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"),
    ("heavier", "lighter", "heaviest", "lightest"),
    ("richer", "poorer", "richest", "poorest"),
)


def ordering(rng: Random) -> Example:
    """Who is first or last of three or four, told by neighbours in any order and direction."""
    people = rng.sample(NAMES, rng.choice((3, 3, 4)))
    more, less, most, least = rng.choice(_ORDERS)
    facts = []
    for upper, lower in pairwise(people):
        facts.append(f"{upper} is {more} than {lower}." if rng.random() < 0.75 else f"{lower} is {less} than {upper}.")
    if rng.random() < 0.6:
        rng.shuffle(facts)
    wanted, who = rng.choice(((most, people[0]), (least, people[-1])))
    asked = rng.choice(("Who is the {}?", "Who is the {}?", "Who is {}?", "Which of them is the {}?")).format(wanted)
    answer = f"From {most} to {least}: {', '.join(people)}. {who} is the {wanted}."
    check = Check(kind="contains", expected=f"{who} is the {wanted}")
    return ask("ordering", "".join(people), f"{' '.join(facts)} {asked}", answer, check)
