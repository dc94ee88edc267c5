"""GET /v1/cluster: groups, replicas, backlog, wait."""

import pytest

from serve_app.config import AppSettings
from serve_app.http.status import show_cluster
from serve_app.reports import ReplicaReport
from serve_app.routing.fleet import FleetView
from serve_app.types import EngineInfo, EngineKind, EngineLoad, Phase
from tests.unit.app import running

INFO = EngineInfo(kind=EngineKind.FAKE, context_length=8, capabilities=frozenset(), max_concurrency=4, precision="none")


@pytest.mark.parametrize(
    ("load", "wait_s"),
    [
        (EngineLoad(), 0.0),
        (EngineLoad(running=4, waiting=2, waiting_tokens=300, tokens_per_second=100), 3.0),
        (EngineLoad(waiting=2, waiting_tokens=300), None),
    ],
)
def test_the_wait_is_the_backlog_at_the_observed_pace(load: EngineLoad, wait_s: float | None) -> None:
    view = FleetView(["a", "b"], 6)
    view.record(ReplicaReport(group="a", replica_id="1", phase=Phase.READY, info=INFO, load=load), 0)
    view.record(ReplicaReport(group="a", replica_id="2", phase=Phase.LOADING), 0)
    settings = AppSettings.model_validate({"engines": {"a": {"kind": "fake"}, "b": {"kind": "fake"}}})
    told = show_cluster(view.snapshot(1), settings)
    first, second = told["groups"]
    assert told["ready"] is False
    assert (first["estimated_wait_s"], first["ready_replicas"], first["capacity"]) == (wait_s, 1, 4)
    assert first["backlog_tokens"] == load.waiting_tokens
    assert [replica["phase"] for replica in first["replicas"]] == ["ready", "loading"]
    assert (second["phase"], second["estimated_wait_s"], second["replicas"]) == ("starting", None, [])


async def test_the_endpoint_tells_every_group() -> None:
    async with running(a={}, b={"absent": True}) as app:
        response = await app.client.get("/v1/cluster")
    assert response.status_code == 200
    assert [(group["name"], group["phase"]) for group in response.json()["groups"]] == [("a", "ready"), ("b", "starting")]


def test_what_loading_replicas_do_is_shown_beside_the_last_failure() -> None:
    def report(phase: Phase, replica: str, reason: str = "") -> ReplicaReport:
        return ReplicaReport(group="onnx", replica_id=replica, phase=phase, reason=reason)

    view = FleetView(("onnx",), 5)
    view.record(report(Phase.FAILED, "a", "no memory"), 0)
    view.record(report(Phase.LOADING, "b", "exporting int4: 35 %"), 1)
    view.record(report(Phase.LOADING, "c", "waiting for another replica's export"), 1)
    view.record(report(Phase.LOADING, "d"), 1)
    reason = "exporting int4: 35 %; waiting for another replica's export; the last attempt failed: no memory"
    assert view.snapshot(1).groups[0].reason == reason
    view.record(report(Phase.READY, "b"), 2)
    assert view.snapshot(2).groups[0].reason == ""
