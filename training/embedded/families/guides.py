"""The tools that guides of clients show, and requests to them as people word them; `texts/guides.yaml` lists them.

Knows no conversation.
"""

from dataclasses import dataclass
from typing import Any

from training.embedded.families.texts import Draw, drawn, load


@dataclass(frozen=True, slots=True)
class Slot:
    """One argument: what clients call it (separated by spaces, each as likely), the JSON schema of its value, what draws one."""

    names: str
    schema: dict[str, Any]
    draw: Draw


@dataclass(frozen=True, slots=True)
class Guide:
    """One kind of tool. `texts/guides.yaml` explains the fields; the slots are its arguments, in the order of the schema."""

    names: str
    abouts: list[str]
    slots: list[Slot]
    sentences: list[str]
    topic: str


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
