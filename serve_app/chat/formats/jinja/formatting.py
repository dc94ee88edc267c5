"""`%` and `str.format` on text that knows its origins. The fields' widths are bounded; widths taken from values are refused."""

import re
from collections.abc import Callable, Iterator, Mapping
from string import Formatter
from typing import Any

from serve_app.chat.formats.jinja.budget import BudgetExceeded, charge_deep, require_width, spend_deep, spend_text
from serve_app.chat.formats.jinja.tracked_text import TrackedText, concat, mark

_FIELD = re.compile(r"%(?:\((?P<key>[^)]*)\))?(?P<style>[#0\- +]*(?:\d+|\*)?(?:\.(?:\d+|\*)?)?[hlL]?)(?P<kind>.)", re.DOTALL)
_NUMBER = re.compile(r"\d+")
GetField = Callable[[str, tuple[Any, ...], Mapping[str, Any]], Any]
"""Returns the value of a field such as `0.name`."""


def format_percent(template: str, values: Any) -> str:
    """Return what `template % values` is; raises what it raises."""
    if isinstance(template, TrackedText):
        return mark(_check_plain(template) % charge_deep(values))
    return concat(_format_pieces(template, values))


def _format_pieces(template: str, values: Any) -> Iterator[str]:
    queue = iter(values if isinstance(values, tuple) else (values,))
    at = 0
    for field in _FIELD.finditer(template):
        yield template[at : field.start()]
        at = field.end()
        if field["kind"] == "%":
            yield field[0] % ()
            continue
        if field["key"] is not None:
            value = values[field["key"]]
        else:
            value = next(queue, queue)
            if value is queue:
                raise TypeError("not enough arguments for format string")
        yield _format_one(value, field["style"], f"%{field['style']}{field['kind']}", field["kind"] == "s")
    rest = template[at:]
    yield rest % () if "%" in rest else rest
    if not isinstance(values, dict | list) and next(queue, queue) is not queue:
        raise TypeError("not all arguments converted during string formatting")


def _format_one(value: Any, style: str, pattern: str, is_text: bool) -> str:
    if is_text and not style and isinstance(value, str):
        return value
    result = _check_plain(pattern) % (charge_deep(value),)
    return result if isinstance(value, str) and not isinstance(value, TrackedText) else mark(result)


def _check_plain(pattern: str) -> str:
    """Return a pattern of `%` as a plain string; raises `BudgetExceeded` where its widths are too large or come from values."""
    for field in _FIELD.finditer(pattern):
        if "*" in field["style"]:
            raise BudgetExceeded("it formats with a width from a value")
        _require_widths(field["style"])
    return "".join((pattern,))


def _require_widths(style: str) -> None:
    for number in _NUMBER.findall(style):
        require_width(int(number[:9]))


def format_braces(template: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], get_field: GetField) -> str:
    """Return what `template.format(*args, **kwargs)` is; `get_field` keeps to the sandbox. Raises what it raises."""
    text = concat(_format_fields("".join((template,)), args, kwargs, get_field))
    return mark(text) if isinstance(template, TrackedText) else text


def _format_fields(template: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], get_field: GetField) -> Iterator[str]:
    formatter, count = Formatter(), 0
    for literal, name, style, conversion in formatter.parse(template):
        yield literal
        if name is None:
            continue
        if style and "{" in style:
            raise BudgetExceeded("it formats with a width from a value")
        _require_widths(style or "")
        if name == "" or name[0] in ".[":
            name, count = f"{count}{name}", count + 1
        value = get_field(name, args, kwargs)
        if isinstance(value, str) and not style and conversion in (None, "s"):
            yield value
            continue
        spend_deep(value)
        result = format(formatter.convert_field(value, conversion) if conversion else value, style or "")
        spend_text(len(result))
        yield result if isinstance(value, str) and not isinstance(value, TrackedText) else mark(result)
