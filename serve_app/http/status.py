"""The status endpoints for operators: health, the cluster's state, metrics. Shows the fleet as JSON."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from serve_app.access.usage import DAY_S, FIGURES
from serve_app.caller import Caller, Scope
from serve_app.config import AppSettings
from serve_app.errors import Forbidden, InvalidRequest, ServeError
from serve_app.gateway import Gateway
from serve_app.http.respond import json_response
from serve_app.metrics import CONTENT_TYPE
from serve_app.operations.shapes import estimate_wait_s, show_memory
from serve_app.record import RequestRecord
from serve_app.reports import ReplicaReport
from serve_app.routing.fleet import Fleet, Group
from serve_app.types import Phase, Task

JsonObject = dict[str, Any]
STATUS_PATHS = dict.fromkeys(("/health", "/livez", "/v1/cluster", "/v1/usage"), "application/json") | {"/metrics": "text/plain"}
"""Paths of these endpoints, with the media type of their answers."""


Answer = Callable[[Request, RequestRecord], Awaitable[Response]]


class Mount(Protocol):
    """Adds an endpoint to the application."""

    def __call__(self, path: str, answer: Answer, scope: Scope | None, method: str = "GET") -> None:
        """Answer `method` at `path`; GET answers HEAD too. Callers need `scope`; None: they need none."""


def mount_status(mount: Mount, gateway: Gateway) -> None:
    """Add the status endpoints of a gateway."""

    async def health(request: Request, record: RequestRecord) -> Response:
        fleet, faults = gateway.fleet(), gateway.catalog.faults
        ready = fleet.ready and not faults
        status = fleet.summarize(has_faults=bool(faults))
        headers = {} if ready else {"retry-after": "5"}
        if not _may_see_all(record.caller):
            return json_response(_show_phases(status, fleet), 200 if ready else 503, headers)
        body = {
            "status": status,
            "model": gateway.settings.default_model,
            "capabilities": [str(task) for task in (Task.REASONING, Task.MATH, Task.CODING)],
            "active_requests": gateway.active,
            "models": _show_models(gateway.settings, fleet, faults),
            "groups": _show_groups(fleet, gateway.settings),
        }
        return json_response(body, 200 if ready else 503, headers)

    async def metrics(request: Request, record: RequestRecord) -> Response:
        return Response(gateway.render_exposition(), media_type=CONTENT_TYPE)

    async def cluster(request: Request, record: RequestRecord) -> Response:
        return json_response(show_cluster(gateway.fleet(), gateway.settings), 200, {})

    async def usage(request: Request, record: RequestRecord) -> Response:
        return json_response(await _show_usage(gateway, request, record), 200, {})

    mount("/health", health, None)
    mount("/livez", _livez, None)
    mount("/metrics", metrics, Scope.OPERATE)
    mount("/v1/cluster", cluster, Scope.OPERATE)
    mount("/v1/usage", usage, None)


def mount_unusable_status(
    mount: Mount, settings: AppSettings, fleet: Callable[[], Fleet], faults: Callable[[], Mapping[str, ServeError]]
) -> None:
    """Add the status endpoints of an application that can serve none of its models; health gives the reasons by model."""

    async def health(request: Request, record: RequestRecord) -> Response:
        if not _may_see_all(record.caller):
            return json_response(_show_phases("failed", fleet()), 503, {"retry-after": "10"})
        body = {
            "status": "failed",
            "model": settings.default_model,
            "models": _show_models(settings, fleet(), faults()),
            "groups": _show_groups(fleet(), settings),
        }
        return json_response(body, 503, {"retry-after": "10"})

    mount("/health", health, None)
    mount("/livez", _livez, None)


async def _livez(request: Request, record: RequestRecord) -> Response:
    return json_response({"status": "ok"}, 200, {})


def _may_see_all(caller: Caller) -> bool:
    """Return whether a caller may learn which models there are and why one fails."""
    return bool(caller.scopes) and (Scope.OPERATE in caller.scopes or not caller.models)


def _show_phases(status: str, fleet: Fleet) -> JsonObject:
    """Return what everybody may know."""
    return {"status": status, "groups": {group.name: {"phase": group.phase} for group in fleet.groups}}


async def _show_usage(gateway: Gateway, request: Request, record: RequestRecord) -> JsonObject:
    """Return the usage by key, model and day: a caller's own, or everybody's for operators."""
    since, until = (_parse_day(request, name) for name in ("since", "until"))
    key = request.query_params.get("key")
    if Scope.OPERATE not in record.caller.scopes:
        if key not in (None, record.caller.name):
            raise Forbidden(f"the API key '{record.caller.name}' may see its own usage only: it lacks the scope 'operate'")
        key = record.caller.name
    found = await gateway.accounts.usage.read(since=since or 0.0, until=float("inf") if until is None else until + DAY_S, key=key)
    rows = [
        {"key": each.key, "model": each.model, "date": datetime.fromtimestamp(each.day, UTC).date().isoformat()}
        | {name: getattr(each, name) for name in FIGURES if name != "engine_ms"}
        | {"engine_seconds": each.engine_ms / 1000}
        for each in found
    ]
    return {"object": "list", "data": rows}


def _parse_day(request: Request, name: str) -> float | None:
    """Return the beginning of a date in the query, in seconds since 1970; None without one."""
    given = request.query_params.get(name)
    if not given:
        return None
    try:
        return datetime.strptime(given, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise InvalidRequest(f"{name} must be a date such as 2026-11-30", param=name) from None


def show_cluster(fleet: Fleet, settings: AppSettings) -> JsonObject:
    """Return the groups with their backlog, the estimated wait, and each replica that reports."""
    groups = [_show_backlog(group, settings.model_of(group.name)) for group in fleet.groups]
    return {"object": "cluster", "ready": fleet.ready, "groups": groups}


def _show_models(settings: AppSettings, fleet: Fleet, faults: Mapping[str, ServeError]) -> JsonObject:
    """Return each model's state, and why it cannot be served."""
    shown: JsonObject = {}
    for name in settings.models:
        groups = [group.name for group in fleet.groups if settings.model_of(group.name) == name]
        fault = faults.get(name)
        shown[name] = {"status": "failed" if fault else fleet.select(groups).summarize(), "groups": groups}
        if fault:
            shown[name]["reason"] = fault.message
    return shown


def _show_groups(fleet: Fleet, settings: AppSettings) -> JsonObject:
    return {group.name: {"model": settings.model_of(group.name)} | _show_group(group) for group in fleet.groups}


def _show_group(group: Group) -> JsonObject:
    shown: JsonObject = {"phase": group.phase, "replicas": group.replicas}
    if group.reason:
        shown["reason"] = group.reason
    if group.ready and group.info is not None:
        shown |= {"engine": group.info.kind, "precision": group.info.precision, "context_length": group.info.context_length}
        shown |= _show_load(group) | {"kv_usage": round(group.load.kv_usage, 4)} | _show_pace(group)
    return shown


def _show_backlog(group: Group, model: str) -> JsonObject:
    shown: JsonObject = {
        "name": group.name,
        "model": model,
        "phase": group.phase,
        "reason": group.reason or None,
        "engine": group.info.kind if group.info else None,
        "ready_replicas": group.replicas,
        "capacity": group.replicas * group.info.max_concurrency if group.info else 0,
    }
    shown |= _show_load(group) | {"backlog_tokens": group.load.waiting_tokens} | _show_pace(group)
    return shown | {"estimated_wait_s": estimate_wait_s(group), "replicas": [_show_replica(report) for report in group.reports]}


def _show_load(group: Group) -> JsonObject:
    return {"running": group.load.running, "waiting": group.load.waiting}


def _show_pace(group: Group) -> JsonObject:
    return {"tokens_per_second": round(group.load.tokens_per_second, 1)}


def _show_replica(report: ReplicaReport) -> JsonObject:
    shown: JsonObject = {"id": report.replica_id, "phase": report.phase} | show_memory(report)
    if report.phase in (Phase.READY, Phase.DRAINING):
        load = report.load
        shown |= {"running": load.running, "waiting": load.waiting, "kv_usage": round(load.kv_usage, 4)}
    return shown
