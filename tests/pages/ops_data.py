"""What the operations API answers, as Python dicts: the scripted server sends them, and a contract test may compare their keys.

`STATE`, `FINISHED`, `POINT`, `DETAIL` and the others at the end are one complete example each; their lists hold at least one entry.
Knows no clock and no HTTP: every time is relative to the `now` that the caller gives.
"""

from typing import Any

NOW = 1_800_000_000.0
"""When the examples at the end of this module were taken."""
MODEL = "phi-4-mini-instruct"
ENCODER = "all-minilm"
GIB = 1 << 30
PHASES = ("starting", "loading", "warming", "ready", "failed", "draining", "asleep")


def timeline(now: float, *steps: tuple[str, float, str]) -> list[dict[str, Any]]:
    """Return a replica's phases; each step is (phase, seconds before now, reason)."""
    return [{"phase": phase, "at": now - ago, "reason": reason} for phase, ago, reason in steps]


def started(now: float, ago: float, load_s: float = 12.0) -> list[dict[str, Any]]:
    """Return the phases of a replica that became ready so many seconds ago."""
    return timeline(
        now, ("starting", ago + load_s + 4.2, ""), ("loading", ago + load_s + 1, ""), ("warming", ago + 1, ""), ("ready", ago, "")
    )


def replica(now: float, name: str, phases: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a replica whose phase is the last one of `phases`."""
    return {
        "id": name,
        "node": "node-a",
        "pid": 4000 + sum(map(ord, name)),
        "phase": phases[-1]["phase"],
        "reason": phases[-1]["reason"] or None,
        "since_s": phases[-1]["at"],
        "timeline": phases,
        "pss_bytes": int(1.4 * GIB),
        "running": 0,
        "waiting": 0,
        "kv_usage": 0.02,
        "kv_used_tokens": 655,
        "kv_total_tokens": 32768,
        "kv_bytes": GIB // 4,
        "slots": 16,
        "tokens_per_second": 0.0,
        "breaker": "closed",
        "last_error": None,
    } | changes


def group(name: str, replicas: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a ready group; its sums are those of its replicas."""
    ready = [each for each in replicas if each["phase"] == "ready"]

    def total(field: str) -> int | None:
        figures = [each[field] for each in ready if each[field] is not None]
        return sum(figures) if figures else None

    return {
        "name": name,
        "model": MODEL,
        "engine": name,
        "precision": "fp32",
        "context_length": 4096,
        "phase": "ready",
        "reason": None,
        "ready_replicas": len(ready),
        "capacity": sum(each["slots"] for each in ready),
        "running": sum(each["running"] for each in replicas),
        "waiting": sum(each["waiting"] for each in replicas),
        "backlog_tokens": 0,
        "tokens_per_second": sum(each["tokens_per_second"] for each in replicas),
        "kv_used_tokens": total("kv_used_tokens"),
        "kv_total_tokens": total("kv_total_tokens"),
        "kv_bytes": total("kv_bytes"),
        "pss_bytes": total("pss_bytes"),
        "estimated_wait_s": 0.0 if ready else None,
        "breaker": "closed",
        "sleeps": False,
        "bounds": {"min": 1, "max": 2},
        "silent": [],
        "replicas": replicas,
    } | changes


def ingress(name: str = "ab12", **changes: Any) -> dict[str, Any]:
    return {"id": name, "node": "node-a", "pid": 77, "active": 3, "pss_bytes": 310_000_000, "uptime_s": 86_400.0} | changes


def live(name: str, **changes: Any) -> dict[str, Any]:
    """Return a request under way."""
    return {
        "id": name,
        "ingress": "ab12",
        "key": "anonymous",
        "model": MODEL,
        "task": "math",
        "group": "onnx",
        "reason": "preferred",
        "attempts": 1,
        "prompt_tokens": 12,
        "completion_tokens": 88,
        "age_s": 1.2,
        "phase": "answering",
    } | changes


def finished(name: str, at: float, **changes: Any) -> dict[str, Any]:
    """Return a request that ended at `at`."""
    return {
        "id": name,
        "ingress": "ab12",
        "at": at,
        "key": "anonymous",
        "model": MODEL,
        "task": "math",
        "group": "onnx",
        "reason": "preferred",
        "attempts": 1,
        "outcome": "ok",
        "prompt_tokens": 12,
        "cached_tokens": 0,
        "completion_tokens": 128,
        "seconds": 2.4,
        "first_token_s": 0.09,
        "tokens_per_second": 55.4,
    } | changes


def point(at: float, **changes: Any) -> dict[str, Any]:
    """Return ten seconds of the charts."""
    return {
        "at": at,
        "span_s": 10,
        "first_token_s": {"p50": 0.09, "p95": 0.31},
        "inter_token_s": {"p50": 0.018, "p95": 0.042},
        "ok": 9,
        "errors": 0,
        "cancelled": 1,
        "running": 4,
        "waiting": 0,
        "tokens_per_second": 140.0,
        "replicas": {"onnx": 2, "vllm": 1},
        "flow": {"math": {"onnx": 4}, "coding": {"vllm": 3}, "general": {"onnx": 2, "vllm": 1}},
    } | changes


def candidate(name: str, obstacle: str | None = None, ahead: int = 0, wait_s: float | None = 0.0) -> dict[str, Any]:
    """Return a group that the policy considered."""
    finish_s = None if wait_s is None else wait_s + 2.3
    return {"group": name, "obstacle": obstacle, "ahead": ahead, "wait_s": wait_s, "finish_s": finish_s}


def attempt(
    at_s: float, name: str = "onnx", replica: str | None = "x1y2", outcome: str = "ok", tokens: int = 128
) -> dict[str, Any]:
    """Return one attempt at a request."""
    return {"at_s": at_s, "seconds": 0.4, "group": name, "replica": replica, "outcome": outcome, "tokens": tokens}


def detail(request: dict[str, Any], candidates: list[dict[str, Any]], timeline: list[dict[str, Any]]) -> dict[str, Any]:
    return request | {"candidates": candidates, "timeline": timeline}


def state(now: float, groups: list[dict[str, Any]], under_way: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    phases = {each["phase"] for each in groups if each["phase"] != "asleep"}
    status = "healthy" if phases <= {"ready"} else "degraded" if "ready" in phases else "not_ready"
    return {"now": now, "status": status, "models": {}, "ingresses": [ingress()], "groups": groups, "live": under_way} | changes


def hello(now: float, history: list[dict[str, Any]], requests: list[dict[str, Any]], snapshot: dict[str, Any]) -> dict[str, Any]:
    """Return the first event of a stream."""
    return {"now": now, "version": "0.1.0", "every_s": 2, "history": history, "requests": requests[:200], "state": snapshot}


def configuration() -> dict[str, Any]:
    """Return an effective configuration, in small."""
    return {
        "object": "operations.configuration",
        "args": {
            "models": {MODEL: {"path": "embedded", "aliases": ["phi-4-mini", "phi4-mini"], "chat_format": None}},
            "engines": {
                "onnx": {"kind": "onnx", "precision": "fp32", "max_model_len": 4096, "slots": 16, "max_waiting": 64},
                "vllm": {"kind": "vllm", "device": "cpu", "dtype": "float32", "max_model_len": 4096, "max_num_seqs": 16},
                "llama_cpp": {"kind": "llama_cpp", "precision": "f32", "max_model_len": 4096, "slots": 4},
            },
            "limits": {"max_body_bytes": 1_000_000, "max_choices": 4, "request_timeout_s": 600.0},
            "browsers": {"origins": [], "hosts": []},
            "store": None,
            "routing": {
                "require_model": True,
                "prefer": {"math": ["onnx", "vllm"], "coding": ["vllm", "onnx"], "general": ["onnx", "vllm"]},
                "max_attempts": 3,
                "stale_after_s": 6.0,
            },
        },
    }


def logs(name: str, replica: str, lines: list[str]) -> dict[str, Any]:
    return {"object": "operations.logs", "sources": [{"group": name, "id": replica, "node": "node-a", "lines": lines}]}


_ERROR = {"at": NOW - 60, "message": "the step took longer than 60 s"}
STATE = state(NOW, [group("onnx", [replica(NOW, "x1y2", started(NOW, 3600), last_error=_ERROR)])], [live("req-1")])
FINISHED = finished("req-0", NOW - 3)
POINT = point(NOW)
DETAIL = detail(FINISHED, [candidate("onnx"), candidate("vllm", "not-ready", wait_s=None)], [attempt(0.0)])
HELLO = hello(NOW, [POINT], [FINISHED], STATE)
CONFIGURATION = configuration()
DIFF = {"object": "operations.diff", "changes": [{"path": "routing.max_attempts", "running": 3, "file": 2}]}
LOGS = logs("onnx", "x1y2", ["ready after 17 s"])
SESSION = {"object": "operations.session", "needs": "ticket", "may_operate": False}
TOKEN = {"object": "operations.session", "token": "token-of-the-session", "expires_at": NOW + 86_400}
ANSWERS = {
    "drain": {"object": "operations.group", "group": "onnx", "replicas": ["x1y2"], "running": 3},
    "resume": {"object": "operations.group", "group": "onnx", "replicas": ["x1y2"], "running": 3},
    "restart": {"object": "operations.group", "group": "onnx", "restarting": ["x1y2"]},
    "scale": {"object": "operations.group", "group": "onnx", "bounds": {"min": 1, "max": 4}, "before": {"min": 1, "max": 2}},
    "wake": {"object": "operations.group", "group": "onnx"},
    "cancel": {"object": "operations.request", "id": "req-1", "cancelled": True},
}
"""What the actions answer."""
