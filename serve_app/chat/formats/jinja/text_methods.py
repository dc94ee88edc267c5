"""The methods of strings that templates call, on text that knows its origins. The text is the first argument of each."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from serve_app.chat.formats.jinja.budget import require_width, spend, spend_deep, spend_text
from serve_app.chat.formats.jinja.tracked_text import TrackedText, concat, find_origins, mark, track


def change_case(method: Callable[[str], str]) -> Callable[[str], str]:
    """Return a method that changes letters. They keep their origins where the length stays; no such method shortens text."""

    def changed(text: str) -> str:
        spend_text(3 * len(text))
        result = method(text)
        if not isinstance(text, TrackedText):
            return result
        return track(result, find_origins(text)) if len(result) == len(text) else mark(result)

    return changed


def strip(text: str, chars: str | None = None) -> str:
    """See `str.strip`."""
    return lstrip(rstrip(text, chars), chars)


def lstrip(text: str, chars: str | None = None) -> str:
    """See `str.lstrip`."""
    spend_text(len(text))
    return text[len(text) - len(str.lstrip(text, chars)) :]


def rstrip(text: str, chars: str | None = None) -> str:
    """See `str.rstrip`."""
    spend_text(len(text))
    return text[: len(str.rstrip(text, chars))]


def removeprefix(text: str, prefix: str) -> str:
    """See `str.removeprefix`."""
    spend_text(len(text))
    return text[len(prefix) :] if text.startswith(prefix) else text


def removesuffix(text: str, suffix: str) -> str:
    """See `str.removesuffix`."""
    spend_text(len(text))
    return text[: len(text) - len(suffix)] if suffix and text.endswith(suffix) else text


def split(text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    """See `str.split`."""
    return _cut(text, str.split(text, sep, maxsplit), sep)


def rsplit(text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    """See `str.rsplit`."""
    return _cut(text, str.rsplit(text, sep, maxsplit), sep)


def _cut(text: str, parts: list[str], sep: str | None) -> list[str]:
    """Return the parts, which follow each other in `text`, with their origins; None: white space stands between them."""
    spend(len(parts))
    spend_text(len(text))
    cut, at = [], 0
    for part in parts:
        at = str.find(text, part, at) if sep is None else at
        cut.append(text[at : at + len(part)])
        at += len(part) + len(sep or "")
    return cut


def splitlines(text: str, keepends: bool = False) -> list[str]:
    """See `str.splitlines`."""
    lines, at = [], 0
    whole = str.splitlines(text, True)
    spend(len(whole))
    spend_text(len(text))
    for line, short in zip(whole, str.splitlines(text), strict=True):
        lines.append(text[at : at + len(line if keepends else short)])
        at += len(line)
    return lines


def partition(text: str, sep: str) -> tuple[str, ...]:
    """See `str.partition`."""
    return tuple(_cut(text, list(str.partition(text, sep)), ""))


def rpartition(text: str, sep: str) -> tuple[str, ...]:
    """See `str.rpartition`."""
    return tuple(_cut(text, list(str.rpartition(text, sep)), ""))


def replace(text: str, old: str, new: str, count: int = -1) -> str:
    """See `str.replace`."""
    found = str.count(text, old)
    spend_text(len(text) + (found if count < 0 else min(found, count)) * len(new))
    if old == "":
        result = str.replace(text, old, new, count)
        return mark(result) if isinstance(text, TrackedText) or isinstance(new, TrackedText) else result
    return join(new, split(text, old, count))


def join(separator: str, items: Iterable[str]) -> str:
    """See `str.join`."""
    pieces: list[str] = []
    for at, item in enumerate(items):
        if not isinstance(item, str):
            raise TypeError(f"sequence item {at}: expected str instance, {type(item).__name__} found")
        spend()
        pieces += [separator, item] if at else [item]
    return concat(pieces)


def center(text: str, width: int, fill: str = " ") -> str:
    """See `str.center`."""
    pad = max(0, width - len(text))
    return _pad(text, width, fill, pad // 2 + (pad & width & 1))


def ljust(text: str, width: int, fill: str = " ") -> str:
    """See `str.ljust`."""
    return _pad(text, width, fill, 0)


def rjust(text: str, width: int, fill: str = " ") -> str:
    """See `str.rjust`."""
    return _pad(text, width, fill, max(0, width - len(text)))


def _pad(text: str, width: int, fill: str, left: int) -> str:
    require_width(width)
    if len(fill) != 1:
        raise TypeError("The fill character must be exactly one character long")
    right = max(0, width - len(text)) - left
    return concat((repeat(fill, left), text, repeat(fill, right)))


def repeat(text: str, times: int) -> str:
    """Return what `text * times` is."""
    spend_text(len(text) * max(0, times))
    return track(str.__mul__(text, times), find_origins(text) * times)


def zfill(text: str, width: int) -> str:
    """See `str.zfill`."""
    require_width(width)
    return _follow(text, str.zfill(text, width))


def expandtabs(text: str, tabsize: int = 8) -> str:
    """See `str.expandtabs`."""
    require_width(tabsize)
    spend_text(len(text) + text.count("\t") * max(0, tabsize))
    return _follow(text, str.expandtabs(text, tabsize))


def _follow(text: str, result: str) -> str:
    return mark(result) if isinstance(text, TrackedText) else result


def _wrap_reader(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that returns no text."""

    def spent(text: str, *args: Any) -> Any:
        spend_deep((text, *args))
        return method(text, *args)

    return spent


_READERS = (
    *("find", "rfind", "index", "rindex", "count", "startswith", "endswith", "isalnum", "isalpha", "isascii", "isdecimal"),
    *("isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper"),
)
_CASES = ("capitalize", "casefold", "lower", "swapcase", "title", "upper")
TEXT_METHODS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {name: _wrap_reader(getattr(str, name)) for name in _READERS}
    | {name: change_case(getattr(str, name)) for name in _CASES}
    | {
        method.__name__: method
        for method in (
            *(strip, lstrip, rstrip, removeprefix, removesuffix, split, rsplit, splitlines, partition, rpartition),
            *(replace, join, center, ljust, rjust, zfill, expandtabs),
        )
    }
)
"""The methods that templates may call, beside `format` and `format_map`, which need the sandbox."""
