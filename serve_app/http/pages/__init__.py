"""Serves the pages for browsers: the playground, the operations page, the API reference and the landing page.

One ASGI layer in front of the check of callers: pages hold nothing that a key protects, and the data behind them needs the key. It
knows files of the package only, which are read once. Everything else, and `GET /` of clients that are no browsers, passes through.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(__file__).parent
PAGES: Mapping[str, str] = MappingProxyType({"/": "landing", "/ui": "ui", "/ops": "ops", "/docs": "docs"})
"""Paths of pages, and the folders with their `index.html`."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",  # browsers keep a file and ask by its etag, so another version is seen at once
    }
)
_TYPES: Mapping[str, str] = MappingProxyType(
    {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".json": "application/json"}
)
"""Media types by the end of the name; the machine's own table may differ. Files of other kinds are not served."""
_PREFIX = "/pages/"


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a page."""

    content: bytes
    media_type: str
    etag: str


class PagesLayer:
    """Answers GET and HEAD for pages and their files; lets the application answer everything else."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        file = _find(scope) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else None
        if file is None:
            await self._app(scope, receive, send)
            return
        headers = {**_HEADERS, "etag": file.etag, "vary": "accept"}
        if _matches(Headers(scope=scope).get("if-none-match", ""), file.etag):
            await Response(None, 304, headers)(scope, receive, send)
            return
        headers["content-length"] = str(len(file.content))
        body = file.content if scope["method"] == "GET" else b""
        await Response(body, 200, headers, file.media_type)(scope, receive, send)


def _find(scope: Scope) -> _File | None:
    path = scope["path"]
    if path.startswith(_PREFIX):
        return load_files().get(path.removeprefix(_PREFIX))
    folder = PAGES.get(path.removesuffix("/") or "/")
    if folder is None or (path == "/" and not prefers_html(",".join(Headers(scope=scope).getlist("accept")))):
        return None
    return load_files().get(f"{folder}/index.html")


@cache
def load_files() -> Mapping[str, _File]:
    """Return every file of the pages by `folder/name`."""
    found = {}
    for file in sorted(FOLDER.glob("*/*")):
        media_type = _TYPES.get(file.suffix)
        if media_type is not None and file.is_file():
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[f"{file.parent.name}/{file.name}"] = _File(content, media_type, etag)
    return MappingProxyType(found)


def prefers_html(accept: str) -> bool:
    """Return whether an Accept header names HTML, and no other form of `GET /` before it: only browsers send such headers."""
    weights = dict(_parse_range(each) for each in reversed(accept.split(",")))
    html = weights.get("text/html", 0.0)
    return html > 0 and html >= max(weights.get("application/json", 0.0), weights.get("text/plain", 0.0))


def _parse_range(given: str) -> tuple[str, float]:
    """Return a media type of an Accept header and its weight; 0 where the weight is none."""
    media_type, *parameters = (part.strip().lower() for part in given.split(";"))
    weight = next((value for name, _, value in (each.partition("=") for each in parameters) if name.strip() == "q"), "1")
    try:
        return media_type, float(weight)
    except ValueError:
        return media_type, 0.0


def _matches(header: str, etag: str) -> bool:
    """Return whether an If-None-Match header holds the tag; proxies that compress mark it as weak."""
    return header.strip() == "*" or any(each.strip().removeprefix("W/") == etag for each in header.split(","))
