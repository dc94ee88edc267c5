"""The filters and tests of chat templates: Jinja's own names and results, on text that knows its origins, within the budget.

Jinja's filters that return parts of their input are used as they are. Those that only change markup (`striptags`, `urlize`,
`xmlattr`, `pprint`, `wordwrap`) or draw at random are left out: no chat template uses them, and their time is not bounded.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

from jinja2 import Environment, Undefined, pass_environment
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.tests import TESTS
from markupsafe import escape

from serve_app.chat.formats.jinja import text_methods
from serve_app.chat.formats.jinja.budget import require_width, spend, spend_deep, spend_text
from serve_app.chat.formats.jinja.formatting import format_percent
from serve_app.chat.formats.jinja.tracked_text import TrackedText, concat, is_tracked, mark, to_text

Function = Callable[..., Any]
_JINJA_FILTERS: Mapping[str, Any] = FILTERS
_JINJA_TESTS: Mapping[str, Any] = TESTS
_SELECTING = (
    *("attr", "batch", "default", "d", "dictsort", "first", "groupby", "items", "last", "list", "map", "max", "min"),
    *("reject", "rejectattr", "select", "selectattr", "slice", "sort", "unique"),
)
"""Filters that return parts of what they are given, so that the parts keep their origins."""
_SHALLOW = (
    "attr",
    "default",
    "d",
    "first",
    "items",
    "last",
    "length",
    "count",
    "map",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
)
"""Filters whose time does not grow with what their input contains; those that loop spend steps for each part."""
_NUMERIC = ("abs", "float", "int", "length", "count", "round", "wordcount")
_UNTRACKED = ("filesizeformat", "truncate", "urlencode")
"""Filters whose text counts as a client's where any input is one."""


def build_filters() -> dict[str, Function]:
    """Return the filters by name."""
    jinja = {name: _add_spending(name, _JINJA_FILTERS[name]) for name in (*_SELECTING, *_NUMERIC)}
    untracked = {name: _add_marking(name, _JINJA_FILTERS[name]) for name in _UNTRACKED}
    cases = {name: _take_text(text_methods.TEXT_METHODS[name]) for name in ("capitalize", "lower", "upper")}
    own: Mapping[str, Function] = {
        "string": to_text,
        "trim": _take_text(text_methods.strip),
        "title": _take_text(text_methods.change_case(_JINJA_FILTERS["title"])),
        "escape": _escape,
        "forceescape": _escape,
        "e": _escape,
        "safe": to_text,  # prompts are no HTML: nothing is escaped that `safe` would have to exempt
        "center": lambda value, width=80: text_methods.center(to_text(value), width),
        "replace": _replace,
        "join": _join,
        "format": _format,
        "indent": _indent,
        "reverse": _reverse,
        "sum": _sum,
        "tojson": to_json,
    }
    return {**jinja, **untracked, **cases, **own}


def build_tests() -> dict[str, Function]:
    """Return the tests by name."""
    return {name: _add_spending(name, test) for name, test in _JINJA_TESTS.items()}


def _add_spending(name: str, function: Function) -> Function:
    """Return a function that takes the steps of its work from the budget first."""
    spend_input = spend_shallow if name in _SHALLOW else spend_deep

    @wraps(function)
    def spent(*args: Any, **kwargs: Any) -> Any:
        skipped = 1 if hasattr(function, "jinja_pass_arg") else 0
        for argument in (*args[skipped:], *kwargs.values()):
            spend_input(argument)
        for width in (*args[skipped + 1 :], *kwargs.values()):
            if name in ("batch", "slice", "round", "truncate"):
                require_width(width)
        result = function(*args, **kwargs)
        if isinstance(result, list):
            spend(len(result))
        return result

    return spent


def spend_shallow(value: object) -> None:
    """Take one step, whatever the value contains."""
    spend()


def _add_marking(name: str, function: Function) -> Function:
    spending = _add_spending(name, function)

    @wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        result = str(spending(*args, **kwargs))
        spend_text(len(result))
        value, *others = args[1:] if hasattr(function, "jinja_pass_arg") else args
        tracked = is_tracked(value) or any(isinstance(each, TrackedText) for each in (*others, *kwargs.values()))
        return mark(result) if tracked else "".join((result,))

    return marked


def _take_text(method: Function) -> Function:
    def apply(value: Any, *args: Any, **kwargs: Any) -> Any:
        return method(to_text(value), *args, **kwargs)

    return apply


def _escape(value: Any) -> str:
    """Return text for HTML; unlike Jinja's it is an ordinary string, as every string in a chat template is."""
    text = to_text(value)
    spend_text(6 * len(text))
    result = str(escape("".join((text,))))
    return mark(result) if isinstance(text, TrackedText) else result


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    return text_methods.replace(to_text(value), to_text(old), to_text(new), -1 if count is None else count)


@pass_environment
def _join(environment: Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return text_methods.join(to_text(d), map(to_text, items))


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TypeError("can't handle positional and keyword arguments at the same time")
    return format_percent(to_text(value), kwargs or args)


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Return the lines indented, but for the first one unless `first`, and for blank ones unless `blank`."""
    require_width(width)
    indention = width if isinstance(width, str) else " " * width
    lines = text_methods.splitlines(concat((to_text(s), "\n")))
    pieces: list[str] = [indention] if first else []
    spend_text(len(lines) * (len(indention) + 1))
    for at, line in enumerate(lines):
        if at:
            pieces += ["\n", indention if line or blank else ""]
        pieces.append(line)
    return concat(pieces)


def _reverse(value: Any) -> Any:
    spend_deep(value)
    if isinstance(value, str):
        return value[::-1]
    return _JINJA_FILTERS["reverse"](value)


@pass_environment
def _sum(environment: Environment, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """Return the sum of numbers; sums of lists are refused, because they copy every part again and again."""
    items = iterable if attribute is None else map(make_attrgetter(environment, attribute), iterable)
    total = start
    for item in items:
        spend()
        if not isinstance(total, int | float) or not isinstance(item, int | float):
            raise TypeError("sum adds numbers only")
        total = total + item
    return total


def to_json(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON; the signature is that of `transformers`' filter.

    The text counts as a client's unless `x` is text of the template.
    """
    levels = indent if isinstance(indent, int) else len(indent or "")
    require_width(levels)
    spend_deep(x, indent=levels)
    text = json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    spend_text(len(text))
    return text if isinstance(x, str) and not isinstance(x, TrackedText) else mark(text)


def iterate(value: Any) -> Any:
    """Take the steps of iterating over text; the bodies of loops take those of other values."""
    if isinstance(value, str):
        spend(len(value))
    return value


def charge(value: Any) -> Any:
    """Take one step and return the value."""
    spend()
    return value


def charge_slice(value: Any) -> Any:
    """Take the steps of copying a value and return it."""
    if isinstance(value, str):
        spend_text(len(value))
    elif isinstance(value, list | tuple):
        spend(1 + len(value) // 8)
    return value


def concat_values(values: Iterator[Any]) -> str:
    """Return values joined as the operator `~` joins them."""
    return concat(map(to_text, values))


def print_value(value: Any) -> str:
    """Return a value as a template prints it, and take the steps of that."""
    text = "" if isinstance(value, Undefined) else to_text(value)
    spend()
    return text
