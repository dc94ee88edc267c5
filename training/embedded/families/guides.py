"""The tools that guides of clients show, and requests to them as people word them; `texts/guides.yaml` lists them.

Knows no conversation.
"""

from dataclasses import dataclass
from typing import Any

from training.embedded.families.texts import Draw, drawn, load


@dataclass(frozen=True, slots=True)
class Slot:
    """One argument: what clients call it, its JSON schema, and a value."""

    names: str
    """Separated by spaces; each as likely."""
    schema: dict[str, Any]
    """Of its value."""
    draw: Draw
    """Draws a value."""


@dataclass(frozen=True, slots=True)
class Guide:
    """One kind of tool."""

    names: str
    """Separated by spaces."""
    abouts: list[str]
    """Descriptions."""
    slots: list[Slot]
    """Arguments, in the order of the schema."""
    sentences: list[str]
    """Requests; `{0}` is the first argument's value, or a list of values where several things are asked for at once."""
    topic: str
    """Shared by tools that could be taken for each other; the names of a tool that stands alone."""


def _slot(names: str, description: str) -> Slot:
    """Read an argument: its JSON type, or `enum`, and then how its value is drawn."""
    kind, _, value = description.partition(" ")
    if kind == "enum":
        values = value.split()
        return Slot(names, {"type": "string", "enum": values}, lambda rng: rng.choice(values))
    return Slot(names, {"type": kind}, drawn(value))


def _guide(*, names: str, arguments: dict[str, str], topic: str = "", **texts: list[str]) -> Guide:
    return Guide(names=names, slots=[_slot(*each) for each in arguments.items()], topic=topic or names, **texts)


GUIDES = [_guide(**entry) for entry in load("guides")]
