"""Chooses replicas for Serve by the request's `Placement`. Runs in the process that sends the request: the ingress.

Decides nothing: `serve_app.routing.placing` does. Requests without a placement go to the less busy of two.
"""

from typing import Any

from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from serve_app.routing.placing import choose_replica
from serve_app.types import Placement

_SLACK = 4
"""Requests that a conversation's own replica may have more than the least busy one."""


class ReplicaRouter(RequestRouter):
    """Offers one replica at a time; when it is full or does not answer, the next choice skips it.

    Does not use Serve's FIFO mixin, which would give the replica chosen for one request to another waiting request.
    """

    def initialize_state(self, slack: int = _SLACK, **_: Any) -> None:
        """Take `request_router_kwargs` of the deployment."""
        self._slack = slack

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replica to try now."""
        if not candidate_replicas:
            return []
        placement = _find_placement(pending_request) or Placement()
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        queues = {name: self.replica_queue_len_cache.get(replica.replica_id) or 0 for name, replica in by_id.items()}
        skipped = {placement.replica} if placement.replica else set()
        placement.replica = choose_replica(placement, queues, self._slack, skipped)
        return [[by_id[placement.replica]]]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Record the replica that accepted the request."""
        placement = _find_placement(pending_request)
        if placement is not None:
            placement.replica = replica_id.unique_id


def build_router_config() -> RequestRouterConfig:
    """Return the configuration of a deployment that is routed by placement."""
    return RequestRouterConfig.model_validate({"request_router_class": ReplicaRouter, "request_router_kwargs": {"slack": _SLACK}})


def _find_placement(pending_request: PendingRequest | None) -> Placement | None:
    """Return the placement of a request of any kind to an engine; None for other calls. Serve keeps the arguments unchanged."""
    first = pending_request.args[0] if pending_request is not None and pending_request.args else None
    placement = getattr(first, "placement", None)
    return placement if isinstance(placement, Placement) else None
