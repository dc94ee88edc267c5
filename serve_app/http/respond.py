"""Answers every request that an engine computes: headers and body in, an answer out, streamed or whole.

The one place that does so. Knows requests and responses, dialects and the gateway; no paths.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve_app.archive import Archive, OwnArchive
from serve_app.conversation import AnswerEvent, ChoiceEnd, Completion, fold
from serve_app.dialects.base import (
    AnswerContext,
    Codec,
    Dialect,
    EmbedCodec,
    EmbedContext,
    JsonObject,
    KeepingCodec,
    KeepingEncoder,
    RecallingCodec,
    StreamEncoder,
    dump,
    parse,
)
from serve_app.embeddings import embed
from serve_app.encoding import EmbedRequest
from serve_app.errors import NoEngine, Overloaded, ServeError, StoreUnavailable, TooLarge, internal_error
from serve_app.gateway import Gateway
from serve_app.http.hints import apply_header_hints, apply_placing_hints
from serve_app.http.request_ids import choose_request_id
from serve_app.record import Candidate, RequestRecord
from serve_app.strict_json import dump_in_pieces

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_EVENT_STREAM = "text/event-stream"
_LARGE_BYTES = 200_000
"""Bytes of a body with inputs above which it is read on a thread: a million token ids take seconds."""
_LARGE_NUMBERS = 50_000
"""Numbers of an answer above which it is written on a thread, in pieces: as a whole it would stop all streams meanwhile."""


class _EventResponse(StreamingResponse):
    """A streamed answer that closes its events however the response ends, even when it never began."""

    def __init__(self, events: Any, content: AsyncIterator[bytes], *, media_type: str, headers: dict[str, str]) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def respond(codec: Codec[Any], dialect: Dialect, gateway: Gateway, http_request: Request, record: RequestRecord) -> Response:
    """Answer one generating request, streamed or whole: decode, generate, encode.

    The first event is awaited before the headers go out, so that early errors keep their status. Raises `ServeError`.
    """
    arrived, created = time.monotonic(), time.time()
    body = parse(codec.body, await read_body(http_request, gateway.settings.limits.max_body_bytes))
    if isinstance(codec, RecallingCodec):
        body, codec = await codec.recall(body, open_archive(gateway, record))
    request, stream = codec.decode(body, record.request_id)
    request = apply_header_hints(request, http_request)
    record.model = request.model or gateway.settings.default_model
    context = AnswerContext(
        request=request,
        record=record,
        body=body,
        stream=stream,
        created=created,
        elapsed=lambda: time.monotonic() - arrived,
    )
    if isinstance(codec, KeepingCodec) and codec.detached_key:
        answer = await _begin(codec, context, gateway)
        return json_response(answer, 200, write_record_headers(record, dialect))
    events = gateway.generate(request, record)
    if not stream:
        completion = await _fold_while_connected(http_request, events)
        answer = codec.encode(completion, context)
        if isinstance(codec, KeepingCodec):
            answer = await codec.keep(answer, context)
        return json_response(answer, 200, write_record_headers(record, dialect))
    try:
        first = await anext(events)
        encoder = codec.encoder(context)  # not earlier: only now the answering model is certain
    except BaseException:
        await events.aclose()
        raise
    headers = write_record_headers(record, dialect) | {"cache-control": "no-cache", "x-accel-buffering": "no"}
    chunks = _encode(first, events, encoder, record)
    return _EventResponse(events, chunks, media_type=encoder.media_type, headers=headers)


async def _begin(codec: KeepingCodec, context: AnswerContext[Any], gateway: Gateway) -> JsonObject:
    """Begin a request whose client does not wait, and return its answer so far.

    Raises the errors of the request itself, `QuotaExceeded` and `NoEngine` where it could not begin now, `StoreUnavailable`.
    """
    key, archive = codec.detached_key, open_archive(gateway, context.record)
    if gateway.background.active >= gateway.settings.limits.max_concurrent_generations:
        raise Overloaded("too many requests are made in the background; try again later", retry_after_s=1.0)
    preview = await gateway.preview_route(context.request, context.record)
    if not preview.candidates:
        raise NoEngine("no engine group is ready for this request; try again. GET /health shows when one is.", retry_after_s=5.0)
    record, limiter = context.record, gateway.accounts.limiter
    with gateway.showing_allowances(preview.model, record):  # not later: what is refused must not push out what is kept
        tokens = {"prompt_tokens": preview.prompt_tokens, "answer_tokens": preview.answer_tokens}
        await limiter.require_quota(record.caller, preview.model, **tokens)

    async def work() -> None:
        try:
            answer = codec.encode(await fold(gateway.generate(context.request, context.record)), context)
        except ServeError as error:
            answer = codec.encode_unfinished(context, error)
        except Exception:  # no text of an unforeseen error may reach a client
            logger.exception("request %s failed", context.record.request_id)
            answer = codec.encode_unfinished(context, internal_error(context.record.request_id))
        await finish(answer)

    async def finish(answer: JsonObject) -> None:
        await codec.keep(answer, context, again=True)

    begun = await codec.keep(codec.encode_unfinished(context), context)
    if await archive.read(key) is None:
        raise StoreUnavailable("the response cannot be kept, so it cannot be fetched later; try again", reason="away")
    await gateway.background.start(key, archive, work(), lambda: finish(codec.encode_unfinished(context, cancelled=True)))
    return begun


async def respond_embedding(
    codec: EmbedCodec[Any], dialect: Dialect, gateway: Gateway, http_request: Request, record: RequestRecord
) -> Response:
    """Answer one request for embeddings; raises `ServeError`."""
    arrived = time.monotonic()
    raw = await read_body(http_request, gateway.settings.limits.max_body_bytes)

    def decode() -> tuple[Any, EmbedRequest]:
        body = parse(codec.body, raw)
        return body, codec.decode(body, record.request_id)

    body, request = decode() if len(raw) <= _LARGE_BYTES else await asyncio.to_thread(decode)
    request = apply_placing_hints(request, http_request)
    record.model = request.model or ""
    embedding = await _await_while_connected(http_request, embed(gateway, request, record))
    context = EmbedContext(body=body, model=record.model, elapsed_s=time.monotonic() - arrived)
    headers = write_record_headers(record, dialect)
    if embedding.vectors.size <= _LARGE_NUMBERS:
        return json_response(codec.encode(embedding, context), 200, headers)
    content = await asyncio.to_thread(lambda: dump_in_pieces(codec.encode(embedding, context)))
    return Response(content, 200, headers, "application/json")


async def _fold_while_connected(request: Request, events: AsyncGenerator[AnswerEvent, None]) -> Completion:
    """Collect the whole answer; aborts it and raises `ClientDisconnect` when the client leaves."""
    try:
        return await _await_while_connected(request, fold(events))
    finally:
        await events.aclose()


async def _await_while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`; cancels it and raises `ClientDisconnect` when the client leaves."""

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, gone = asyncio.ensure_future(work), asyncio.ensure_future(wait_for_disconnect())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return await answer
    finally:
        for task in (answer, gone):
            task.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)


async def _encode(
    first: AnswerEvent, events: AsyncIterator[AnswerEvent], encoder: StreamEncoder, record: RequestRecord
) -> AsyncIterator[bytes]:
    """Yield the stream's bytes; a stream that fails midway ends with a well-formed error.

    Where the client asked for the routing, a comment says which group continues the answer when an attempt failed.
    """
    attempts = record.attempts
    try:
        if opening := b"".join(encoder.push(first)):
            yield opening
        async for event in events:
            if record.attempts != attempts and record.show_candidates and encoder.media_type == _EVENT_STREAM:
                attempts = record.attempts
                route = {"group": record.group, "attempt": attempts, "reason": record.reason}
                yield b": route %s\n\n" % json.dumps(route, allow_nan=False).encode()
            if isinstance(event, ChoiceEnd):
                await _keep(encoder, event)
            if chunk := b"".join(encoder.push(event)):
                yield chunk
    except ServeError as error:
        await _keep(encoder, error)
        yield b"".join(encoder.fail(error))
    except Exception:  # no text of an unforeseen error may reach a client
        logger.exception("request %s failed midway", record.request_id)
        failure = internal_error(record.request_id)
        await _keep(encoder, failure)
        yield b"".join(encoder.fail(failure))


async def _keep(encoder: StreamEncoder, ending: ChoiceEnd | ServeError) -> None:
    if isinstance(encoder, KeepingEncoder):
        await encoder.keep(ending)


def open_archive(gateway: Gateway, record: RequestRecord) -> OwnArchive:
    """Return the kept answers of the request's caller."""
    return Archive(gateway.accounts.store, gateway.settings.responses).belonging_to(record.caller.name)


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


def request_id(request: Request) -> str:
    """Return the id that the client gave, or a new one."""
    return choose_request_id(request.headers.get("x-request-id", ""))


def write_record_headers(record: RequestRecord, dialect: Dialect) -> dict[str, str]:
    """Return the response headers with the request's id and routing, and those of the dialect."""
    headers = {
        "x-request-id": record.request_id,
        "x-model": quote(record.served_model, safe="/:") or "none",
        "x-task": record.task or "none",
        "x-engine": record.group or "none",
        "x-route-reason": record.reason or "none",
        "x-attempts": str(record.attempts),
    }
    if record.dropped_messages:
        headers["x-dropped-messages"] = str(record.dropped_messages)
    if record.invalid_calls:
        headers["x-invalid-tool-arguments"] = ",".join(map(quote, record.invalid_calls))
    if record.invalid_answers:
        headers["x-invalid-answer"] = ",".join(map(str, record.invalid_answers))
    if record.show_candidates:
        headers["x-route-candidates"] = json.dumps([_show_candidate(each) for each in record.candidates], separators=(",", ":"))
    return headers | dialect.write_headers(record)


def _show_candidate(candidate: Candidate) -> JsonObject:
    def round_seconds(seconds: float | None) -> float | None:
        return None if seconds is None or not math.isfinite(seconds) else round(seconds, 3)

    return {
        "group": candidate.group,
        "obstacle": candidate.obstacle or None,
        "ahead": candidate.ahead,
        "wait_s": round_seconds(candidate.wait_s),
        "finish_s": round_seconds(candidate.finish_s),
    }


def json_response(body: JsonObject, status: int, headers: dict[str, str]) -> Response:
    """Return a JSON answer."""
    return Response(dump(body), status, headers, "application/json")


def error_response(dialect: Dialect, error: ServeError, record: RequestRecord, extra: dict[str, str] | None = None) -> Response:
    """Return an error in the dialect's shape; `extra` headers come on top."""
    headers = write_record_headers(record, dialect) | (extra or {})
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.futile_to_retry:
        headers["x-should-retry"] = "false"  # read by OpenAI's libraries, and by others from the same generator
    return json_response(dialect.encode_error(error, record.request_id), dialect.show_status(error), headers)
