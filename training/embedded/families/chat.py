"""Greetings, identity, thanks, definitions, capital letters, one-word and upper-case answers, short memory."""

from dataclasses import replace
from itertools import cycle
from random import Random

from training.embedded.conversation import Check, Example, Message, ask, turn
from training.embedded.families.texts import NAMES, PHRASES, fill, load, say, some_words

_SMALL_TALK, _TERMS, _ONE_WORD = load("small_talk"), load("terms"), load("one_word")
_GREETINGS, _IDENTITY = _SMALL_TALK[:7], _SMALL_TALK[2]


def small_talk(rng: Random) -> Example:
    """A greeting, a question about the model, thanks."""
    talk = rng.choice(_SMALL_TALK)
    return _known(rng, "small talk", rng.choice(talk["ask"]), talk["answer"], 0.3)


def identity(rng: Random) -> Example:
    """Who are you."""
    return _known(rng, "identity", rng.choice(_IDENTITY["ask"]), _IDENTITY["answer"], 0.3)


def definition(rng: Random) -> Example:
    """A term of serving."""
    term = rng.choice(list(_TERMS))
    question = say(rng, "define", term=term, bare=term.removeprefix("a ").removeprefix("an "))
    return _known(rng, "definitions", question, _TERMS[term], 0.2)


def _known(rng: Random, family: str, question: str, answer: str, framed_share: float) -> Example:
    return ask(family, question, question, answer, system=say(rng, "system") if rng.random() < framed_share else "")


def capital_letters(rng: Random) -> Example:
    """Words in upper or lower case, or spelled out."""
    words, kind = some_words(rng, (1, 1, 2, 3)), rng.random()
    if 0.7 <= kind < 0.85:
        words = words.split()[0]
        return ask("letters", words, say(rng, "spell", x=words), "-".join(words))
    phrase, answer = ("capitals", words.upper()) if kind < 0.7 else ("repeat words", words)
    return ask("letters", words, say(rng, phrase, x=words), answer)


def repeat(rng: Random) -> Example:
    """Say a list back word for word; the quickest way for a small model to learn to copy at all."""
    joiner = rng.choice((" ", " ", ", "))
    text = joiner.join(fill(rng, rng.choice(PHRASES["repeated"])) for _ in range(rng.choice((1, 2, 4, 8, 16, 24))))
    return ask("repeat", text, say(rng, "repeat", x=text), text)


def styled(rng: Random) -> Example:
    """A system prompt that asks for one word or for upper case."""
    if rng.random() < 0.5:
        a, b = rng.randint(2, 20), rng.randint(2, 12)
        known = {"a": a, "b": b, "sum": a + b, "product": a * b, "larger": "Yes" if a > b else "No"}
        question, answer = (text.format(**known) for text in rng.choice(_ONE_WORD))
        return ask("system style", question, question, answer, system=say(rng, "one word"))
    talk = rng.choice(_GREETINGS)
    question = rng.choice(talk["ask"])
    return ask("system style", question, question, talk["answer"].upper(), system=say(rng, "upper case"))


def memory(rng: Random) -> Example:
    """A fact from an earlier turn."""
    name, number = rng.choice(NAMES), rng.randint(2, 99)
    kind, fact = ("name", name) if rng.random() < 0.5 else ("number", str(number))
    reply, answer = (PHRASES[f"{phrase} {kind}"].format(x=fact) for phrase in ("reply to", "your"))
    first, last = say(rng, f"my {kind}", x=fact), say(rng, f"which {kind}")
    said = [first, reply, *(("Thanks", "You are welcome!") if rng.random() < 0.3 else ()), last, answer]
    turns = tuple(turn(role, text) for role, text in zip(cycle(("user", "assistant")), said, strict=False))
    return Example(family="memory", key=fact, messages=turns, check=Check(expected=answer))


def framed(rng: Random, example: Example) -> Example:
    """Put a system prompt that changes nothing before a conversation that has none."""
    if example.messages[0].role == "system":
        return example
    return replace(example, messages=(Message(role="system", content=say(rng, "system")), *example.messages))
