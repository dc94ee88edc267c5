"""The HTTP application: maps paths to endpoints, and answers errors in the dialect of their path.

Knows dialects as data, and not the meaning of their bodies.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from serve_app.access.check import Access, require_scope
from serve_app.caller import Caller
from serve_app.caller import Scope as CallerScope
from serve_app.config import AppSettings
from serve_app.dialects.base import Dialect, Embed, Generate, JsonObject, Query, Reply, WireBody, parse
from serve_app.errors import MethodNotAllowed, ModelUnusable, NoEngine, NotFound, ServeError, internal_error
from serve_app.faults import client_faults
from serve_app.gateway import Gateway
from serve_app.http.access import AccessLayer, find_caller, keep_record
from serve_app.http.browsers import BrowserRules
from serve_app.http.edge import Edge
from serve_app.http.openapi import describe
from serve_app.http.pages import PagesLayer
from serve_app.http.queries import GatewayContext
from serve_app.http.respond import (
    error_response,
    json_response,
    read_body,
    request_id,
    respond,
    respond_embedding,
    write_record_headers,
)
from serve_app.http.status import STATUS_PATHS, Mount, mount_status, mount_unusable_status
from serve_app.http.wrong_paths import find_dialect, is_absent, suggest_path
from serve_app.record import RequestRecord
from serve_app.routing.fleet import Fleet

logger = logging.getLogger(__name__)

_CLIENT_GONE = 499
_ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_Respond: TypeAlias = Callable[[Request, RequestRecord], Awaitable[Response]]


def create_app(gateway: Gateway, dialects: Iterable[Dialect], access: Access) -> FastAPI:
    """Return the ASGI application: every dialect's endpoints, the status endpoints, and errors in the dialect of their path.

    Where several dialects have the same path, the first dialect with an answer gives it. `access` finds every request's caller.
    """
    app = FastAPI(title="phi-serve", docs_url=None, redoc_url=None)
    dialects = tuple(dialects)
    app.openapi = cache(lambda: describe(dialects, STATUS_PATHS))  # type: ignore[method-assign]  # made at first use
    queries: dict[tuple[str, str], list[tuple[Dialect, Query]]] = {}
    for dialect in dialects:
        for endpoint in dialect.endpoints:
            if isinstance(endpoint, Generate):
                _mount(app, dialect, endpoint.path, ["POST"], _answer_generating(endpoint, dialect, gateway))
            elif isinstance(endpoint, Embed):
                _mount(app, dialect, endpoint.path, ["POST"], _answer_embedding(endpoint, dialect, gateway))
            else:
                queries.setdefault((endpoint.path, endpoint.method), []).append((dialect, endpoint))
    for (path, method), queries_at_path in queries.items():
        methods = ["GET", "HEAD"] if method == "GET" else [method]
        answer = _answer_query(queries_at_path, gateway)
        _mount(app, find_dialect(path, dialects), path, methods, answer, scope=queries_at_path[0][1].scope)

    mount_status(_mount_status_paths(app, dialects), gateway)

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        shown: ServeError = NotFound(f"no endpoint {request.method} {path[:200]}; {suggest_path(path, dialects)}")
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == 405 and not is_absent(path, dialects):
            shown = MethodNotAllowed(f"{path[:200]} does not take {request.method}")
            headers["allow"] = _list_methods(app, path)
        return error_response(find_dialect(path, dialects), shown, RequestRecord(request_id=request_id(request)), headers)

    app.add_exception_handler(HTTPException, refuse)
    _add_layers(app, gateway.settings, dialects, access)
    return app


def create_unusable_app(
    settings: AppSettings,
    fleet: Callable[[], Fleet],
    dialects: Iterable[Dialect],
    faults: Callable[[], Mapping[str, ServeError]],
    access: Access,
) -> FastAPI:
    """Return the application for the time in which no model can be served: GET /health and every error say why.

    `faults` returns the current reasons by model.
    """
    app = FastAPI(title="phi-serve", docs_url=None, redoc_url=None, openapi_url=None)
    dialects = tuple(dialects)

    def reason(caller: Caller) -> ServeError:
        found = faults()
        if caller.models:
            return ModelUnusable("no model can be served; the operator's log says why")
        if not found:
            return NoEngine("the model is about to be served; try again", retry_after_s=1.0)
        if len(found) == 1:
            return next(iter(found.values()))
        return ModelUnusable("; ".join(f"{name}: {fault.message}" for name, fault in found.items()))

    async def refuse(request: Request) -> Response:
        record = RequestRecord(request_id=request_id(request))
        return error_response(find_dialect(request.scope["path"], dialects), reason(find_caller(request.scope)), record)

    mount_unusable_status(_mount_status_paths(app, dialects), settings, fleet, faults)
    app.add_api_route("/{path:path}", refuse, methods=_ALL_METHODS)
    _add_layers(app, settings, dialects, access)
    return app


def _list_methods(app: FastAPI, path: str) -> str:
    """Return the methods of every route at `path`; the framework names only the methods of the first one."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.path_regex.fullmatch(path)]
    return ", ".join(sorted({method for route in routes for method in route.methods}))


def _add_layers(app: FastAPI, settings: AppSettings, dialects: tuple[Dialect, ...], access: Access) -> None:
    """Put the check of callers around the application, the pages around it, and `serve_app.http.edge` around all."""
    rules = BrowserRules(settings.browsers, [urlsplit(settings.public_url).hostname or ""], lambda: access.asks_for_keys)

    def refuse(scope: Scope, error: ServeError | None) -> Response:
        record = RequestRecord(request_id=request_id(Request(scope)))
        return error_response(find_dialect(scope["path"], dialects), error or internal_error(record.request_id), record)

    app.add_middleware(AccessLayer, access=access, refuse=refuse)
    app.add_middleware(PagesLayer)  # outside the check: a browser has no key before it has a page that asks for one
    app.add_middleware(Edge, rules=rules, refuse=refuse)  # the outer one is added last


def _mount(
    app: FastAPI,
    dialect: Dialect,
    path: str,
    methods: list[str],
    answer: _Respond,
    *,
    scope: CallerScope | None = CallerScope.USE,
) -> None:
    """Add an endpoint whose exceptions become errors in the dialect's shape; an unforeseen exception's text is left out.

    `scope` is what its caller must be allowed to do; None: it answers strangers too.
    """

    async def endpoint(request: Request) -> Response:
        shows_candidates = request.headers.get("x-debug-route", "").lower() == "true"
        caller = find_caller(request.scope)
        record = RequestRecord(request_id=request_id(request), caller=caller, show_candidates=shows_candidates)
        keep_record(request.scope, record)
        try:
            if scope is not None:
                require_scope(caller, scope)
            with client_faults():
                return await answer(request, record)
        except ServeError as error:
            return error_response(dialect, error, record)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)  # for the access log; nobody reads it
        except Exception:  # no text of an unforeseen error may reach a client
            logger.exception("request %s failed", record.request_id)
            return error_response(dialect, internal_error(record.request_id), record)

    app.add_api_route(path, endpoint, methods=methods, name=f"{methods[0]} {path}")


def _mount_status_paths(app: FastAPI, dialects: tuple[Dialect, ...]) -> Mount:
    """Return the function that adds a status endpoint, its errors in the dialect of its path."""

    def mount(path: str, answer: _Respond, scope: CallerScope | None) -> None:
        _mount(app, find_dialect(path, dialects), path, ["GET", "HEAD"], answer, scope=scope)  # load balancers send HEAD

    return mount


def _answer_generating(endpoint: Generate, dialect: Dialect, gateway: Gateway) -> _Respond:
    async def answer(request: Request, record: RequestRecord) -> Response:
        return await respond(endpoint.codec, dialect, gateway, request, record)

    return answer


def _answer_embedding(endpoint: Embed, dialect: Dialect, gateway: Gateway) -> _Respond:
    async def answer(request: Request, record: RequestRecord) -> Response:
        return await respond_embedding(endpoint.codec, dialect, gateway, request, record)

    return answer


def _answer_query(queries: list[tuple[Dialect, Query]], gateway: Gateway) -> _Respond:
    """Return an endpoint that gives the answer of the first query that has one; errors of a query have its dialect's shape."""

    async def answer(request: Request, record: RequestRecord) -> Response:
        raw = b"" if queries[0][1].body is None else await read_body(request, gateway.settings.limits.max_body_bytes)
        context = GatewayContext(gateway, request, record, raw)
        for dialect, query in queries:
            try:
                with client_faults():
                    result = await query.answer(context, _parse_body(query, raw))
            except ServeError as error:
                return error_response(dialect, error, record)
            if result is not None:
                return _encode_reply(result, record, dialect)
        raise NotFound(f"nothing is served at {queries[0][1].path}")

    return answer


def _parse_body(query: Query, raw: bytes) -> Any:
    if query.body is None:
        return None
    return parse(query.body, raw) if issubclass(query.body, WireBody) else raw


def _encode_reply(answer: JsonObject | Reply, record: RequestRecord, dialect: Dialect) -> Response:
    if isinstance(answer, Reply):
        return Response(answer.body, answer.status, write_record_headers(record, dialect), answer.media_type)
    return json_response(answer, 200, write_record_headers(record, dialect))
