"""The one way every generating request takes: headers and body in, an answer out, streamed or whole.

Knows requests and responses, dialects and the gateway; no paths.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.conversation import Completion, GenerateRequest, TextEvent, fold
from serve_app.dialects.base import Call, Codec, Dialect, JsonObject, Served, StreamEncoder, dump, parse
from serve_app.errors import InvalidRequest, ServeError, TooLarge, internal_error
from serve_app.gateway import Gateway, Telling
from serve_app.request_ids import choose_request_id
from serve_app.routing.policy import Candidate
from serve_app.types import Task

logger = logging.getLogger(__name__)

_MAX_SESSION_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hints:
    """What a request's headers say about its routing; each wins over the body and over classification."""

    task: Task | None
    group: str | None
    session: str | None
    timeout_s: float | None


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


async def respond(codec: Codec[Any], gateway: Gateway, request: Request, telling: Telling) -> Response:
    """Answer one generating request, streamed or whole: decode, generate, encode.

    The first event is awaited before the headers go out, so that early errors keep their status. Raises `ServeError`.
    """
    arrived, created = time.monotonic(), time.time()
    raw = await read_body(request, gateway.settings.limits.max_body_bytes)
    body = parse(codec.body, raw)
    wanted, stream = codec.decode(body, telling.request_id)
    wanted = hinted(wanted, request)
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
        return json_response(codec.encode(completion, call, served), 200, told_headers(telling))
    try:
        first = await anext(events)
    except BaseException:
        await events.aclose()
        raise
    headers = told_headers(telling) | {"cache-control": "no-cache", "x-accel-buffering": "no"}
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


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body; raises `TooLarge` before reading more than `limit` bytes."""
    refusal = TooLarge(f"the body exceeds {limit} bytes (limits.max_body_bytes); send less")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise refusal
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise refusal
        parts.append(part)
    return b"".join(parts)


def hinted(wanted: GenerateRequest, request: Request) -> GenerateRequest:
    """Return `wanted` with what the headers say about its way; they win over the body and over classification."""
    hints = _hints(request)
    return replace(
        wanted,
        task=hints.task or wanted.task,
        group=hints.group or wanted.group,
        session=hints.session or wanted.session,
        timeout_s=hints.timeout_s or wanted.timeout_s,
    )


def _hints(request: Request) -> _Hints:
    task = request.headers.get("x-task")
    if task is not None and task not in set(Task):
        raise InvalidRequest(f"no task '{task[:100]}'; tasks are: {', '.join(Task)}", param="x-task")
    return _Hints(
        task=Task(task) if task else None,
        group=request.headers.get("x-engine") or None,
        session=request.headers.get("x-session-id", "")[:_MAX_SESSION_CHARS] or None,
        timeout_s=_timeout_s(request),
    )


def _timeout_s(request: Request) -> float | None:
    """Return the seconds that the client gives its request, None when it says nothing."""
    given = request.headers.get("x-timeout-s")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequest("x-timeout-s must be a number of seconds above 0", param="x-timeout-s")
    return seconds


def request_id(request: Request) -> str:
    """Return the id that the client gave, or a new one."""
    return choose_request_id(request.headers.get("x-request-id", ""))


def told_headers(telling: Telling) -> dict[str, str]:
    """Return the headers that tell the way of a request."""
    headers = {
        "x-request-id": telling.request_id,
        "x-task": telling.task or "none",
        "x-engine": telling.engine or "none",
        "x-route-reason": telling.reason or "none",
        "x-attempts": str(telling.attempts),
    }
    if telling.dropped_messages:
        headers["x-dropped-messages"] = str(telling.dropped_messages)
    if telling.invalid_calls:
        headers["x-invalid-tool-arguments"] = ",".join(map(quote, telling.invalid_calls))
    if telling.invalid_answers:
        headers["x-invalid-answer"] = ",".join(map(str, telling.invalid_answers))
    if telling.debug:
        headers["x-route-candidates"] = json.dumps([_candidate(each) for each in telling.weighed], separators=(",", ":"))
    return headers


def _candidate(candidate: Candidate) -> JsonObject:
    def rounded(seconds: float | None) -> float | None:
        return None if seconds is None or not math.isfinite(seconds) else round(seconds, 3)

    return {
        "group": candidate.group,
        "obstacle": candidate.obstacle or None,
        "ahead": candidate.ahead,
        "wait_s": rounded(candidate.wait_s),
        "finish_s": rounded(candidate.finish_s),
    }


def json_response(body: JsonObject, status: int, headers: dict[str, str]) -> Response:
    """Return a JSON answer."""
    return Response(dump(body), status, headers, "application/json")


def error_response(dialect: Dialect, error: ServeError, telling: Telling, extra: dict[str, str] | None = None) -> Response:
    """Return an error in the dialect's shape; `extra` headers come on top."""
    headers = told_headers(telling) | (extra or {})
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.vain:
        headers["x-should-retry"] = "false"  # read by the libraries of OpenAI and of others made by the same generator
    return json_response(dialect.encode_error(error, telling.request_id), error.status, headers)
