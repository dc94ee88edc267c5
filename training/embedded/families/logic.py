"""Syllogisms with real and made-up nouns, and ordering puzzles."""

import re
from itertools import pairwise
from random import Random

from training.embedded.conversation import Check, Example, ask
from training.embedded.families.vocabulary import NAMES, distinct_plurals

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
    """Two premises and a conclusion that follows or does not.

    The answer repeats them with a letter behind each noun, so that the form stands out before the verdict.
    """
    a, b, c = distinct_plurals(rng, 3)
    form = rng.randrange(len(_FORMS))
    premises, conclusion, valid, reason = _FORMS[form]
    words = {"a": a, "b": b, "c": c}
    text = premises.format(**words)
    question = f"{text} {rng.choice(_QUESTIONS).format(conclusion.format(**words))}"
    letters = dict(zip(dict.fromkeys(re.findall(r"{(\w)}", premises + conclusion)), "ABC", strict=True))
    marked = {name: f"{words[name]} ({letter})" for name, letter in letters.items()}
    verdict = "Yes" if valid else "No"
    answer = f"{premises.format(**marked)} So {conclusion.format(**marked)}? {verdict}. {reason.format(**words)}"
    return ask("syllogism", f"{form}{a}{b}{c}", question, answer, Check(kind="contains", expected=f"? {verdict}."))


_ORDERS = (
    ("taller", "shorter", "tallest", "shortest"),
    ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"),
    ("heavier", "lighter", "heaviest", "lightest"),
    ("richer", "poorer", "richest", "poorest"),
)


def ordering(rng: Random) -> Example:
    """Who is first or last of three or four, told by neighbours in any order and direction.

    The answer turns every fact to the side that is asked for, then climbs from the first name to the end.
    """
    people = rng.sample(NAMES, rng.choice((3, 3, 4)))
    more, less, most, least = rng.choice(_ORDERS)
    pairs = list(pairwise(people))
    if rng.random() < 0.6:
        rng.shuffle(pairs)
    facts = [f"{a} is {more} than {b}." if rng.random() < 0.75 else f"{b} is {less} than {a}." for a, b in pairs]
    highest = rng.random() < 0.5
    wanted, who, sign = (most, people[0], "<") if highest else (least, people[-1], ">")
    asked = rng.choice(("Who is the {}?", "Who is the {}?", "Who is {}?", "Which of them is the {}?")).format(wanted)
    told = [(b, a) if highest else (a, b) for a, b in pairs]
    chain = [told[0][0]]
    while chain[-1] in dict(told):
        chain.append(dict(told)[chain[-1]])
    listed = ", ".join(f"{a} {sign} {b}" for a, b in told)
    answer = f"{listed}. So {f' {sign} '.join(chain)}. {who} is the {wanted}."
    check = Check(kind="contains", expected=f"{who} is the {wanted}")
    return ask("ordering", "".join(people), f"{' '.join(facts)} {asked}", answer, check)
