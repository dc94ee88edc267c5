"""What every answer needs whatever its endpoint: the rules for browsers, old clients, broken bytes, and no failure without a shape.

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
_PROBED = frozenset({"/livez", "/health", "/metrics"})
"""Asked by probes under whatever name they know."""

Refuse = Callable[[Scope, ServeError | None], Response]
"""Returns an error's response in the dialect of the path; without an error that of an unforeseen one."""


class Edge:
    """Judges a request by its Host and Origin, then lets the application answer and adds the headers that browsers ask for."""

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
                await Response(status_code=204, headers=_preflight(headers))(scope, receive, send)
                return
        if scope.get("http_version", "1.1") < "1.1":
            await self._answer_whole(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    def _require_host(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] in _PROBED:
            return
        server = scope.get("server")
        for host in headers.getlist("host") or [""]:
            self._rules.require_host(host, server[0] if server else None)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer; what it did not foresee becomes an error in the dialect's shape."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            if begun:
                raise
            logger.exception("%s %r failed", scope["method"], scope["path"])
            await self._refuse(scope, None)(scope, receive, send)

    async def _answer_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a client that knows no chunks (HTTP/1.0): hold a streamed answer until it is whole, and send it with its length.

        RFC 9112, section 6.1, forbids the chunked coding here, and the server in front adds it to every answer without a length.
        """
        start: dict[str, Any] = {}
        parts: list[bytes] = []

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                body = b"".join(parts)
                MutableHeaders(scope=start).setdefault("content-length", str(len(body)))
                await send(start)
                await send({"type": "http.response.body", "body": body})

        # Before version 2.4 of this specification the framework listens for a client that leaves; later it would notice by sending.
        asgi = dict(scope.get("asgi", {})) | {"spec_version": "2.3"}
        await self._answer(dict(scope) | {"asgi": asgi}, receive, hold)

    def _with_cross_origin(self, origin: str, send: Send) -> Send:
        """Return `send` with the headers that let a page of `origin` read the answer, ours included."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["access-control-allow-origin"] = "*" if self._rules.any_origin else origin
                if not self._rules.any_origin:
                    headers.add_vary_header("Origin")
                shown = [name for name in dict.fromkeys(headers.keys()) if name.startswith("x-") or name == "retry-after"]
                if shown:
                    headers["access-control-expose-headers"] = ", ".join(shown)
            await send(message)

        return send_with_headers


def _preflight(headers: Headers) -> dict[str, str]:
    """Return what a browser may do: any method, and the headers that it asks for."""
    allowed = {"access-control-allow-methods": _METHODS, "access-control-max-age": str(_PREFLIGHT_S)}
    wanted = headers.get("access-control-request-headers", "")
    if wanted and _HEADER_NAMES.fullmatch(wanted):
        allowed["access-control-allow-headers"] = wanted
    if headers.get("access-control-request-private-network") == "true":
        allowed["access-control-allow-private-network"] = "true"
    return allowed
