"""The state of the application as JSON, for the operations page and commands. Pure."""

import math
from collections.abc import Mapping
from dataclasses import asdict

from serve_app.config import AppSettings
from serve_app.operations.base import Bounds, JsonObject
from serve_app.reports import ReplicaReport
from serve_app.request_book import EndedRequest, LiveRequest
from serve_app.routing.breaker import BreakerState
from serve_app.routing.fleet import Group
from serve_app.types import Phase

_WORKING = (Phase.READY, Phase.DRAINING)
Breakers = Mapping[tuple[str, str], BreakerState]
"""State of each breaker by (group, replica), the replica empty for the group's own."""


def show_group(group: Group, settings: AppSettings, breakers: Breakers, bounds: Bounds | None) -> JsonObject:
    """Return a group with its replicas."""
    info, load = group.info, group.load
    replicas = [show_replica(report, breakers) for report in sorted(group.reports, key=lambda report: report.replica_id)]
    return {
        "name": group.name,
        "model": settings.model_of(group.name),
        "engine": info.kind if info else None,
        "precision": info.precision if info else None,
        "context_length": info.context_length if info else None,
        "phase": group.phase,
        "reason": group.reason or None,
        "ready_replicas": group.replicas,
        "capacity": group.replicas * info.max_concurrency if info else 0,
        "running": load.running,
        "waiting": load.waiting,
        "backlog_tokens": load.waiting_tokens,
        "tokens_per_second": round(load.tokens_per_second, 1),
        "kv_used_tokens": _add_up(replicas, "kv_used_tokens"),
        "kv_total_tokens": _add_up(replicas, "kv_total_tokens"),
        "kv_bytes": _add_up(replicas, "kv_bytes"),
        "pss_bytes": _add_up(replicas, "pss_bytes"),
        "estimated_wait_s": estimate_wait_s(group),
        "breaker": breakers.get((group.name, ""), BreakerState.CLOSED),
        "sleeps": group.sleeps,
        "bounds": asdict(bounds) if bounds else None,
        "silent": sorted(group.silent),
        "replicas": replicas,
    }


def estimate_wait_s(group: Group) -> float | None:
    """Return the seconds until the waiting prompts are read, at the observed rate; None where the rate is unknown."""
    load = group.load
    if not group.ready:
        return None
    if not load.waiting and not load.waiting_tokens:
        return 0.0
    return round(load.waiting_tokens / load.tokens_per_second, 3) if load.tokens_per_second > 0 else None


def count_used_tokens(usage: float, room: int | None) -> int | None:
    """Return how many tokens are in a KV cache with `room` for so many; None where that is unknown."""
    return None if room is None or not math.isfinite(usage) else round(usage * room)


def show_memory(report: ReplicaReport) -> JsonObject:
    """Return what a replica holds in memory: its processes, and its KV cache where it works."""
    process, info = report.process, report.info
    used = count_used_tokens(report.load.kv_usage, info.kv_tokens) if info and report.phase in _WORKING else None
    return {
        "pss_bytes": process.memory_bytes if process else None,
        "kv_used_tokens": used,
        "kv_total_tokens": info.kv_tokens if info else None,
        "kv_bytes": info.kv_bytes if info else None,
    }


def show_replica(report: ReplicaReport, breakers: Breakers) -> JsonObject:
    """Return one replica."""
    process, load = report.process, report.load
    return {
        "id": report.replica_id,
        "node": process.node if process else None,
        "pid": process.pid if process else None,
        "phase": report.phase,
        "reason": report.reason or None,
        "since_s": report.timeline[-1].at if report.timeline else None,
        "timeline": [{"phase": each.phase, "at": round(each.at, 3), "reason": each.reason} for each in report.timeline],
        "running": load.running,
        "waiting": load.waiting,
        "kv_usage": round(load.kv_usage, 4),
        "slots": report.info.max_concurrency if report.info else None,
        "tokens_per_second": round(load.tokens_per_second, 1),
        "breaker": breakers.get((report.group, report.replica_id), BreakerState.CLOSED),
        "last_error": {"at": round(report.mishap.at, 3), "message": report.mishap.message} if report.mishap else None,
    } | show_memory(report)


def show_live(request: LiveRequest, ingress: str) -> JsonObject:
    """Return a request that is being served."""
    shown = asdict(request) | {"ingress": ingress, "age_s": round(request.age_s, 2)}
    shown["phase"] = "answering" if shown.pop("has_begun") else "queued"
    return shown


def show_ended(request: EndedRequest, ingress: str) -> JsonObject:
    """Return a request that has ended, without its candidates and attempts."""
    pace = request.tokens_per_second
    return {
        "id": request.id,
        "ingress": ingress,
        "at": round(request.at, 3),
        "key": request.key,
        "model": request.model,
        "task": request.task,
        "group": request.group,
        "reason": request.reason,
        "attempts": request.attempts,
        "outcome": request.outcome,
        "prompt_tokens": request.prompt_tokens,
        "cached_tokens": request.cached_tokens,
        "completion_tokens": request.completion_tokens,
        "seconds": round(request.seconds, 4),
        "first_token_s": _round(request.first_token_s),
        "tokens_per_second": None if pace is None else round(pace, 1),
    }


def show_details(request: EndedRequest, ingress: str) -> JsonObject:
    """Return a request that has ended, with everything that is kept of it."""
    return show_ended(request, ingress) | {
        "candidates": [
            {
                "group": each.group,
                "obstacle": each.obstacle or None,
                "ahead": each.ahead,
                "wait_s": _round(each.wait_s),
                "finish_s": _round(each.finish_s),
            }
            for each in request.candidates
        ],
        "timeline": [
            {
                "at_s": _round(each.at_s),
                "seconds": _round(each.seconds),
                "group": each.group,
                "replica": each.replica or None,
                "outcome": each.outcome,
                "tokens": each.tokens,
            }
            for each in request.timeline
        ],
    }


def _add_up(replicas: list[JsonObject], field: str) -> int | None:
    known = [replica[field] for replica in replicas if replica[field] is not None]
    return sum(known) if known else None


def _round(seconds: float | None) -> float | None:
    return None if seconds is None or not math.isfinite(seconds) else round(seconds, 4)
