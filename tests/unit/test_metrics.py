"""GET /metrics: what every replica reports, in a form that Prometheus' own parser reads."""

from prometheus_client.parser import text_string_to_metric_families

from serve_app.metrics import render_exposition
from serve_app.reports import ReplicaReport
from serve_app.types import EngineInfo, EngineKind, EngineLoad, Phase
from tests.unit.app import running

INFO = EngineInfo(kind=EngineKind.ONNX, context_length=8, capabilities=frozenset(), max_concurrency=1, precision="fp32")


def _samples(text: str) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(text)
    return {(sample.name, sample.labels["replica"]): sample.value for family in families for sample in family.samples}


def test_every_replica_has_its_own_figures() -> None:
    loads = [EngineLoad(running=3, kv_usage=0.5, counters={"steps": 7, "decode_s": 1.5}), EngineLoad(running=1)]
    reports = [
        ReplicaReport(group="onnx", replica_id=str(number), phase=Phase.READY, info=INFO, load=load)
        for number, load in enumerate(loads)
    ]
    reports.append(ReplicaReport(group="onnx", replica_id="late", phase=Phase.LOADING))
    samples = _samples(render_exposition(reports).decode())
    assert samples["phi_serve_engine_running", "0"] == 3
    assert samples["phi_serve_engine_running", "1"] == 1
    assert samples["phi_serve_engine_kv_usage", "0"] == 0.5
    assert samples["phi_serve_engine_steps_total", "0"] == 7
    assert samples["phi_serve_engine_decode_seconds_total", "0"] == 1.5
    assert ("phi_serve_engine_steps_total", "1") not in samples
    assert samples["phi_serve_replica_phase", "late"] == 1
    assert ("phi_serve_engine_running", "late") not in samples


async def test_the_endpoint_serves_it() -> None:
    async with running(a={}) as app:
        response = await app.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert _samples(response.text)["phi_serve_engine_running", "0"] == 0
