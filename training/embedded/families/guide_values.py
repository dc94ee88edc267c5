"""What the tools of guides are made of: arguments with their schemas, and how a value of each kind is drawn.

Knows values; the tools themselves are in `guides`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from training.embedded.families.tool_schemas import CITIES
from training.embedded.families.vocabulary import COMMON, NAMES

STATES = ("San Francisco, CA", "New York, NY", "Boston, MA", "Austin, TX", "Paris, France", "Tokyo, Japan", "Sofia, Bulgaria")
LANGUAGES = ("French", "German", "Spanish", "Italian", "Bulgarian", "Chinese", "Japanese", "English", "Greek", "Dutch")
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "BGN", "CHF", "INR")
UNITS = ("km", "miles", "meters", "feet", "kg", "pounds", "liters", "gallons")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "tomorrow", "today")
ROOMS = ("kitchen", "bedroom", "office", "garage", "bathroom", "hallway", "living room")
COUNTRIES = ("France", "Germany", "Bulgaria", "China", "Japan", "Spain", "Italy", "Brazil", "India", "Canada", "Kenya")
GENRES = ("jazz", "rock", "comedy", "drama", "history", "science", "sports", "politics", "travel", "technology", "poetry")
_FOLDERS = ("docs", "src", "data", "tmp", "home", "logs", "images", "notes")
_ENDINGS = ("txt", "md", "csv", "json", "py", "log")
_TABLES = ("users", "orders", "products", "invoices", "books", "events")

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
INTEGER: dict[str, Any] = {"type": "integer"}

Draw = Callable[[Random], Any]


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
    abouts: tuple[str, ...]
    """Descriptions."""
    slots: tuple[Slot, ...]
    """Arguments, in the order of the schema."""
    sentences: tuple[str, ...]
    """Requests; `{0}` is the first argument's value, or a list of values where several things are asked for at once."""
    topic: str = ""
    """Shared by tools that could be taken for each other; without one a tool stands alone."""


def one_of(*values: Any) -> Draw:
    """Return what draws one of the values."""
    return lambda rng: rng.choice(values)


def between(low: int, high: int) -> Draw:
    """Return what draws an integer from `low` to `high`."""
    return lambda rng: rng.randint(low, high)


def some_words(*counts: int) -> Draw:
    """Return what draws common words, as many as one of the counts."""
    return lambda rng: " ".join(rng.choice(COMMON) for _ in range(rng.choice(counts)))


def where(rng: Random) -> str:
    """Draw a city, or one with its state or country."""
    return rng.choice(CITIES) if rng.random() < 0.7 else rng.choice(STATES)


def enum_slot(names: str, *values: str) -> Slot:
    """Return an argument that is one of the values."""
    return Slot(names, {"type": "string", "enum": list(values)}, one_of(*values))


def code(rng: Random) -> str:
    """Draw the number of an order or a user."""
    return rng.choice(("", "A", "B", "ORD-", "user_", "X")) + str(rng.randint(100, 99999))


def date(rng: Random) -> str:
    """Draw a date."""
    return f"{rng.randint(2023, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def clock(rng: Random) -> str:
    """Draw a time of day."""
    return f"{rng.randint(0, 23):02}:{rng.choice(('00', '15', '30', '45'))}"


def path(rng: Random) -> str:
    """Draw a file's path."""
    start = rng.choice(("", "/", "./")) + rng.choice(_FOLDERS)
    return f"{start}/{rng.choice(COMMON)}.{rng.choice(_ENDINGS)}"


def folder(rng: Random) -> str:
    """Draw a folder."""
    return rng.choice(("/", "./", "")) + rng.choice(_FOLDERS)


def link(rng: Random) -> str:
    """Draw a URL."""
    return f"https://{rng.choice(COMMON)}.{rng.choice(('com', 'org', 'net'))}" + rng.choice(("", "", f"/{rng.choice(COMMON)}"))


def sql(rng: Random) -> str:
    """Draw a query."""
    table = rng.choice(_TABLES)
    return rng.choice(
        (f"SELECT * FROM {table}", f"SELECT COUNT(*) FROM {table}", f"SELECT name FROM {table} LIMIT {rng.randint(1, 50)}")
    )


def calculation(rng: Random) -> str:
    """Draw an expression of two or three numbers."""
    first, second, third = rng.randint(1, 999), rng.randint(1, 99), rng.randint(1, 99)
    signs = [rng.choice("+-*/") for _ in range(2)]
    return f"{first} {signs[0]} {second}" + (f" {signs[1]} {third}" if rng.random() < 0.4 else "")


def money(rng: Random) -> float | int:
    """Draw an amount."""
    return rng.randint(1, 5000) if rng.random() < 0.7 else round(rng.uniform(1, 500), 2)


def mail(rng: Random) -> str:
    """Draw a mail address."""
    return f"{rng.choice(NAMES).lower()}@{rng.choice(('example', 'mail', rng.choice(COMMON)))}.{rng.choice(('com', 'org'))}"


PLACE = Slot("location location city place", TEXT, where)
UNIT = enum_slot("unit unit format", "celsius", "fahrenheit")
NAME = Slot("name name user person", TEXT, one_of(*NAMES))
DATE = Slot("date day", TEXT, date)
FROM = Slot("origin departure source", TEXT, one_of(*CITIES))
TO = Slot("destination arrival target", TEXT, one_of(*CITIES))
