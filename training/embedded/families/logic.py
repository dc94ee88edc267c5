"""Syllogisms with real and made-up nouns, and ordering puzzles."""

import re
from itertools import pairwise
from random import Random

from training.embedded.conversation import Check, Example, ask
from training.embedded.families.texts import NAMES, PHRASES, WORDS, load, nonsense_noun, plural, say

_FORMS = load("syllogisms")


def syllogism(rng: Random) -> Example:
    """Two premises and a conclusion that follows or does not.

    The answer repeats them with a letter behind each noun, so that the form stands out before the verdict.
    """
    words = dict(zip("abc", _distinct_plurals(rng, 3), strict=True))
    form = _FORMS[number := rng.randrange(len(_FORMS))]
    premises, conclusion, verdict = form["premises"], form["conclusion"], "Yes" if form["follows"] else "No"
    question = f"{premises.format(**words)} {say(rng, 'conclude', x=conclusion.format(**words))}"
    letters = dict(zip(dict.fromkeys(re.findall(r"{(\w)}", premises + conclusion)), "ABC", strict=True))
    marked = {name: f"{words[name]} ({letter})" for name, letter in letters.items()}
    answer = f"{premises.format(**marked)} So {conclusion.format(**marked)}? {verdict}. {form['reason'].format(**words)}"
    return ask(
        "syllogism", f"{number}{''.join(words.values())}", question, answer, Check(kind="contains", expected=f"? {verdict}.")
    )


def _distinct_plurals(rng: Random, count: int) -> list[str]:
    """Draw distinct plural nouns, real or made up."""
    if rng.random() < 0.4:
        return rng.sample(WORDS["animals"] + WORDS["classes"], count)
    nouns: dict[str, None] = {}
    while len(nouns) < count:
        nouns[plural(nonsense_noun(rng))] = None
    return list(nouns)


def ordering(rng: Random) -> Example:
    """Who is first or last of three or four, told by neighbours in any order and direction.

    The answer turns every fact to the side that is asked for, then climbs from the first name to the end.
    """
    people = rng.sample(NAMES, rng.choice((3, 3, 4)))
    more, less, most, least = rng.choice(PHRASES["orders"]).split()
    pairs = list(pairwise(people))
    if rng.random() < 0.6:
        rng.shuffle(pairs)
    facts = [f"{a} is {more} than {b}." if rng.random() < 0.75 else f"{b} is {less} than {a}." for a, b in pairs]
    highest = rng.random() < 0.5
    wanted, who, sign = (most, people[0], "<") if highest else (least, people[-1], ">")
    question = f"{' '.join(facts)} {say(rng, 'who', x=wanted)}"
    steps = dict((b, a) if highest else (a, b) for a, b in pairs)
    chain = [next(iter(steps))]
    while chain[-1] in steps:
        chain.append(steps[chain[-1]])
    listed = ", ".join(f"{a} {sign} {b}" for a, b in steps.items())
    answer = f"{listed}. So {f' {sign} '.join(chain)}. {who} is the {wanted}."
    return ask("ordering", "".join(people), question, answer, Check(kind="contains", expected=f"{who} is the {wanted}"))
