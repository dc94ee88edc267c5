"""Greetings, identity, thanks, definitions, capital letters, one-word and upper-case answers, short memory."""

from dataclasses import replace
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
    words = some_words(rng, (1, 1, 2, 3))
    kind = rng.random()
    if kind < 0.7:
        phrase, answer = "capitals", words.upper()
    elif kind < 0.85:
        words = words.split()[0]
        phrase, answer = "spell", "-".join(words)
    else:
        phrase, answer = "repeat words", words
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
        system = say(rng, "one word")
    else:
        talk = rng.choice(_GREETINGS)
        question, answer = rng.choice(talk["ask"]), talk["answer"].upper()
        system = say(rng, "upper case")
    return ask("system style", question, question, answer, system=system)


def memory(rng: Random) -> Example:
    """A fact from an earlier turn."""
    name, number = rng.choice(NAMES), rng.randint(2, 99)
    kind, fact = ("name", name) if rng.random() < 0.5 else ("number", str(number))
    reply, answer = (PHRASES[f"{phrase} {kind}"].format(x=fact) for phrase in ("reply to", "your"))
    first, last = say(rng, f"my {kind}", x=fact), say(rng, f"which {kind}")
    turns = [turn("user", first), turn("assistant", reply)]
    if rng.random() < 0.3:
        turns += [turn("user", "Thanks"), turn("assistant", "You are welcome!")]
    turns += [turn("user", last), turn("assistant", answer)]
    return Example(family="memory", key=fact, messages=tuple(turns), check=Check(expected=answer))


def framed(rng: Random, example: Example) -> Example:
    """Put a system prompt that changes nothing before a conversation that has none."""
    if example.messages[0].role == "system":
        return example
    return replace(example, messages=(Message(role="system", content=say(rng, "system")), *example.messages))
