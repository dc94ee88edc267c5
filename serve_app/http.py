"""HTTP: paths to endpoints, and the one way every generating request takes (`respond`). The only FastAPI import.

Knows dialects as data; knows nothing of what their bodies mean.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.conversation import Completion, TextEvent, fold
from serve_app.dialects.base import (
    Act,
    Call,
    Codec,
    Dialect,
    Generate,
    Held,
    JsonObject,
    Lookup,
    Render,
    Rendered,
    Reply,
    Scene,
    Served,
    StreamEncoder,
    WireBody,
    dump,
    parse,
)
from serve_app.errors import InvalidRequest, MethodNotAllowed, NotFound, ServeError, TooLarge, internal_error
from serve_app.gateway import Gateway, Telling
from serve_app.metrics import CONTENT_TYPE, exposition
from serve_app.routing.fleet import Fleet
from serve_app.types import Phase, Task

logger = logging.getLogger(__name__)

_CLIENT_GONE = 499
_REQUEST_ID = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hints:
    """What a request's headers say about its routing; each wins over the body and over classification."""

    task: Task | None
    group: str | None


class _EventResponse(StreamingResponse):
    """A streamed answer that closes its events however the response ends, even before it began."""

    def __init__(self, events: Any, content: AsyncIterator[bytes], *, media_type: str, headers: dict[str, str]) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


def create_app(gateway: Gateway, dialects: Iterable[Dialect]) -> FastAPI:
    """Return the ASGI application: every dialect's endpoints, health, and errors in the dialect of their path.

    Where several dialects look up the same path, the first that has an answer gives it.
    """
    app = FastAPI(title="phi-serve", summary="One endpoint in front of GPU and CPU engines", docs_url=None, redoc_url=None)
    dialects = tuple(dialects)
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
        prefixed = [d for d in dialects if request.url.path.startswith(d.prefix)]
        dialect = max(prefixed, key=lambda d: len(d.prefix))
        shown: ServeError = NotFound(f"no endpoint {request.method} {request.url.path[:200]}; GET /openapi.json lists them")
        if error.status_code == 405:
            shown = MethodNotAllowed(f"{request.url.path[:200]} does not take {request.method}")
        return _error_response(dialect, shown, Telling(request_id=_request_id(request)), dict(error.headers or {}))

    app.add_exception_handler(HTTPException, refuse)
    return app


def _mount(app: FastAPI, gateway: Gateway, dialect: Dialect, endpoint: Generate | Act | Render) -> None:
    async def answer(request: Request) -> Response:
        return await _guarded(dialect, request, lambda telling: _answer(endpoint, gateway, request, telling))

    body = endpoint.codec.body if isinstance(endpoint, Generate) else endpoint.body
    method = endpoint.method if isinstance(endpoint, Act) else "POST"
    name = f"{method} {endpoint.path}"
    extra = {} if method == "HEAD" else _body_schema(body)
    app.add_api_route(endpoint.path, answer, methods=[method], openapi_extra=extra, tags=[dialect.name], name=name)


async def _answer(endpoint: Generate | Act | Render, gateway: Gateway, request: Request, telling: Telling) -> Response:
    if isinstance(endpoint, Generate):
        return await respond(endpoint.codec, gateway, request, telling)
    if isinstance(endpoint, Render):
        return await _rendered(endpoint, gateway, request, telling)
    raw = await _read(request, gateway.settings.limits.max_body_bytes)
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

    app.add_api_route(path, look_up, methods=["GET"], tags=[found[0][0].name], name=path)
    app.add_api_route(path, look_up, methods=["HEAD"], include_in_schema=False)


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
                    on_gpu="cuda" in (getattr(settings, "device", ""), getattr(settings, "provider", "")),
                )
            )
    host = request.headers.get("host", "")
    return Scene(catalog=gateway.catalog, held=tuple(held), host=host, parameters=request.path_params)


def _reply(answer: JsonObject | Reply, telling: Telling) -> Response:
    if isinstance(answer, Reply):
        return Response(answer.body, answer.status, _headers(telling), answer.media_type)
    return _json(answer, 200, _headers(telling))


def _body_schema(body: type[WireBody] | None) -> dict[str, Any]:
    if body is None:
        return {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"format": "binary"}}}}}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}}}


async def _rendered(endpoint: Render, gateway: Gateway, request: Request, telling: Telling) -> Response:
    body = parse(endpoint.body, await _read(request, gateway.settings.limits.max_body_bytes))
    model, prompt = endpoint.decode(body)
    ids = await gateway.render(model, prompt)
    text = b"".join(map(gateway.tokenizer.raw, ids)).decode("utf-8", "replace")
    lengths = [group.info.context_length for group in gateway.fleet().groups if group.info is not None]
    rendered = Rendered(ids=ids, text=text, context_length=max(lengths, default=None))
    return _json(endpoint.encode(body, rendered), 200, _headers(telling))


async def _guarded(dialect: Dialect, request: Request, answer: Callable[[Telling], Any]) -> Response:
    """Run `answer`; whatever it raises becomes an error in the dialect's shape, the unforeseen an anonymous one."""
    telling = Telling(request_id=_request_id(request))
    try:
        response: Response = await answer(telling)
        return response
    except ServeError as error:
        return _error_response(dialect, error, telling)
    except ClientDisconnect:
        return Response(status_code=_CLIENT_GONE)  # for the access log; nobody reads it
    except Exception:
        logger.exception("request %s failed", telling.request_id)
        return _error_response(dialect, internal_error(telling.request_id), telling)


async def respond(codec: Codec[Any], gateway: Gateway, request: Request, telling: Telling) -> Response:
    """Answer one generating request, streamed or whole: decode, generate, encode.

    The first event is awaited before the headers go out, so that early errors keep their status. Raises `ServeError`.
    """
    arrived, created = time.monotonic(), time.time()
    raw = await _read(request, gateway.settings.limits.max_body_bytes)
    hints = _hints(request)
    body = parse(codec.body, raw)
    wanted, stream = codec.decode(body, telling.request_id)
    wanted = replace(wanted, task=hints.task or wanted.task, group=hints.group or wanted.group)
    call = Call(
        request=wanted,
        body=body,
        stream=stream,
        model=wanted.model or gateway.catalog.resolve(None).name,
        created=created,
        elapsed=lambda: time.monotonic() - arrived,
    )
    encoder = codec.encoder(call) if stream else None
    events = gateway.generate(wanted, telling)
    if encoder is None:
        completion = await _fold_while_connected(request, events)
        served = Served(engine=telling.engine or "", seconds=call.elapsed())
        return _json(codec.encode(completion, call, served), 200, _headers(telling))
    try:
        first = await anext(events)
    except BaseException:
        await events.aclose()
        raise
    headers = _headers(telling) | {"cache-control": "no-cache", "x-accel-buffering": "no"}
    chunks = _encode(first, events, encoder, telling)
    return _EventResponse(events, chunks, media_type=encoder.media_type, headers=headers)


async def _fold_while_connected(request: Request, events: AsyncGenerator[TextEvent, None]) -> Completion:
    """Collect the whole answer; a client that leaves meanwhile aborts it, raising `ClientDisconnect`."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, gone = asyncio.ensure_future(fold(events)), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return await answer
    finally:
        for task in (answer, gone):
            task.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)
        await events.aclose()


async def _encode(
    first: TextEvent, events: AsyncIterator[TextEvent], encoder: StreamEncoder, telling: Telling
) -> AsyncIterator[bytes]:
    """Yield the stream's bytes, ending in a well-formed error when it fails midway."""
    try:
        yield b"".join(encoder.push(first))
        async for event in events:
            yield b"".join(encoder.push(event))
    except ServeError as error:
        yield b"".join(encoder.fail(error))
    except Exception:
        logger.exception("request %s failed midway", telling.request_id)
        yield b"".join(encoder.fail(internal_error(telling.request_id)))


async def _read(request: Request, limit: int) -> bytes:
    """Return the body; raises `TooLarge` before reading more than `limit` bytes."""
    refusal = TooLarge(f"the body exceeds {limit} bytes (limits.max_body_bytes); send less")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise refusal
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise refusal
        parts.append(part)
    return b"".join(parts)


def _hints(request: Request) -> _Hints:
    task = request.headers.get("x-task")
    if task is not None and task not in set(Task):
        raise InvalidRequest(f"no task '{task[:100]}'; tasks are: {', '.join(Task)}", param="x-task")
    return _Hints(task=Task(task) if task else None, group=request.headers.get("x-engine") or None)


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _headers(telling: Telling) -> dict[str, str]:
    return {
        "x-request-id": telling.request_id,
        "x-task": telling.task or "none",
        "x-engine": telling.engine or "none",
        "x-route-reason": telling.reason or "none",
        "x-attempts": str(telling.attempts),
    }


def _json(body: JsonObject, status: int, headers: dict[str, str]) -> Response:
    return Response(dump(body), status, headers, "application/json")


def _error_response(dialect: Dialect, error: ServeError, telling: Telling, extra: dict[str, str] | None = None) -> Response:
    headers = _headers(telling) | (extra or {})
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return _json(dialect.encode_error(error, telling.request_id), error.status, headers)


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
        return JSONResponse(body, 200 if fleet.ready else 503, None if fleet.ready else {"retry-after": "5"})

    async def livez(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        reports = (report for group in gateway.fleet().groups for report in group.reports)
        return Response(exposition(reports), media_type=CONTENT_TYPE)

    for path, endpoint in (("/health", health), ("/livez", livez), ("/metrics", metrics)):
        app.add_api_route(path, endpoint, methods=["GET"], tags=["health"])
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)  # what load balancers send


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
