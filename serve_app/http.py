"""HTTP: paths to endpoints, health, and errors in the dialect of their path. The only FastAPI import.

Knows dialects as data; knows nothing of what their bodies mean.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from serve_app.browsers import BrowserRules
from serve_app.config import AppSettings, gpu_layers
from serve_app.dialects.base import (
    Act,
    Dialect,
    Generate,
    Held,
    JsonObject,
    Lookup,
    Render,
    Rendered,
    Reply,
    Scene,
    Trial,
    parse,
)
from serve_app.edge import Edge
from serve_app.errors import MethodNotAllowed, NoEngine, NotFound, ServeError, internal_error
from serve_app.faults import client_faults
from serve_app.gateway import Gateway, Telling
from serve_app.metrics import CONTENT_TYPE
from serve_app.openapi import describe
from serve_app.responses import error_response, hinted, json_response, read_body, request_id, respond, told_headers
from serve_app.routing.fleet import Fleet
from serve_app.routing.overview import overview
from serve_app.routing.tasks import confusion
from serve_app.types import Phase, Task
from serve_app.wrong_paths import advice, dialect_of

logger = logging.getLogger(__name__)

_CLIENT_GONE = 499
HEALTH_PATHS = dict.fromkeys(("/health", "/livez", "/v1/cluster"), "application/json") | {"/metrics": "text/plain"}
"""Endpoints for operators, with the media type of their answers."""
"""The health endpoints, with the media type of their answers."""


def create_app(gateway: Gateway, dialects: Iterable[Dialect]) -> FastAPI:
    """Return the ASGI application: every dialect's endpoints, health, and errors in the dialect of their path.

    Where several dialects look up the same path, the first that has an answer gives it.
    """
    app = FastAPI(title="phi-serve", docs_url=None, redoc_url=None)
    dialects = tuple(dialects)
    app.openapi = cache(lambda: describe(dialects, HEALTH_PATHS))  # type: ignore[method-assign]  # made when first asked for
    lookups: dict[str, list[tuple[Dialect, Lookup]]] = {}
    for dialect in dialects:
        for endpoint in dialect.endpoints:
            if isinstance(endpoint, Lookup):
                lookups.setdefault(endpoint.path, []).append((dialect, endpoint))
            else:
                _mount(app, gateway, dialect, endpoint)
    for path, found in lookups.items():
        _mount_lookup(app, gateway, path, found)
    _mount_health(app, gateway)

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        dialect = dialect_of(path, dialects)
        shown: ServeError = NotFound(f"no endpoint {request.method} {path[:200]}; {advice(path, dialects)}")
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == 405:
            shown = MethodNotAllowed(f"{path[:200]} does not take {request.method}")
            headers["allow"] = _methods_at(app, path)
        return error_response(dialect, shown, Telling(request_id=request_id(request)), headers)

    app.add_exception_handler(HTTPException, refuse)
    _add_edge(app, gateway.settings, dialects)
    return app


def create_unusable_app(
    settings: AppSettings, fleet: Callable[[], Fleet], dialects: Iterable[Dialect], fault: Callable[[], ServeError | None]
) -> FastAPI:
    """Return the application while the model cannot be served: GET /health says why, and so does every error.

    `fault` returns the reason as it is now.
    """
    app = FastAPI(title="phi-serve", docs_url=None, redoc_url=None, openapi_url=None)
    dialects = tuple(dialects)

    def reason() -> ServeError:
        return fault() or NoEngine("the model is about to be served; try again", retry_after_s=1.0)

    async def health(request: Request) -> Response:
        groups = {group.name: _group(group) for group in fleet().groups}
        body = {"status": "failed", "reason": reason().message, "model": settings.model.name, "groups": groups}
        return json_response(body, 503, {"retry-after": "10"})

    async def livez(request: Request) -> Response:
        return json_response({"status": "ok"}, 200, {})

    async def refuse(request: Request) -> Response:
        dialect = dialect_of(request.scope["path"], dialects)
        return error_response(dialect, reason(), Telling(request_id=request_id(request)))

    app.add_api_route("/health", health, methods=["GET", "HEAD"])
    app.add_api_route("/livez", livez, methods=["GET", "HEAD"])
    app.add_api_route("/{path:path}", refuse, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    _add_edge(app, settings, dialects)
    return app


def _methods_at(app: FastAPI, path: str) -> str:
    """Return the methods of every route at `path`; the framework names those of the first alone."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.path_regex.fullmatch(path)]
    return ", ".join(sorted({method for route in routes for method in route.methods}))


def _add_edge(app: FastAPI, settings: AppSettings, dialects: tuple[Dialect, ...]) -> None:
    """Put `serve_app.edge` around the application."""
    rules = BrowserRules(settings.browsers, [urlsplit(settings.public_url).hostname or ""])

    def refuse(scope: Scope, error: ServeError | None) -> Response:
        telling = Telling(request_id=request_id(Request(scope)))
        return error_response(dialect_of(scope["path"], dialects), error or internal_error(telling.request_id), telling)

    app.add_middleware(Edge, rules=rules, refuse=refuse)


def _mount(app: FastAPI, gateway: Gateway, dialect: Dialect, endpoint: Generate | Act | Render | Trial) -> None:
    async def answer(request: Request) -> Response:
        return await _guarded(dialect, request, lambda telling: _answer(endpoint, gateway, request, telling))

    method = endpoint.method if isinstance(endpoint, Act) else "POST"
    app.add_api_route(endpoint.path, answer, methods=[method], name=f"{method} {endpoint.path}")


async def _answer(endpoint: Generate | Act | Render | Trial, gateway: Gateway, request: Request, telling: Telling) -> Response:
    if isinstance(endpoint, Generate):
        return await respond(endpoint.codec, gateway, request, telling)
    if isinstance(endpoint, Render):
        return await _rendered(endpoint, gateway, request, telling)
    if isinstance(endpoint, Trial):
        return await _tried(endpoint, gateway, request, telling)
    raw = await read_body(request, gateway.settings.limits.max_body_bytes)
    body = raw if endpoint.body is None else parse(endpoint.body, raw)
    return _reply(await asyncio.to_thread(endpoint.answer, _scene(gateway, request), body), telling)


def _mount_lookup(app: FastAPI, gateway: Gateway, path: str, found: list[tuple[Dialect, Lookup]]) -> None:
    async def look_up(request: Request) -> Response:
        async def answer(telling: Telling) -> Response:
            scene = _scene(gateway, request)
            for _, lookup in found:
                if (body := lookup.answer(scene)) is not None:
                    return _reply(body, telling)
            raise NotFound(f"nothing is served at {path}")

        return await _guarded(found[0][0], request, answer)

    app.add_api_route(path, look_up, methods=["GET", "HEAD"], name=path)


def _scene(gateway: Gateway, request: Request) -> Scene:
    held = []
    for group in gateway.fleet().groups:
        if group.ready and group.info is not None:
            settings = gateway.settings.engines[group.name]
            held.append(
                Held(
                    group=group.name,
                    engine=group.info.kind,
                    precision=group.info.precision,
                    replicas=group.replicas,
                    context_length=group.info.context_length,
                    gpu_layers=gpu_layers(settings),
                )
            )
    host = request.headers.get("host", "")
    return Scene(
        catalog=gateway.catalog,
        held=tuple(held),
        context_length=_context_length(gateway),
        host=host,
        parameters=request.path_params,
    )


def _context_length(gateway: Gateway) -> int:
    """See `Scene.context_length`. A group that sleeps counts with what it had: a request wakes it."""
    known = [group.info.context_length for group in gateway.fleet().groups if group.info is not None]
    return max(known or [settings.max_model_len for settings in gateway.settings.engines.values()])


def _reply(answer: JsonObject | Reply, telling: Telling) -> Response:
    if isinstance(answer, Reply):
        return Response(answer.body, answer.status, told_headers(telling), answer.media_type)
    return json_response(answer, 200, told_headers(telling))


async def _rendered(endpoint: Render, gateway: Gateway, request: Request, telling: Telling) -> Response:
    body = parse(endpoint.body, await read_body(request, gateway.settings.limits.max_body_bytes))
    model, prompt = endpoint.decode(body)
    ids = await gateway.render(model, prompt)
    text = b"".join(map(gateway.tokenizer.raw, ids)).decode("utf-8", "replace")
    rendered = Rendered(ids=ids, text=text, context_length=_context_length(gateway))
    return json_response(endpoint.encode(body, rendered), 200, told_headers(telling))


async def _tried(endpoint: Trial, gateway: Gateway, request: Request, telling: Telling) -> Response:
    wanted = endpoint.decode(await read_body(request, gateway.settings.limits.max_body_bytes), telling.request_id)
    if isinstance(wanted, tuple):
        counts = await asyncio.to_thread(confusion, wanted, gateway.settings.routing.task_threshold)
        return json_response(endpoint.encode_confusion(counts), 200, told_headers(telling))
    trial = await gateway.route(hinted(wanted, request))
    telling.task, telling.reason = trial.decision.task, trial.reason
    return json_response(endpoint.encode(trial), 200, told_headers(telling))


async def _guarded(dialect: Dialect, request: Request, answer: Callable[[Telling], Any]) -> Response:
    """Run `answer`; whatever it raises becomes an error in the dialect's shape, the unforeseen an anonymous one."""
    telling = Telling(request_id=request_id(request), debug=request.headers.get("x-debug-route", "").lower() == "true")
    try:
        with client_faults():
            response: Response = await answer(telling)
        return response
    except ServeError as error:
        return error_response(dialect, error, telling)
    except ClientDisconnect:
        return Response(status_code=_CLIENT_GONE)  # for the access log; nobody reads it
    except Exception:
        logger.exception("request %s failed", telling.request_id)
        return error_response(dialect, internal_error(telling.request_id), telling)


def _mount_health(app: FastAPI, gateway: Gateway) -> None:
    async def health(request: Request) -> Response:
        fleet = gateway.fleet()
        body = {
            "status": _status(fleet),
            "model": gateway.settings.model.name,
            "capabilities": [str(task) for task in (Task.REASONING, Task.MATH, Task.CODING)],
            "active_requests": gateway.active,
            "groups": {group.name: _group(group) for group in fleet.groups},
        }
        return json_response(body, 200 if fleet.ready else 503, {} if fleet.ready else {"retry-after": "5"})

    async def livez(request: Request) -> Response:
        return json_response({"status": "ok"}, 200, {})

    async def metrics(request: Request) -> Response:
        return Response(gateway.exposition(), media_type=CONTENT_TYPE)

    async def cluster(request: Request) -> Response:
        return json_response(overview(gateway.fleet()), 200, {})

    for path, endpoint in (("/health", health), ("/livez", livez), ("/metrics", metrics), ("/v1/cluster", cluster)):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"])  # load balancers send HEAD


def _status(fleet: Fleet) -> str:
    if fleet.ready:
        return "healthy"
    return "degraded" if any(group.ready for group in fleet.groups) else "not_ready"


def _group(group: Any) -> JsonObject:
    shown: JsonObject = {"phase": group.phase, "replicas": group.replicas}
    if group.reason:
        shown["reason"] = group.reason
    if group.phase is Phase.READY:
        load = group.load
        shown |= {
            "engine": group.info.kind,
            "precision": group.info.precision,
            "context_length": group.info.context_length,
            "running": load.running,
            "waiting": load.waiting,
            "kv_usage": round(load.kv_usage, 4),
            "tokens_per_second": round(load.tokens_per_second, 1),
        }
    return shown
