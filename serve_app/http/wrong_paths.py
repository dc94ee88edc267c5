"""Paths that are a little wrong: without /v1, with it twice, below another API's root. Finds the right one and its API. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.dialects.base import Dialect

_ALIASES = frozenset(("openai", "ollama"))
"""Segments that other servers put before the APIs of these names."""
_SHOWN_CHARS = 200
_PARAMETER = re.compile(r"\\\{\w+(:path)?\\\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RightPath:
    """Where a request should have gone."""

    dialect: Dialect
    path: str
    served: bool
    """Whether there is such an endpoint."""


def find_dialect(path: str, dialects: Sequence[Dialect]) -> Dialect:
    """Return the dialect in which errors at `path` are answered.

    It is that of the right path, else the one with the longest prefix of this one, else the one with the shortest prefix.
    """
    place = find_right_path(path, dialects)
    if place is not None:
        return place.dialect
    return max(dialects, key=lambda each: len(each.prefix) if f"{path}/".startswith(each.prefix) else -len(each.prefix))


def suggest_path(path: str, dialects: Sequence[Dialect]) -> str:
    """Return what to say of `path`, which no endpoint has, besides that."""
    place, listed = find_right_path(path, dialects), "GET /openapi.json lists them"
    if place is None or place.path == path:
        return listed
    shown = place.path[:_SHOWN_CHARS]
    if not place.served:
        return f"the path of such a request is {shown}, which is not served either; {listed}"
    return f"the right path is {shown}: {place.dialect.base_url}"


def find_right_path(path: str, dialects: Sequence[Dialect]) -> RightPath | None:
    """Return where a request to `path` should have gone; None where nothing is like it."""
    roots = {dialect.prefix.strip("/"): dialect for dialect in dialects if dialect.prefix != "/"}
    segments = [segment for segment in path.split("/") if segment]
    at = [index for index, segment in enumerate(segments) if segment.casefold() in roots or segment.casefold() in _ALIASES]
    rest = segments[at[-1] + 1 :] if at else segments
    if not rest:
        return None
    named = [roots[segment.casefold()] for segment in reversed(segments) if segment.casefold() in roots]
    for dialect in dict.fromkeys(named + list(roots.values())[: 1 if named else None]):  # any may have been meant, or the first
        found = _served(dialect.prefix + "/".join(rest), dialects)
        if found is not None:
            return found
        if rest[0].casefold() in dialect.absent and (dialect in named or not named):
            return RightPath(dialect=dialect, path=dialect.prefix + "/".join(rest), served=False)
    return _served("/" + "/".join(rest), dialects) if at else None


def _served(path: str, dialects: Sequence[Dialect]) -> RightPath | None:
    for dialect in dialects:
        for endpoint in dialect.endpoints:
            if _pattern(endpoint.path).fullmatch(path):
                right = path if "{" in endpoint.path else endpoint.path
                return RightPath(dialect=dialect, path=right, served=True)
    return None


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template)
    return re.compile(_PARAMETER.sub(lambda match: ".+" if match[1] else "[^/]+", escaped), re.IGNORECASE)
