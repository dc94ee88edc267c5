"""Finds the path and the API that a slightly wrong path means: without /v1, with it twice, below another API's root. Pure."""

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
    """The path that a request meant."""

    dialect: Dialect
    path: str
    served: bool
    """Whether the path has an endpoint here."""


def find_dialect(path: str, dialects: Sequence[Dialect]) -> Dialect:
    """Return the dialect in which errors at `path` are answered.

    The dialect of the right path, else the dialect with the longest matching prefix, else the one with the shortest prefix.
    """
    right_path = find_right_path(path, dialects)
    if right_path is not None:
        return right_path.dialect
    return max(dialects, key=lambda each: _measure_fit(path, each))


def suggest_path(path: str, dialects: Sequence[Dialect]) -> str:
    """Return advice for a client that requested `path`, which has no endpoint."""
    right_path, listed = find_right_path(path, dialects), "GET /openapi.json lists them"
    if right_path is None or right_path.path == path:
        return listed
    shown = right_path.path[:_SHOWN_CHARS]
    if not right_path.served:
        return f"the path of such a request is {shown}, which is not served either; {listed}"
    return f"the right path is {shown}: {right_path.dialect.base_url}"


def is_absent(path: str, dialects: Sequence[Dialect]) -> bool:
    """Return whether other servers of its API have an endpoint at `path` and this one lacks it, though a template here fits."""
    return any(path == f"{dialect.prefix}{absent}" for dialect in dialects for absent in dialect.absent if "/" in absent)


def find_right_path(path: str, dialects: Sequence[Dialect]) -> RightPath | None:
    """Return the path that a request to `path` meant; None where no endpoint is similar."""
    roots = {root: dialect for dialect in dialects if (root := dialect.prefix.strip("/")) and "/" not in root}
    segments = [segment for segment in path.split("/") if segment]
    at = [index for index, segment in enumerate(segments) if segment.casefold() in roots or segment.casefold() in _ALIASES]
    rest = segments[at[-1] + 1 :] if at else segments
    if not rest:
        return None
    named = [roots[segment.casefold()] for segment in reversed(segments) if segment.casefold() in roots]
    for dialect in dict.fromkeys(named + list(roots.values())[: 1 if named else None]):  # the named APIs, else the first
        served_path = _find_served(dialect.prefix + "/".join(rest), dialects)
        if served_path is not None:
            return served_path
        if rest[0].casefold() in dialect.absent and (dialect in named or not named):
            return RightPath(dialect=dialect, path=dialect.prefix + "/".join(rest), served=False)
    return _find_served("/" + "/".join(rest), dialects) if at else None


def _find_served(path: str, dialects: Sequence[Dialect]) -> RightPath | None:
    """Return the endpoint at `path`; of several dialects that have it, the one whose prefix fits best."""
    found = [
        RightPath(dialect=dialect, path=path if "{" in endpoint.path else endpoint.path, served=True)
        for dialect in dialects
        for endpoint in dialect.endpoints
        if _compile_template(endpoint.path).fullmatch(path)
    ]
    return max(found, key=lambda each: _measure_fit(path, each.dialect), default=None)


def _measure_fit(path: str, dialect: Dialect) -> int:
    """Return the length of a dialect's prefix where the path is below it, else less than that of any such dialect."""
    return len(dialect.prefix) if f"{path}/".startswith(dialect.prefix) else -len(dialect.prefix)


def _compile_template(template: str) -> re.Pattern[str]:
    escaped = re.escape(template)
    return re.compile(_PARAMETER.sub(lambda match: ".+" if match[1] else "[^/]+", escaped), re.IGNORECASE)
