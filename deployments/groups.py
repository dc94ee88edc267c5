"""Engine groups as Serve deployments, named after the group. Replica counts and resources come from serve_config.yaml."""

from ray import serve

from deployments.remote import report_to_ingress
from deployments.replica import EngineReplica, Report
from serve_app.config import EngineSettings, ModelSettings

INGRESS = "ingress"
"""Name of the ingress deployment."""


class _ServedReplica(EngineReplica):
    """An `EngineReplica` with the destructor that Serve awaits when it stops a replica."""

    async def __del__(self) -> None:
        await self.close()


def build_group(name: str, settings: EngineSettings, model: ModelSettings) -> serve.Application:
    """Return the deployment of one group. Its defaults bound every queue; the configuration file overrides them by name."""
    deployment = serve.deployment(
        name=name,
        max_ongoing_requests=64,
        max_queued_requests=256,
        health_check_period_s=5,
        health_check_timeout_s=40,
        graceful_shutdown_timeout_s=630,
    )(_ServedReplica)
    return deployment.bind(name, settings, model, _identity)


def _identity() -> tuple[str, Report]:
    """Return this replica's id and its way to report; called inside the replica."""
    context = serve.get_replica_context()
    return context.replica_id.unique_id, report_to_ingress(INGRESS, context.app_name)
