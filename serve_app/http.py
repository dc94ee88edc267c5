"""HTTP: paths to endpoints, and the one way every generating request takes (`respond`). The only FastAPI import.

Knows dialects as data; knows nothing of what their bodies mean.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.conversation import Completion, GenerateRequest, TextEvent, fold
from serve_app.dialects.base import (
    Call,
    Codec,
    Dialect,
    Generate,
    JsonObject,
    Lookup,
    Render,
    Rendered,
    Served,
    StreamEncoder,
    Trial,
    WireBody,
    dump,
    parse,
)
from serve_app.errors import InvalidRequest, MethodNotAllowed, NotFound, ServeError, TooLarge, internal_error
from serve_app.gateway import Gateway, Telling
from serve_app.metrics import CONTENT_TYPE, exposition
from serve_app.routing.fleet import Fleet
from serve_app.routing.tasks import confusion
from serve_app.types import Phase, Task

logger = logging.getLogger(__name__)

_CLIENT_GONE = 499
_REQUEST_ID = re.compile(r"[!-~]{1,200}")


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
    """Return the ASGI application: every dialect's endpoints, health, and errors in the dialect of their path."""
    app = FastAPI(title="phi-serve", summary="One endpoint in front of GPU and CPU engines", docs_url=None, redoc_url=None)
    dialects = tuple(dialects)
    for dialect in dialects:
        for endpoint in dialect.endpoints:
            _mount(app, gateway, dialect, endpoint)
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


def _mount(app: FastAPI, gateway: Gateway, dialect: Dialect, endpoint: Generate | Lookup | Render | Trial) -> None:
    if isinstance(endpoint, Render):

        async def render(request: Request) -> Response:
            return await _guarded(dialect, request, lambda telling: _rendered(endpoint, gateway, request, telling))

        extra = _body_schema(endpoint.body)
        app.add_api_route(endpoint.path, render, methods=["POST"], openapi_extra=extra, tags=[dialect.name], name=endpoint.path)
    elif isinstance(endpoint, Trial):

        async def tried(request: Request) -> Response:
            return await _guarded(dialect, request, lambda telling: _tried(endpoint, gateway, request, telling))

        extra = _body_schema(endpoint.body)
        app.add_api_route(endpoint.path, tried, methods=["POST"], openapi_extra=extra, tags=[dialect.name], name=endpoint.path)
    elif isinstance(endpoint, Generate):
        extra = _body_schema(endpoint.codec.body)

        async def generate(request: Request) -> Response:
            return await _guarded(dialect, request, lambda telling: respond(endpoint.codec, gateway, request, telling))

        app.add_api_route(endpoint.path, generate, methods=["POST"], openapi_extra=extra, tags=[dialect.name], name=endpoint.path)
    else:

        async def look_up(request: Request) -> Response:
            async def answer(telling: Telling) -> Response:
                body = endpoint.answer(gateway.catalog, request.path_params)
                return _json(body, 200, _headers(telling))

            return await _guarded(dialect, request, answer)

        app.add_api_route(endpoint.path, look_up, methods=["GET"], tags=[dialect.name], name=endpoint.path)


def _body_schema(body: type[WireBody]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}}}


async def _rendered(endpoint: Render, gateway: Gateway, request: Request, telling: Telling) -> Response:
    body = parse(endpoint.body, await _read(request, gateway.settings.limits.max_body_bytes))
    model, prompt = endpoint.decode(body)
    gateway.catalog.resolve(model)
    ids = await gateway.render(prompt)
    text = b"".join(map(gateway.tokenizer.raw, ids)).decode("utf-8", "replace")
    lengths = [group.info.context_length for group in gateway.fleet().groups if group.info is not None]
    rendered = Rendered(ids=ids, text=text, context_length=max(lengths, default=None))
    return _json(endpoint.encode(body, rendered), 200, _headers(telling))


async def _tried(endpoint: Trial, gateway: Gateway, request: Request, telling: Telling) -> Response:
    wanted = endpoint.decode(await _read(request, gateway.settings.limits.max_body_bytes), telling.request_id)
    if isinstance(wanted, tuple):
        counts = await asyncio.to_thread(confusion, wanted, gateway.settings.routing.task_threshold)
        return _json(endpoint.encode_confusion(counts), 200, _headers(telling))
    trial = await gateway.route(_hinted(wanted, request))
    telling.task, telling.reason = trial.decision.task, trial.reason
    return _json(endpoint.encode(trial), 200, _headers(telling))


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
    arrived = time.monotonic()
    raw = await _read(request, gateway.settings.limits.max_body_bytes)
    body = parse(codec.body, raw)
    wanted, stream = codec.decode(body, telling.request_id)
    wanted = _hinted(wanted, request)
    model = gateway.catalog.resolve(wanted.model)
    call = Call(request=wanted, body=body, stream=stream, model=wanted.model or model, created=int(time.time()))
    encoder = codec.encoder(call) if stream else None
    events = gateway.generate(wanted, telling)
    if encoder is None:
        completion = await _fold_while_connected(request, events)
        served = Served(engine=telling.engine or "", seconds=time.monotonic() - arrived)
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


def _hinted(wanted: GenerateRequest, request: Request) -> GenerateRequest:
    """Return `wanted` with what the headers say about its routing; they win over the body and over classification."""
    task = request.headers.get("x-task")
    if task is not None and task not in set(Task):
        raise InvalidRequest(f"no task '{task[:100]}'; tasks are: {', '.join(Task)}", param="x-task")
    group = request.headers.get("x-engine") or wanted.group
    return replace(wanted, task=Task(task) if task else wanted.task, group=group)


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
