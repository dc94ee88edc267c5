"""`phi-serve usage`: what every key used, as the running application counts it."""

from collections import Counter
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from serve_app.client.commands import Url, print_table, report_errors
from serve_app.client.server import DEFAULT_URL, Server

_FIGURES = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens", "engine_seconds")
_Date = Annotated[str | None, typer.Option(help="A day (UTC) such as 2026-11-30.", metavar="DATE")]


def show_usage(
    since: _Date = None,
    until: _Date = None,
    key: Annotated[str | None, typer.Option("--key", help="Only this key.")] = None,
    by_day: Annotated[bool, typer.Option("--by-day", help="A row per day instead of the sum.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show what every key used of every model. The key in PHI_SERVE_API_KEY sees its own usage, or all with the scope operate."""
    asked = {name: value for name, value in (("since", since), ("until", until), ("key", key)) if value}
    with report_errors():
        rows = Server(url).request(f"/v1/usage?{urlencode(asked)}")["data"]
    sums: dict[tuple[str, ...], Counter[str]] = {}
    for row in rows:
        place = (row["key"], row["model"], *((row["date"],) if by_day else ()))
        sums.setdefault(place, Counter()).update({name: row[name] for name in _FIGURES})
    header = ("KEY", "MODEL", *(("DATE",) if by_day else ()), "REQUESTS", "ERRORS", "PROMPT", "CACHED", "COMPLETION", "ENGINE S")
    print_table(header, [(*place, *map(_show, (total[name] for name in _FIGURES))) for place, total in sums.items()])


def _show(figure: Any) -> str:
    return f"{figure:.1f}" if isinstance(figure, float) else f"{figure:,}"
