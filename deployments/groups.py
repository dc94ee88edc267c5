"""Engine groups as Serve deployments, named after the group. Replica counts and resources come from serve_config.yaml."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import ray
from ray import serve

from deployments.logs import read_tail, write_to_serve_log
from deployments.metrics import RayMetrics
from deployments.remote import report_to_ingress
from deployments.replica import EngineReplica, NamedModel, Report
from deployments.replica_router import build_router_config
from deployments.temporary import claim_temp_folder
from serve_app.config import AppSettings
from serve_app.engine_config import EngineSettings
from serve_app.replica_metrics import MetricSink
from serve_app.reports import ReplicaReport

INGRESS = "ingress"
"""Name of the ingress deployment."""


class _ServedReplica(EngineReplica):
    """An `EngineReplica` that counts its cores, with the destructor that Serve awaits when it stops a replica."""

    async def __init__(  # type: ignore[misc]  # Serve awaits asynchronous constructors
        self, group: str, settings: EngineSettings, model: NamedModel, identity: Callable[[], tuple[str, Report]]
    ) -> None:
        """Set the engine's threads to the replica's cores, unless the settings have a number."""
        self._remove_temp_folder = claim_temp_folder()
        write_to_serve_log(logging.getLogger("deployments"), logging.getLogger("serve_app"))
        assigned = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        cores = float(assigned.get("CPU", 1.0))
        await super().__init__(group, set_threads(settings, cores), model, identity)

    def _build_sink(self, model: str) -> MetricSink:
        self._ray_metrics = RayMetrics(model)
        return self._ray_metrics

    def report(self) -> ReplicaReport:
        """Return the report for the ingresses, and show the load in Ray's metrics."""
        report = super().report()
        self._ray_metrics.show(report.load)
        return report

    async def read_log(self, lines: int) -> dict[str, Any]:
        """Return the last lines of this replica's log."""
        return {"id": self._replica_id, "node": self._process.node, "lines": await asyncio.to_thread(read_tail, lines)}

    async def __del__(self) -> None:
        await self.close()
        self._remove_temp_folder()


def build_group(settings: AppSettings, name: str) -> serve.Application:
    """Return the deployment of one group. Its defaults bound every queue; serve_config.yaml overrides them."""
    deployment = serve.deployment(
        name=name,
        max_ongoing_requests=64,
        max_queued_requests=256,
        health_check_period_s=5,
        health_check_timeout_s=40,
        graceful_shutdown_timeout_s=630,
        request_router_config=build_router_config(),
    )(_ServedReplica)
    model = settings.model_of(name)
    return deployment.bind(name, settings.engines[name], NamedModel(model, settings.models[model]), _identify_replica)


def set_threads(settings: EngineSettings, cores: float) -> EngineSettings:
    """Return the settings with one thread per core, one at least, unless they have a number."""
    if settings.threads is not None:
        return settings
    return settings.model_copy(update={"threads": max(1, int(cores))})


def _identify_replica() -> tuple[str, Report]:
    """Return this replica's id and its function to send reports; called inside the replica."""
    context = serve.get_replica_context()
    return context.replica_id.unique_id, report_to_ingress(INGRESS, context.app_name)
