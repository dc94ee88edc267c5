"""The endpoints of operators, below /v1/operations, and who may use them. Knows `Operations`; what it shows stands there.

Where API keys are asked for, the key's scope decides. Without keys it takes the secret or a session of `access.operator`, and the
server's own machine. Pages of other origins are refused in either case.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from serve_app.access.check import Access, require_scope
from serve_app.access.operator import Operators
from serve_app.caller import Scope
from serve_app.dialects.base import JsonObject, WireBody, parse
from serve_app.errors import Forbidden, InvalidRequest, StoreUnavailable, Unauthenticated
from serve_app.http.openapi import OperatorPath
from serve_app.http.respond import json_response, read_body
from serve_app.http.status import Mount
from serve_app.operations.bundle import build_bundle
from serve_app.operations.configuration import compare, show_settings
from serve_app.operations.feed import Feed
from serve_app.operations.service import Operations
from serve_app.record import RequestRecord
from serve_app.reports import ReplicaAction
from serve_app.request_book import KEPT

TOKEN_HEADER = "x-operator-token"
_ROOT = "/v1/operations"
SESSION_PATH = f"{_ROOT}/session"
_MAX_LINES = 5000
_LINES = 200
_MAX_FILE_BYTES = 1_000_000
_Answer: TypeAlias = Callable[[Request, RequestRecord], Awaitable[Response]]
_Body = TypeVar("_Body", bound=WireBody)


class TicketBody(WireBody):
    """What is exchanged for a session."""

    ticket: str


class ReplicaBody(WireBody):
    """Which replica of the group is meant; left out: all."""

    replica: str | None = None


class ScaleBody(WireBody):
    """How many replicas a group may have; `max` left out: as it is, but at least `min`."""

    min: int
    max: int | None = None


OPERATION_PATHS: tuple[OperatorPath, ...] = (
    OperatorPath("GET", _ROOT, "Follow the state, requests and history as server-sent events.", "text/event-stream"),
    OperatorPath("GET", f"{_ROOT}/state", "Return groups, replicas, ingresses and live requests."),
    OperatorPath("GET", SESSION_PATH, "Return how a page signs in, and whether it is."),
    OperatorPath("POST", SESSION_PATH, "Exchange a ticket, which works once, for a token.", body=TicketBody),
    OperatorPath("GET", f"{_ROOT}/requests", "List the last requests of every ingress."),
    OperatorPath("GET", f"{_ROOT}/requests/{{id}}", "Return a request that has ended, with candidates and attempts."),
    OperatorPath("POST", f"{_ROOT}/requests/{{id}}/cancel", "End a request."),
    OperatorPath("POST", f"{_ROOT}/groups/{{group}}/drain", "Send a group or replica nothing new.", body=ReplicaBody),
    OperatorPath("POST", f"{_ROOT}/groups/{{group}}/resume", "Send it requests again.", body=ReplicaBody),
    OperatorPath("POST", f"{_ROOT}/groups/{{group}}/restart", "Replace a group's replicas one by one."),
    OperatorPath("POST", f"{_ROOT}/groups/{{group}}/scale", "Change how many replicas a group may have.", body=ScaleBody),
    OperatorPath("POST", f"{_ROOT}/groups/{{group}}/wake", "Start a sleeping group."),
    OperatorPath("GET", f"{_ROOT}/configuration", "Return the effective configuration."),
    OperatorPath("POST", f"{_ROOT}/configuration/diff", "Compare it with a file, the body.", body=bytes),
    OperatorPath("GET", f"{_ROOT}/logs", "Return the ends of the logs."),
    OperatorPath("GET", f"{_ROOT}/bundle", "Return a support bundle.", "application/zip"),
)


class OperatorCheck:
    """Lets operators pass, and nobody else."""

    def __init__(self, access: Access, operators: Operators) -> None:
        """Ask `access` whether keys are asked for; without them ask `operators`."""
        self._access = access
        self._operators = operators

    @property
    def needs(self) -> str:
        """What a page must present: a `key` or a `ticket`."""
        return "key" if self._access.asks_for_keys else "ticket"

    async def require(self, request: Request, record: RequestRecord) -> None:
        """Raise `Forbidden` or `Unauthenticated` unless the request may operate."""
        require_same_origin(request)
        if self._access.asks_for_keys:
            require_scope(record.caller, Scope.OPERATE)
            return
        require_loopback(request)
        if not await self._call(partial(self._operators.allows, request.headers.get(TOKEN_HEADER, ""))):
            raise Unauthenticated(
                f"operating asks for the ticket that the terminal printed, or for the header {TOKEN_HEADER}; "
                "`phi-serve ops` prints a new link"
            )

    async def redeem(self, ticket: str, request: Request) -> JsonObject:
        """Return a session for a ticket; raises `Unauthenticated`, and `InvalidRequest` where keys are asked for."""
        require_same_origin(request)
        if self._access.asks_for_keys:
            raise InvalidRequest("this server asks for API keys; send a key with the scope 'operate'", param="ticket")
        require_loopback(request)
        session = await self._call(partial(self._operators.redeem, ticket))
        return {"object": "operations.session", "token": session.token, "expires_at": session.expires_at}

    async def _call(self, work: Callable[[], Any]) -> Any:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise StoreUnavailable(
                f"the folder of the operator's secret cannot be used: {error.strerror}", reason="broken"
            ) from error


def require_same_origin(request: Request) -> None:
    """Raise `Forbidden` for requests of other pages than the server's own."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "").lower()
    is_own = origin is None or origin.lower() in (f"http://{host}", f"https://{host}")
    if not is_own or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Forbidden("pages of other origins may not operate this server")


def require_loopback(request: Request) -> None:
    """Raise `Forbidden` for requests from other machines."""
    try:
        is_here = request.client is None or ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:  # a unix socket, or a test's client
        is_here = True
    if not is_here:
        raise Forbidden("without API keys only the server's own machine may operate it; make a key with `phi-serve keys create`")


def mount_operations(mount: Mount, operations: Operations, check: OperatorCheck) -> None:
    """Add the endpoints of `OPERATION_PATHS`."""
    feed = Feed(operations)

    async def follow(request: Request, record: RequestRecord) -> Response:
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(feed.watch(), media_type="text/event-stream", headers=headers)

    async def state(request: Request, record: RequestRecord) -> Response:
        return _answer({"object": "operations.state"} | await operations.show_state())

    async def requests(request: Request, record: RequestRecord) -> Response:
        limit = _read_number(request, "limit", KEPT, KEPT * 100)
        return _answer({"object": "list", "data": await operations.list_requests(limit)})

    async def one_request(request: Request, record: RequestRecord) -> Response:
        return _answer({"object": "operations.request"} | await operations.show_request(request.path_params["id"]))

    async def cancel(request: Request, record: RequestRecord) -> Response:
        await operations.cancel(request.path_params["id"])
        return _answer({"object": "operations.request", "id": request.path_params["id"], "cancelled": True})

    def act(action: ReplicaAction) -> _Answer:
        async def answer(request: Request, record: RequestRecord) -> Response:
            body = await _read(request, ReplicaBody)
            return _answer(await operations.act(request.path_params["group"], action, body.replica))

        return answer

    async def restart(request: Request, record: RequestRecord) -> Response:
        return _answer(await operations.restart(request.path_params["group"]))

    async def scale(request: Request, record: RequestRecord) -> Response:
        body = await _read(request, ScaleBody)
        return _answer(await operations.scale(request.path_params["group"], body.min, body.max))

    async def wake(request: Request, record: RequestRecord) -> Response:
        return _answer(await operations.wake(request.path_params["group"]))

    async def configuration(request: Request, record: RequestRecord) -> Response:
        return _answer({"object": "operations.configuration", "args": show_settings(operations.settings)})

    async def diff(request: Request, record: RequestRecord) -> Response:
        raw = await read_body(request, _MAX_FILE_BYTES)
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest("the file is no text in UTF-8") from error
        changes = await asyncio.to_thread(compare, operations.settings, text)
        return _answer({"object": "operations.diff", "changes": changes})

    async def logs(request: Request, record: RequestRecord) -> Response:
        query, lines = request.query_params, _read_number(request, "lines", _LINES, _MAX_LINES)
        sources = await operations.read_logs(query.get("group"), query.get("replica"), lines)
        return _answer({"object": "operations.logs", "sources": sources})

    async def bundle(request: Request, record: RequestRecord) -> Response:
        headers = {"content-disposition": 'attachment; filename="phi-serve-support.zip"'}
        return Response(await build_bundle(operations), 200, headers, "application/zip")

    async def show_session(request: Request, record: RequestRecord) -> Response:
        try:
            await check.require(request, record)
        except (Forbidden, Unauthenticated):
            may_operate = False
        else:
            may_operate = True
        return _answer({"object": "operations.session", "needs": check.needs, "may_operate": may_operate})

    async def begin_session(request: Request, record: RequestRecord) -> Response:
        return _answer(await check.redeem((await _read(request, TicketBody)).ticket, request))

    def guard(answer: _Answer) -> _Answer:
        async def guarded(request: Request, record: RequestRecord) -> Response:
            await check.require(request, record)
            return await answer(request, record)

        return guarded

    mount(SESSION_PATH, show_session, None)
    mount(SESSION_PATH, begin_session, None, "POST")
    guarded: dict[tuple[str, str], _Answer] = {
        ("GET", ""): follow,
        ("GET", "/state"): state,
        ("GET", "/requests"): requests,
        ("GET", "/requests/{id}"): one_request,
        ("POST", "/requests/{id}/cancel"): cancel,
        ("POST", "/groups/{group}/drain"): act(ReplicaAction.DRAIN),
        ("POST", "/groups/{group}/resume"): act(ReplicaAction.RESUME),
        ("POST", "/groups/{group}/restart"): restart,
        ("POST", "/groups/{group}/scale"): scale,
        ("POST", "/groups/{group}/wake"): wake,
        ("GET", "/configuration"): configuration,
        ("POST", "/configuration/diff"): diff,
        ("GET", "/logs"): logs,
        ("GET", "/bundle"): bundle,
    }
    for (method, path), answer in guarded.items():
        mount(f"{_ROOT}{path}", guard(answer), Scope.OPERATE, method)


def _answer(content: JsonObject) -> Response:
    return json_response(content, 200, {"cache-control": "no-store"})


async def _read(request: Request, body_type: type[_Body]) -> _Body:
    """Return the body; an empty one is an object without fields."""
    return parse(body_type, await read_body(request, _MAX_FILE_BYTES) or b"{}")


def _read_number(request: Request, name: str, default: int, most: int) -> int:
    given = request.query_params.get(name, str(default))
    if not given.isascii() or not given.isdecimal() or not 0 < int(given[:12]) <= most:
        raise InvalidRequest(f"{name} must be a whole number from 1 to {most}", param=name)
    return int(given)
