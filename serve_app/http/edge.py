"""Wraps all endpoints: rules for browsers, whole answers for HTTP/1.0 clients, odd query bytes, and errors in a dialect's shape.

One ASGI layer around the application. Knows no endpoint.
"""

import logging
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import ServeError
from serve_app.http.browsers import BrowserRules, refuse_origin

logger = logging.getLogger(__name__)

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_PREFLIGHT_S = 12 * 3600
"""How long a browser may remember that it may call, as with Ollama."""
_HEADER_NAMES = re.compile(r"[\w!#$%&'*+.^`|~, -]{0,2000}", re.ASCII)
_EXPOSED = frozenset({"retry-after", "www-authenticate", "request-id"})
_EXPOSED_PREFIXES = ("x-", "anthropic-")
"""Headers that pages may read."""
_PROBE_PATHS = frozenset({"/livez", "/health", "/metrics"})
"""Paths of probes, which may use any host name."""

Refuse = Callable[[Scope, ServeError | None], Response]
"""Returns an error's response in the dialect of the path; None stands for an unforeseen error."""


class Edge:
    """Checks a request's Host and Origin, lets the application answer, and adds the headers that browsers need."""

    def __init__(self, app: ASGIApp, *, rules: BrowserRules, refuse: Refuse) -> None:
        """Wrap `app`."""
        self._app = app
        self._rules = rules
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Bytes beyond ASCII in a query are percent-encoded, as browsers do it: the framework would fail to decode them.
        query = quote(scope.get("query_string", b""), safe="%/:?#[]@!$&'()*+,;=~")
        scope = dict(scope) | {"query_string": query.encode()}
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        try:
            self._require_host(scope, headers)
            if origin is not None and not self._rules.allows_origin(origin, headers.get("host", "")):
                raise refuse_origin(origin)
        except ServeError as error:
            await self._refuse(scope, error)(scope, receive, send)
            return
        if origin is not None:
            send = self._with_cross_origin(origin, send)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await Response(status_code=204, headers=_allow_preflight(headers))(scope, receive, send)
                return
        if scope.get("http_version", "1.1") < "1.1":
            await self._answer_whole(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    def _require_host(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] in _PROBE_PATHS:
            return
        server = scope.get("server")
        for host in headers.getlist("host") or [""]:
            self._rules.require_host(host, server[0] if server else None)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer; an unforeseen exception becomes an error in the dialect's shape."""
        begun = False

        async def note_and_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, note_and_send)
        except Exception:
            if begun:
                raise
            logger.exception("%s %r failed", scope["method"], scope["path"])
            await self._refuse(scope, None)(scope, receive, send)

    async def _answer_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a client without chunked coding (HTTP/1.0): collect a streamed answer, and send it with its length.

        RFC 9112, section 6.1, forbids chunked coding here, and the server in front adds it to every answer without a length.
        """
        start: dict[str, Any] = {}
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                body = b"".join(parts)
                MutableHeaders(scope=start).setdefault("content-length", str(len(body)))
                await send(start)
                await send({"type": "http.response.body", "body": body})

        # With ASGI below 2.4 the framework listens for a client that leaves; with later versions only a failed send would show it.
        asgi = dict(scope.get("asgi", {})) | {"spec_version": "2.3"}
        await self._answer(dict(scope) | {"asgi": asgi}, receive, collect)

    def _with_cross_origin(self, origin: str, send: Send) -> Send:
        """Return `send` with the headers that let a page of `origin` read the answer and our own headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["access-control-allow-origin"] = "*" if self._rules.any_origin else origin
                if not self._rules.any_origin:
                    headers.add_vary_header("Origin")
                exposed = [name for name in dict.fromkeys(headers.keys()) if name.startswith(_EXPOSED_PREFIXES) or name in _EXPOSED]
                if exposed:
                    headers["access-control-expose-headers"] = ", ".join(exposed)
            await send(message)

        return send_with_headers


def _allow_preflight(headers: Headers) -> dict[str, str]:
    """Return the headers that allow a browser any method, and the headers that it asks for."""
    allowed = {"access-control-allow-methods": _METHODS, "access-control-max-age": str(_PREFLIGHT_S)}
    requested = headers.get("access-control-request-headers", "")
    if requested and _HEADER_NAMES.fullmatch(requested):
        allowed["access-control-allow-headers"] = requested
    if headers.get("access-control-request-private-network") == "true":
        allowed["access-control-allow-private-network"] = "true"
    return allowed
