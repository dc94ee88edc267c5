"""What a coding task is. Knows none."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One coding task."""

    asks: tuple[str, ...]
    """Whole phrasings of the task, always trained on."""
    nouns: tuple[str, ...]
    """What is wanted, to be put into a frame such as "Write {} in Python."; such questions are held out by their wording."""
    text: str
    """The program."""
    test: str
    """Statements that raise when the program is wrong."""
