"""What runs beside an ingress, through Serve: the other ingresses, the groups' replicas, and the bounds of their numbers."""

import asyncio
import logging
import os
import platform
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ServeDeploySchema

from deployments.logs import read_tail
from serve_app.errors import NoEngine, ServeError
from serve_app.operations.base import Bounds, Identity, JsonObject
from serve_app.operations.service import Operations
from serve_app.reports import ReplicaAction

logger = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_KEPT = ("proxy_location", "http_options", "grpc_options", "target_capacity")
"""Parts of the running configuration beside its applications."""


class ServeCluster:
    """See `serve_app.operations.base.Cluster`. Lives in an ingress replica."""

    def __init__(self, app: str, ingress: str, replica_id: str, groups: Mapping[str, DeploymentHandle[Any]]) -> None:
        """Know the application's name, the ingress deployment's, this replica's id and the groups' handles."""
        self.identity = Identity(id=replica_id, node=platform.node(), pid=os.getpid())
        self.operations: Operations | None = None
        """This ingress' own, once they are built."""
        self._app = app
        self._ingress_name = ingress
        self._ingress: DeploymentHandle[Any] | None = None
        self._groups = groups

    async def ask_ingresses(self, question: str, argument: Any = None) -> list[Any]:
        """See `Cluster.ask_ingresses`."""
        if self._ingress is None:
            self._ingress = serve.get_deployment_handle(self._ingress_name, self._app)
        own = self.operations.answer(question, argument) if self.operations else None
        answers = await self._broadcast(self._ingress, "answer_operations", self.identity.id, question, argument)
        return [own, *(answer for answer in answers if answer is not None)]

    async def act(self, group: str, action: ReplicaAction, replica: str | None = None) -> list[str]:
        """See `Cluster.act`."""
        return [done for done in await self._broadcast(self._groups[group], "act", action, replica) if done]

    async def wake(self, group: str) -> None:
        """See `Cluster.wake`. Serve starts a replica for any request that it has to route."""
        self._groups[group].load.remote()

    async def read_logs(self, group: str | None, replica: str | None, lines: int) -> list[JsonObject]:
        """See `Cluster.read_logs`."""
        own = {"group": self._ingress_name, "id": self.identity.id, "node": self.identity.node}
        found: list[JsonObject] = []
        if group in (None, self._ingress_name) and replica in (None, self.identity.id):
            found.append(own | {"lines": await asyncio.to_thread(read_tail, lines)})
        for name, handle in self._groups.items():
            if group in (None, name):
                answers = await self._broadcast(handle, "read_log", lines)
                found += [{"group": name} | answer for answer in answers if replica in (None, answer["id"])]
        return found

    async def read_bounds(self) -> Mapping[str, Bounds]:
        """See `Cluster.read_bounds`."""
        config = await asyncio.to_thread(self._read_config)
        bounds = {}
        for deployment in self._list_deployments(config):
            scaling = deployment.get("autoscaling_config")
            count = deployment.get("num_replicas")
            if isinstance(scaling, dict):
                bounds[deployment["name"]] = Bounds(min=scaling.get("min_replicas", 1), max=scaling.get("max_replicas", 1))
            elif isinstance(count, int):
                bounds[deployment["name"]] = Bounds(min=count, max=count)
        return bounds

    async def set_bounds(self, group: str, bounds: Bounds) -> None:
        """See `Cluster.set_bounds`. Serve applies the new numbers to the running deployment, and restarts no replica."""
        config = await asyncio.to_thread(self._read_config)
        deployment = next((each for each in self._list_deployments(config) if each["name"] == group), None)
        if deployment is None:
            raise NoEngine(f"the running configuration has no deployment '{group}'")
        scaling = deployment.get("autoscaling_config")
        if isinstance(scaling, dict):
            scaling |= {"min_replicas": bounds.min, "max_replicas": bounds.max}
            if (initial := scaling.get("initial_replicas")) is not None:
                scaling["initial_replicas"] = min(max(initial, bounds.min), bounds.max)
        elif bounds.min != bounds.max:
            raise NoEngine(f"group '{group}' does not scale by itself: give min and max the same value, or add autoscaling_config")
        else:
            deployment["num_replicas"] = bounds.min
        await asyncio.to_thread(self._deploy, config)

    def _list_deployments(self, config: JsonObject) -> list[JsonObject]:
        return [each for app in config["applications"] if app["name"] == self._app for each in app["deployments"]]

    def _read_config(self) -> JsonObject:
        """Return the configuration that was deployed last, as Serve's own schema reads it; raises `NoEngine`."""
        client = _get_global_client()
        assert client is not None  # an ingress runs within Serve
        try:
            details = client.get_serve_details()
        except RayError as error:
            raise NoEngine("Serve's controller does not answer; try again", retry_after_s=5.0) from error
        deployed = [app["deployed_app_config"] for app in details["applications"].values() if app.get("deployed_app_config")]
        kept = {name: details[name] for name in _KEPT if details.get(name)}
        return kept | {"applications": deployed}

    def _deploy(self, config: JsonObject) -> None:
        client = _get_global_client()
        assert client is not None
        try:
            client.deploy_apps(ServeDeploySchema.model_validate(config))
        except RayError as error:
            logger.exception("the new configuration was not deployed")
            raise NoEngine("Serve did not take the new configuration; the ingress's log says why") from error

    async def _broadcast(self, handle: DeploymentHandle[Any], method: str, *arguments: Any) -> list[Any]:
        """Return the answers of all replicas; none where one of them fails or takes too long."""
        try:
            return list(await handle.broadcast(method, *arguments).results_async(timeout_s=_TIMEOUT_S))
        except ServeError:
            raise
        except Exception as error:  # whatever Ray raises: a replica that ended just now must not fail the others' page
            logger.debug("%s was not answered: %s", method, type(error).__name__)
            return []
