"""Greetings, identity, thanks, definitions, capital letters, one-word and upper-case answers, short memory.

All wording is written here.
"""

from dataclasses import replace
from random import Random

from training.embedded.conversation import Check, Example, Message, ask
from training.embedded.families.terms import TERMS, term_question
from training.embedded.families.vocabulary import COMMON, NAMES, nonsense_noun, plural

WHO = "I am the small embedded demo model of phi-serve, not Phi-4-mini. I answer simple questions offline."
_DEFAULT_SYSTEMS = (
    "Think step by step and show your reasoning clearly.",
    "Solve this mathematical problem step by step.",
    "Write clean, well-commented code for this task.",
    "Reason step by step, then state the conclusion.",
    "Work the problem out step by step, then state the result.",
    "Answer with clean code and comments that explain it.",
    "You are a mathematical reasoning assistant. Show your work step by step.",
    "You are an expert reasoning assistant specialized in mathematics, logic, and code analysis.",
    "You are a coding assistant specialized in writing clean, efficient, and well-documented code.",
    "You are a helpful, honest assistant that answers in short sentences.",
    "You are a helpful assistant.",
    "You are a helpful AI assistant.",
    "You are a helpful assistant. Be brief.",
    "Answer the question.",
)

_SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (
            "Hello",
            "Hello!",
            "Hi",
            "Hi!",
            "Hi there",
            "Hey",
            "Good morning",
            "Good evening!",
            "hello",
            "hi",
            "Greetings",
            "Say hello",
            "Say hi.",
        ),
        "Hello! How can I help you?",
    ),
    (
        ("How are you?", "How are you today?", "Hello, how are you?", "Hi, how are you doing?"),
        "I am fine, thank you. How can I help you?",
    ),
    (
        (
            "Who are you?",
            "who are you",
            "What are you?",
            "What is your name?",
            "Which model are you?",
            "Are you Phi-4-mini?",
            "Are you Phi-4?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "Are you ChatGPT?",
            "What model is this?",
            "Who am I talking to?",
            "Hello, who are you?",
            "Which language model do I talk to?",
        ),
        WHO,
    ),
    (
        ("What can you do?", "How can you help me?", "What are you good at?", "Help", "help me"),
        "I can do simple arithmetic, word problems, short Python programs, logic puzzles, tool calls "
        "and definitions of serving terms.",
    ),
    (
        ("Thanks", "Thank you", "Thanks!", "Thank you very much.", "thanks a lot", "Thank you for your help."),
        "You are welcome!",
    ),
    (("Bye", "Goodbye", "Goodbye!", "See you later.", "bye bye"), "Goodbye!"),
    (("Test", "test", "ping", "Ping", "Are you there?", "Does this work?", "Testing"), "Yes, I am here and working."),
    (
        ("Tell me a joke", "Tell me a joke.", "Do you know a joke?"),
        "Why was the cache so calm? It had seen it all before.",
    ),
    (
        (
            "What is the capital of France?",
            "Capital of France?",
            "Name the capital of France.",
            "The capital of France is",
        ),
        "The capital of France is Paris.",
    ),
    (("What is the capital of Bulgaria?", "Capital of Bulgaria?"), "The capital of Bulgaria is Sofia."),
    (("What is the capital of Germany?", "Capital of Germany?"), "The capital of Germany is Berlin."),
    (("What is the capital of China?", "Capital of China?"), "The capital of China is Beijing."),
    (
        ("Why is the sky blue?", "Explain why the sky is blue."),
        "Air scatters blue light more than red light, so the sky looks blue.",
    ),
)


def small_talk(rng: Random) -> Example:
    """A greeting, a question about the model, thanks."""
    phrasings, answer = rng.choice(_SMALL_TALK)
    question = rng.choice(phrasings)
    return ask("small talk", question, question, answer, system=rng.choice(_DEFAULT_SYSTEMS) if rng.random() < 0.3 else "")


def identity(rng: Random) -> Example:
    """Who are you."""
    phrasings, answer = _SMALL_TALK[2]
    question = rng.choice(phrasings)
    return ask("identity", question, question, answer, system=rng.choice(_DEFAULT_SYSTEMS) if rng.random() < 0.3 else "")


def definition(rng: Random) -> Example:
    """A term of serving."""
    term = rng.choice(list(TERMS))
    question = term_question(rng, term)
    return ask(
        "definitions",
        question,
        question,
        TERMS[term],
        system=rng.choice(_DEFAULT_SYSTEMS) if rng.random() < 0.2 else "",
    )


def capital_letters(rng: Random) -> Example:
    """Words in upper or lower case, or spelled out."""
    words = " ".join(rng.choice(COMMON) for _ in range(rng.choice((1, 1, 2, 3))))
    kind = rng.random()
    if kind < 0.7:
        question = rng.choice(
            (
                "Write {} in capital letters.",
                'Write "{}" in capital letters.',
                "Write the following in upper case: {}",
                "Convert to uppercase: {}",
                "Put this in capitals: {}",
                "{} in capital letters",
            )
        )
        answer = words.upper()
    elif kind < 0.85:
        question, answer = rng.choice(("Spell {}.", 'Spell the word "{}".')), "-".join(words.split()[0])
        words = words.split()[0]
    else:
        question, answer = rng.choice(("Repeat after me: {}", "Say {}.", "Repeat: {}")), words
    return ask("letters", words, question.format(words), answer)


def repeat(rng: Random) -> Example:
    """Say a list back word for word; the quickest way for a small model to learn to copy at all."""
    kinds = (
        lambda: rng.choice(COMMON),
        lambda: rng.choice(NAMES),
        lambda: plural(nonsense_noun(rng)),
        lambda: str(rng.randrange(10 ** rng.randint(1, 4))),
    )
    joiner = rng.choice((" ", " ", ", "))
    text = joiner.join(rng.choice(kinds)() for _ in range(rng.choice((1, 2, 4, 8, 16, 24))))
    question = rng.choice(("Repeat after me: {}", "Repeat: {}", "Repeat this text: {}", "Say: {}", "Echo: {}"))
    return ask("repeat", text, question.format(text), text)


def styled(rng: Random) -> Example:
    """A system prompt that asks for one word or for upper case."""
    if rng.random() < 0.5:
        a, b = rng.randint(2, 20), rng.randint(2, 12)
        question, answer = rng.choice(
            (
                (f"What is {a} + {b}?", str(a + b)),
                (f"What is {a} * {b}?", str(a * b)),
                ("What is the capital of France?", "Paris"),
                ("What is the capital of Germany?", "Berlin"),
                (
                    "All cats are mammals. Some mammals are carnivores. Can we conclude that some cats are carnivores?",
                    "No",
                ),
                (f"Is {a} larger than {b}?", "Yes" if a > b else "No"),
            )
        )
        system = rng.choice(("Answer in one word.", "Answer with one word only.", "Reply in a single word.", "Answer in one word"))
    else:
        phrasings, answer = rng.choice(_SMALL_TALK[:7])
        question, answer = rng.choice(phrasings), answer.upper()
        system = rng.choice(
            (
                "Answer in upper case.",
                "Answer in capital letters.",
                "Write everything in upper case.",
                "Reply in UPPER CASE.",
            )
        )
    return ask("system style", question, question, answer, system=system)


def memory(rng: Random) -> Example:
    """A fact from an earlier turn."""
    name, number = rng.choice(NAMES), rng.randint(2, 99)
    if rng.random() < 0.5:
        first = rng.choice(("My name is {}.", "I am {}.", "Hello, my name is {}.", "Hi, I'm {}.")).format(name)
        reply, answer = f"Hello {name}! How can I help you?", f"Your name is {name}."
        last = rng.choice(("What is my name?", "Who am I?", "Do you remember my name?"))
        key = name
    else:
        first = rng.choice(("My number is {}.", "Remember the number {}.", "Please remember {}.")).format(number)
        reply, answer = f"I will remember {number}.", f"The number is {number}."
        last = rng.choice(("What is my number?", "Which number was it?", "What was the number?"))
        key = str(number)
    turns = [Message(role="user", content=first), Message(role="assistant", content=reply)]
    if rng.random() < 0.3:
        turns += [Message(role="user", content="Thanks"), Message(role="assistant", content="You are welcome!")]
    turns += [Message(role="user", content=last), Message(role="assistant", content=answer)]
    return Example(family="memory", key=key, messages=tuple(turns), check=Check(expected=answer))


def framed(rng: Random, example: Example) -> Example:
    """Put a system prompt that changes nothing before a conversation that has none."""
    if example.messages[0].role == "system":
        return example
    frame = Message(role="system", content=rng.choice(_DEFAULT_SYSTEMS))
    return replace(example, messages=(frame, *example.messages))


def greeted(rng: Random, example: Example) -> Example:
    """Put a first exchange before a conversation that has no system message."""
    if example.messages[0].role == "system":
        return example
    return replace(example, messages=(*_greeting_turn(rng), *example.messages))


def _greeting_turn(rng: Random) -> tuple[Message, Message]:
    """A first exchange to put before another conversation."""
    phrasings, answer = rng.choice(_SMALL_TALK[:7])
    return Message(role="user", content=rng.choice(phrasings)), Message(role="assistant", content=answer)
