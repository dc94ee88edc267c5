"""The one check of every request's caller, and the audit line of requests that generate nothing.

An ASGI layer around the whole application, so that no path is left out: endpoints, status, unknown paths, wrong methods. Knows no
endpoint; which scope an endpoint needs stands with the endpoint.
"""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.access.check import KEY_HEADERS, Access
from serve_app.caller import STRANGER, Caller
from serve_app.errors import ServeError, Unauthenticated
from serve_app.record import RequestRecord

AUDIT_LOG = logging.getLogger("serve_app.audit")
"""One line of JSON for each request that has none in `serve_app.requests`: queries, changes of models, and what was refused before
it reached the gateway. Who, what, and how it ended; no text of users, no query, no key."""

OPEN_PATHS = frozenset({"/livez"})
"""Paths that answer everybody and say nothing about the application."""
STRANGER_PATHS = frozenset({"/health", "/v1/operations/session"})
"""Paths that answer everybody, with less for strangers."""
_UNAUDITED_PATHS = OPEN_PATHS | {"/health", "/metrics"}
"""Probes ask for these all the time."""
_CALLER, _RECORD = "phi_serve.caller", "phi_serve.record"
_KEY_HEADERS = frozenset(name.encode() for name in KEY_HEADERS)
_LINES = json.JSONEncoder(allow_nan=False)
_SHOWN_CHARS = 200


class AccessLayer:
    """Finds the caller of each request, or refuses the request; lets the application answer; writes the audit line."""

    def __init__(self, app: ASGIApp, *, access: Access, refuse: Callable[[Scope, ServeError | None], Response]) -> None:
        """Wrap `app`; `refuse` returns an error's response in the dialect of the path."""
        self._app = app
        self._access = access
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or _asks_for(scope, OPEN_PATHS):
            scope[_CALLER] = STRANGER
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            scope[_CALLER] = self._identify(scope)
        except ServeError as error:
            scope[_CALLER] = STRANGER
            response = self._refuse(scope, error)
            if isinstance(error, Unauthenticated):
                response.headers["www-authenticate"] = 'Bearer realm="phi-serve"'  # RFC 9110, section 15.5.2
            await response(scope, receive, note_status)
        else:
            try:
                await self._app(scope, receive, note_status)
            except Exception:  # the layer around this one answers it
                status = status or 500
                raise
        finally:
            if scope["path"] not in _UNAUDITED_PATHS and not _has_line(scope):
                AUDIT_LOG.info("%s", _LINES.encode(_describe(scope, status, time.monotonic() - began)))

    def _identify(self, scope: Scope) -> Caller:
        try:
            return self._access.identify(_find_key_headers(scope))
        except ServeError:
            if _asks_for(scope, STRANGER_PATHS):
                return STRANGER
            raise


def _find_key_headers(scope: Scope) -> dict[str, str]:
    """Return the headers that may hold a key; of several with one name the first counts."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name in _KEY_HEADERS:
            found.setdefault(name.decode(), value.decode("latin-1"))
    return found


def _asks_for(scope: Scope, paths: frozenset[str]) -> bool:
    return scope["path"] in paths and scope["method"] in ("GET", "HEAD")


def find_caller(scope: Scope) -> Caller:
    """Return the caller of a request; a stranger where the request passed no check."""
    caller: Caller = scope.get(_CALLER, STRANGER)
    return caller


def keep_record(scope: Scope, record: RequestRecord) -> None:
    """Let the audit line show what the record says at the request's end."""
    scope[_RECORD] = record


def _has_line(scope: Scope) -> bool:
    """Return whether the request has a line of its own already: those that generate have one with the key and what they used."""
    record: RequestRecord | None = scope.get(_RECORD)
    return record is not None and record.is_accounted


def _describe(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    line: dict[str, Any] = {
        "key": find_caller(scope).name,
        "method": scope["method"],
        "path": scope["path"][:_SHOWN_CHARS],
        "status": status,
        "seconds": round(seconds, 4),
    }
    record: RequestRecord | None = scope.get(_RECORD)
    if record is not None:
        line |= {"request_id": record.request_id, "model": record.served_model or "none"}
    return line
