"""The groups as an operator wants to see them: replicas, backlog, and how long work waits. Knows the fleet only."""

from typing import Any

from serve_app.reports import ReplicaReport
from serve_app.routing.fleet import Fleet, Group
from serve_app.types import Phase

JsonObject = dict[str, Any]


def overview(fleet: Fleet) -> JsonObject:
    """Return what GET /v1/cluster answers."""
    return {"object": "cluster", "ready": fleet.ready, "groups": [_group(group) for group in fleet.groups]}


def _group(group: Group) -> JsonObject:
    """One group: totals over its ready replicas, and each replica that is heard of."""
    load = group.load
    return {
        "name": group.name,
        "phase": group.phase,
        "reason": group.reason or None,
        "engine": group.info.kind if group.info else None,
        "ready_replicas": group.replicas,
        "capacity": group.replicas * group.info.max_concurrency if group.info else 0,
        "running": load.running,
        "waiting": load.waiting,
        "backlog_tokens": load.waiting_tokens,
        "tokens_per_second": round(load.tokens_per_second, 1),
        "estimated_wait_s": _wait_s(group),
        "replicas": [_replica(report) for report in group.reports],
    }


def _wait_s(group: Group) -> float | None:
    """Return the seconds until the prompts that wait now are read, at the pace observed; None where there is no pace to tell by."""
    load = group.load
    if not group.ready:
        return None
    if not load.waiting and not load.waiting_tokens:
        return 0.0
    return round(load.waiting_tokens / load.tokens_per_second, 3) if load.tokens_per_second > 0 else None


def _replica(report: ReplicaReport) -> JsonObject:
    shown: JsonObject = {"id": report.replica_id, "phase": report.phase}
    if report.phase is Phase.READY:
        load = report.load
        shown |= {"running": load.running, "waiting": load.waiting, "kv_usage": round(load.kv_usage, 4)}
    return shown
