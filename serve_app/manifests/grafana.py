"""Generates the Grafana dashboard, and finds the series in its queries.

Panels are grouped by the label `group`, so a new engine group appears without a change.
"""

import re
from dataclasses import dataclass
from typing import Any

_FILTER = '{group=~"$group"}'
_WIDTH, _HEIGHT, _PER_ROW = 8, 8, 3
_SERIES = re.compile(r"\b((?:vllm|group):[a-z0-9_:]+|phi_serve_[a-z0-9_]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One graph."""

    title: str
    about: str
    queries: dict[str, str]
    """Query by legend."""
    unit: str = "short"


def _rate_query(name: str, by: str = "group") -> str:
    return f"sum by ({by}) (rate({name}{_FILTER}[$__rate_interval]))"


def _quantile_query(name: str, quantile: float) -> str:
    return f"histogram_quantile({quantile}, sum by (group, le) (rate({name}_bucket{_FILTER}[$__rate_interval])))"


def _latency_panel(title: str, about: str, name: str) -> Panel:
    queries = {f"{{{{group}}}} p{int(quantile * 100)}": _quantile_query(name, quantile) for quantile in (0.5, 0.95)}
    return Panel(title=title, about=about, queries=queries, unit="s")


PANELS = (
    Panel(
        title="Replicas by phase",
        about="The replicas' phases, as in GET /health.",
        queries={"{{group}} {{phase}}": f"count by (group, phase) (phi_serve_replica_phase{_FILTER} == 1)"},
    ),
    Panel(
        title="Requests by their end",
        about="stop and length are complete answers; abort: the client left or the replica died.",
        queries={"{{group}} {{finished_reason}}": _rate_query("vllm:request_success_total", "group, finished_reason")},
        unit="reqps",
    ),
    Panel(
        title="Tokens",
        about="Prompt tokens read and tokens generated.",
        queries={
            "{{group}} generated": _rate_query("vllm:generation_tokens_total"),
            "{{group}} prompt": _rate_query("vllm:prompt_tokens_total"),
        },
        unit="tokens/s",
    ),
    Panel(
        title="Running and waiting",
        about="Inside the engines. Waiting for long means too few replicas.",
        queries={
            "{{group}} running": f"sum by (group) (vllm:num_requests_running{_FILTER})",
            "{{group}} waiting": f"sum by (group) (vllm:num_requests_waiting{_FILTER})",
        },
    ),
    Panel(
        title="Backlog",
        about="Prompt tokens of the waiting requests, which the autoscaling policy uses.",
        queries={"{{group}}": f"sum by (group) (phi_serve_engine_waiting_tokens{_FILTER})"},
        unit="tokens",
    ),
    Panel(
        title="KV cache in use",
        about="Per replica.",
        queries={"{{group}} {{replica}}": f"vllm:kv_cache_usage_perc{_FILTER}"},
        unit="percentunit",
    ),
    _latency_panel("Time to first token", "From the request's arrival at the replica.", "vllm:time_to_first_token_seconds"),
    _latency_panel("Time per token", "Mean of each request, after its first token.", "vllm:request_time_per_output_token_seconds"),
    _latency_panel("Whole answers", "From arrival to end.", "vllm:e2e_request_latency_seconds"),
    _latency_panel("Waiting for a slot", "The engine's queue.", "vllm:request_queue_time_seconds"),
    Panel(
        title="Time spent per second",
        about="Where the requests' time goes.",
        queries={
            "{{group}} reading prompts": _rate_query("vllm:request_prefill_time_seconds_sum"),
            "{{group}} generating": _rate_query("vllm:request_decode_time_seconds_sum"),
        },
        unit="s",
    ),
    Panel(
        title="Prefix cache",
        about="Share of prompt tokens that need not be read again.",
        queries={"{{group}}": f"{_rate_query('vllm:prefix_cache_hits_total')} / {_rate_query('vllm:prefix_cache_queries_total')}"},
        unit="percentunit",
    ),
    Panel(
        title="Tokens per request",
        about="Means.",
        queries={
            f"{{{{group}}}} {kind}": " / ".join(_rate_query(f"vllm:request_{kind}_tokens_{part}") for part in ("sum", "count"))
            for kind in ("prompt", "generation")
        },
        unit="tokens",
    ),
    Panel(
        title="Throughput now",
        about="Averages of the engines' last seconds, per replica.",
        queries={"{{group}} {{replica}}": f"phi_serve_engine_tokens_per_second{_FILTER}"},
        unit="tokens/s",
    ),
)
"""All graphs, in order."""


def find_series(query: str) -> set[str]:
    """Return the names of the series in a query."""
    return set(_SERIES.findall(query))


def build_dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    variable = {
        "name": "group",
        "label": "Group",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "query": {"query": "label_values(phi_serve_replica_phase, group)", "refId": "group"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "uid": "phi-serve",
        "title": "phi-serve",
        "tags": ["phi-serve"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": [_render_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _render_panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _PER_ROW)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }
