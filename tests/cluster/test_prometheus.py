"""Rules and scrape configuration by promtool; every series that a panel or a rule asks for exists on a running application."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from ray.dashboard.modules.metrics.dashboards.serve_llm_dashboard_panels import serve_llm_dashboard_config

from serve_app.manifests.grafana import PANELS, find_series
from serve_app.metrics import render_exposition
from serve_app.replica_metrics import COUNTERS, HISTOGRAMS, ReplicaMetrics
from serve_app.reports import ReplicaReport
from serve_app.types import EngineInfo, EngineKind, Finished, FinishReason, Phase, Sampling, TokenDelta, TokenRequest, Usage
from tests.cluster.conftest import ROOT, tool

FOLDER = ROOT / "cluster" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text())


def _promtool(*arguments: str, folder: Path = FOLDER) -> None:
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_configuration(tmp_path: Path) -> None:
    """promtool reads the files that it names, so the key is one of this test."""
    (tmp_path / "api_key").write_text("sk-phi-x")
    (tmp_path / "rules.yaml").write_text((FOLDER / "rules.yaml").read_text())
    config = (FOLDER / "prometheus.yaml").read_text()
    (tmp_path / "prometheus.yaml").write_text(config.replace("/run/secrets/api_key", str(tmp_path / "api_key")))
    _promtool("check", "config", "prometheus.yaml", folder=tmp_path)


def test_the_rules_fire_when_they_should() -> None:
    _promtool("test", "rules", "rules_test.yaml")


def _exposed() -> dict[str, set[str]]:
    """What GET /metrics shows of a replica that has answered one request: labels by series."""
    metrics = ReplicaMetrics("m")
    meter = metrics.start_meter(TokenRequest(request_id="r", prompt=(1,), sampling=Sampling()))
    usage = Usage(prompt_tokens=1, completion_tokens=2)
    meter.push((TokenDelta((1,)), TokenDelta((2,)), Finished(reason=FinishReason.LENGTH, usage=usage)))
    meter.end()
    info = EngineInfo(kind=EngineKind.FAKE, context_length=8, capabilities=frozenset(), max_concurrency=1, precision="none")
    report = ReplicaReport(group="a", replica_id="0", phase=Phase.READY, info=info, requests=metrics.counts())
    exposed: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(render_exposition([report]).decode()):
        for sample in family.samples:
            exposed.setdefault(sample.name, set()).update(sample.labels)
    return exposed


EXPOSED = _exposed()
RECORDED = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
QUERIES = {f"{panel.title}: {legend}": query for panel in PANELS for legend, query in panel.queries.items()} | {
    rule.get("alert", rule.get("record")): rule["expr"] for group in RULES["groups"] for rule in group["rules"]
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_asks_for_what_is_there(name: str) -> None:
    query = QUERIES[name]
    asked = find_series(query)
    assert asked or 'up{job="phi-serve"}' in query
    assert asked <= set(EXPOSED) | RECORDED
    for labels in re.findall(r"\bby \(([^)]*)\)", query):
        known = set().union(*(EXPOSED.get(each, {"group"}) for each in asked)) | {"le"}
        assert set(labels.replace(" ", "").split(",")) <= known


def test_rays_dashboard_finds_our_series() -> None:
    """Ray's Serve LLM dashboard asks for `ray_vllm_*`; all but vLLM's transfers and offloading are counted for every group."""
    asked = {
        name
        for panel in serve_llm_dashboard_config.panels + [p for row in serve_llm_dashboard_config.rows or [] for p in row.panels]
        for target in panel.targets
        for name in re.findall(r"\bray_vllm_([a-z0-9_]+)", target.expr)
    }
    told = {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "request_success_total"}
    told |= {f"{name}_total" for name in COUNTERS}
    told |= {f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")}
    foreign = re.compile("nixl|kv_offload|external_prefix|num_requests_swapped")
    assert len(asked & told) >= 15
    assert {name for name in asked - told if not foreign.search(name)} == set()
