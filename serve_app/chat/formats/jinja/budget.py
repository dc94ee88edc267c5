"""Bounds the time and memory of one run of a template: every loop body, call and new text spends steps of a budget.

Knows no templates. The budget stands in a context variable, so that filters and operators need no parameter for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_BASE_STEPS = 200_000
_STEPS_PER_CHAR = 4
_BASE_TEXT_CHARS = 1_000_000
_TEXT_CHARS_PER_CHAR = 8
_CHARS_PER_STEP = 16
"""Characters that can be written in about the time of one step."""
_READ_CHARS_PER_STEP = 256
"""Characters that can be compared or searched in that time."""
_STEPS_AT_ONCE = 1000
MAX_NUMBER_BITS = 512
MAX_WIDTH = 10_000
"""The widest field, indentation or line that a template may ask for."""


class BudgetExceeded(Exception):
    """A template needs more time or memory than it may have."""


class Budget:
    """The steps that one run has left, and the longest text that it may make."""

    def __init__(self, input_chars: int) -> None:
        """Allow for a conversation of this size, see `serve_app.chat.formats.jinja.variables.measure`."""
        self.steps = _BASE_STEPS + _STEPS_PER_CHAR * input_chars
        self.longest_text = _BASE_TEXT_CHARS + _TEXT_CHARS_PER_CHAR * input_chars


_BUDGET: ContextVar[Budget] = ContextVar("template_budget")


@contextmanager
def limit(input_chars: int) -> Iterator[None]:
    """Run the body with a new budget for a conversation of `input_chars` characters."""
    token = _BUDGET.set(Budget(input_chars))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def spend(steps: int = 1) -> None:
    """Take steps from the budget; raises `BudgetExceeded` when it is used up."""
    budget = _BUDGET.get()
    budget.steps -= steps
    if budget.steps < 0:
        raise BudgetExceeded("it runs too long")


def spend_text(chars: int) -> None:
    """Take the steps of writing a text; call it before the text is made."""
    if chars > _BUDGET.get().longest_text:
        raise BudgetExceeded("it makes too long a text")
    spend(1 + chars // _CHARS_PER_STEP)


def spend_deep(value: object, *, indent: int = 0) -> None:
    """Take the steps of reading a value with all that it contains, as comparing, sorting, hashing and printing do.

    A part that occurs several times counts as often, because these operations read it as often. `indent` is the number of
    characters per level with which the value is printed.
    """
    pending = [(value, 0)]
    steps = 0
    while pending:
        item, depth = pending.pop()
        steps += 1 + depth * indent // _CHARS_PER_STEP
        if isinstance(item, str):
            steps += len(item) // _READ_CHARS_PER_STEP
        elif isinstance(item, dict):
            pending += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list | tuple):
            pending += [(part, depth + 1) for part in item]
        if steps > _STEPS_AT_ONCE:
            spend(steps)
            steps = 0
    spend(steps)


def charge_deep(value: Any) -> Any:
    """Take the steps of `spend_deep` and return the value."""
    spend_deep(value)
    return value


def require_width(width: object) -> None:
    """Raise `BudgetExceeded` for a number beyond the widest field; other values pass."""
    if isinstance(width, int) and abs(width) > MAX_WIDTH:
        raise BudgetExceeded(
            f"it asks for a width of {width}" if width.bit_length() < MAX_NUMBER_BITS else "it asks for a huge width"
        )
