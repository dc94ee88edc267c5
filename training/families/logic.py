"""Syllogisms with real and made-up nouns, and ordering puzzles."""

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
    answer = f"{'Yes' if valid else 'No'}. {reason.format(**words)}"
    return ask("syllogism", f"{form}{a}{b}{c}", question, answer, Check(kind="contains", expected=answer.split(".")[0] + "."))


def ordering(rng: Random) -> Example:
    """Who is the tallest or shortest of three."""
    tall, middle, short = rng.sample(NAMES, 3)
    more, most, least = rng.choice(
        (("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest"))
    )
    facts = [f"{tall} is {more} than {middle}.", f"{middle} is {more} than {short}."]
    if rng.random() < 0.5:
        facts.reverse()
    wanted, who = (most, tall) if rng.random() < 0.5 else (least, short)
    answer = f"{who} is the {wanted}."
    return ask("ordering", f"{tall}{middle}{short}", f"{' '.join(facts)} Who is the {wanted}?", answer)
