"""Answers an operator's questions and carries out what operators ask for. Asks the other ingresses for what only they know.

Knows gateway, fleet and cluster; no HTTP and no Ray. Works without a gateway too: while no model can be served.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from serve_app.config import AppSettings
from serve_app.errors import InvalidRequest, ModelUnusable, NotFound, ServeError
from serve_app.gateway import Gateway
from serve_app.memory import measure_tree_bytes
from serve_app.metrics import render_exposition
from serve_app.operations.base import Bounds, Cluster, JsonObject
from serve_app.operations.history import SPAN_S, History, add_outcomes
from serve_app.operations.shapes import show_details, show_ended, show_group, show_live
from serve_app.reports import ReplicaAction
from serve_app.request_book import KEPT
from serve_app.routing.fleet import Fleet, Group
from serve_app.types import Phase

logger = logging.getLogger(__name__)

SHOWN_LIVE = 500
_BOUNDS_KEPT_S = 10.0
_POLL_S = 0.5
_START_LIMIT_S = 1800.0
"""Longest time that a successor may take to load before a restart gives up."""


class Operations:
    """The operations of one ingress."""

    def __init__(
        self, settings: AppSettings, fleet: Callable[[], Fleet], gateway: Callable[[], Gateway | None], cluster: Cluster
    ) -> None:
        """Ask `fleet` and `gateway` for their present state; `gateway` returns None while no model can be served."""
        self._settings = settings
        self._fleet = fleet
        self._gateway = gateway
        self._cluster = cluster
        self._history = History()
        self._started_s = time.monotonic()
        self._memory_bytes: int | None = None
        self._bounds: Mapping[str, Bounds] = {}
        self._bounds_until_s = 0.0
        self._restarting: dict[str, asyncio.Task[None]] = {}
        self.faults: Callable[[], Mapping[str, ModelUnusable]] = dict
        """Returns why models cannot be served, by name."""

    @property
    def cluster(self) -> Cluster:
        """What runs beside this ingress."""
        return self._cluster

    @property
    def settings(self) -> AppSettings:
        """The settings as they are now."""
        gateway = self._gateway()
        return gateway.settings if gateway else self._settings

    async def run(self) -> None:
        """Keep the history, until cancelled."""
        while True:
            now = time.time()
            await asyncio.sleep(SPAN_S - now % SPAN_S)
            gateway = self._gateway()
            outcomes = gateway.book.outcomes if gateway else Counter[Any]()
            self._history.sample(self._fleet(), outcomes, round((now // SPAN_S + 1) * SPAN_S))
            self._memory_bytes = await asyncio.to_thread(measure_tree_bytes, os.getpid())

    def close(self) -> None:
        """Stop what is under way."""
        for task in self._restarting.values():
            task.cancel()

    # What ingresses ask each other

    def answer(self, question: str, argument: Any) -> Any:
        """Return this ingress' answer to a question of another one, as JSON values; None for one that it does not know."""
        gateway, own = self._gateway(), self._cluster.identity.id
        if question == "pulse":
            return self._show_pulse(argument or {})
        if question == "history":
            return {"ingress": own, "points": list(self._history.points)}
        if gateway is None:
            return None
        if question == "requests":
            return [show_ended(each, own) for each in gateway.book.ended()[-int(argument) :]]
        if question == "find":
            found = gateway.book.find(str(argument))
            return show_details(found, own) if found else None
        if question == "cancel":
            return gateway.book.cancel(str(argument))
        return None

    def _show_pulse(self, seen: Mapping[str, int]) -> JsonObject:
        """Return the live requests, and those that ended after the first `seen[own id]` ones: none where that is unknown."""
        identity, gateway = self._cluster.identity, self._gateway()
        ingress = {
            "id": identity.id,
            "node": identity.node,
            "pid": identity.pid,
            "active": gateway.active if gateway else 0,
            "pss_bytes": self._memory_bytes,
            "uptime_s": round(time.monotonic() - self._started_s, 1),
        }
        book = gateway.book if gateway else None
        live = [show_live(each, identity.id) for each in book.live()[:SHOWN_LIVE]] if book else []
        ended = [show_ended(each, identity.id) for each in book.ended(seen[identity.id])] if book and identity.id in seen else []
        point = self._history.points[-1] if self._history.points else None
        return {"ingress": ingress, "live": live, "ended": ended, "count": book.count if book else 0, "point": point}

    async def ask(self, question: str, argument: Any = None) -> list[Any]:
        """Return the answers of all ingresses that have one, this one's first."""
        return [answer for answer in await self._cluster.ask_ingresses(question, argument) if answer is not None]

    # What operators ask

    async def show_state(self, pulses: Sequence[JsonObject] | None = None) -> JsonObject:
        """Return groups, replicas, ingresses and live requests; `pulses` are the ingresses' answers, if they are known already."""
        pulses = await self.ask("pulse") if pulses is None else pulses
        fleet, gateway = self._fleet(), self._gateway()
        breakers = gateway.attempts.health.states(fleet, time.monotonic()) if gateway else {}
        bounds = await self._read_bounds()
        live = sorted((each for pulse in pulses for each in pulse["live"]), key=lambda each: -each["age_s"])
        return {
            "now": round(time.time(), 3),
            "status": fleet.summarize(has_faults=bool(self.faults())) if gateway else "failed",
            "models": {name: fault.message for name, fault in self.faults().items()},
            "ingresses": [pulse["ingress"] for pulse in pulses],
            "groups": [show_group(group, self.settings, breakers, bounds.get(group.name)) for group in fleet.groups],
            "live": live[:SHOWN_LIVE],
        }

    async def list_requests(self, limit: int) -> list[JsonObject]:
        """Return the last requests of every ingress, the newest first."""
        answers = await self.ask("requests", min(limit, KEPT))
        return sorted((each for answer in answers for each in answer), key=lambda each: -each["at"])[:limit]

    async def show_request(self, request_id: str) -> JsonObject:
        """Return a request that has ended, with candidates and attempts; raises `NotFound`."""
        found: list[JsonObject] = await self.ask("find", request_id)
        if not found:
            raise NotFound(
                "no such request is kept: it may still run, or be older than the last thousand of its ingress", param="id"
            )
        return max(found, key=lambda each: float(each["at"]))

    async def show_history(self) -> list[JsonObject]:
        """Return the points of the last fifteen minutes, with the outcomes of all ingresses."""
        own, *others = await self.ask("history")
        points = {answer["ingress"]: {point["at"]: point for point in answer["points"]} for answer in others}
        return [
            add_outcomes(point, [found[point["at"]] for found in points.values() if point["at"] in found])
            for point in own["points"]
        ]

    async def cancel(self, request_id: str) -> None:
        """End a request; raises `NotFound` where none of this id is being served."""
        if not any(await self.ask("cancel", request_id)):
            raise NotFound("no request of this id is being served; it may have ended", param="id")

    async def act(self, group: str, action: ReplicaAction, replica: str | None = None) -> JsonObject:
        """Let a group, or one replica of it, drain or resume; raises `NotFound`."""
        found = self._require_group(group, replica)
        done = await self._cluster.act(group, action, replica)
        running = sum(report.load.running + report.load.waiting for report in found.reports if report.replica_id in done)
        return {"object": "operations.group", "group": group, "replicas": done, "running": running}

    async def restart(self, group: str) -> JsonObject:
        """Begin to replace a group's working replicas one by one; raises `NotFound` and `InvalidRequest`."""
        found = self._require_group(group)
        replicas = [report.replica_id for report in found.reports if report.phase in (Phase.READY, Phase.DRAINING)]
        if not replicas:
            raise InvalidRequest(f"group '{group}' has no replica that works, so there is nothing to restart", param="group")
        under_way = self._restarting.get(group)
        if under_way is not None and not under_way.done():
            raise InvalidRequest(f"group '{group}' is being restarted already", param="group")
        self._restarting[group] = asyncio.create_task(self._restart(group, replicas))
        return {"object": "operations.group", "group": group, "restarting": replicas}

    async def _restart(self, group: str, replicas: Sequence[str]) -> None:
        """Replace the replicas one after the other: each only once the successor of the one before it is ready."""
        limit_s = self.settings.limits.request_timeout_s + _START_LIMIT_S
        for place, replica in enumerate(replicas):
            try:
                async with asyncio.timeout(limit_s):
                    await self._cluster.act(group, ReplicaAction.RESTART, replica)
                    while not self._is_replaced(group, replica, replicas[place + 1 :]):
                        await asyncio.sleep(_POLL_S)
            except (TimeoutError, ServeError) as error:
                logger.error("the restart of group %s stops at replica %s: %s", group, replica, type(error).__name__)
                return

    def _is_replaced(self, group: str, replica: str, others: Sequence[str]) -> bool:
        """Return whether a replica is gone and another one than the `others` that wait for their turn is ready."""
        found = self._fleet().group(group)
        if found is None or replica in {report.replica_id for report in found.reports}:
            return False
        return found.sleeps or bool(set(found.replica_ids) - set(others))

    async def scale(self, group: str, least: int, most: int | None) -> JsonObject:
        """Change how many replicas a group may have; raises `NotFound` and `InvalidRequest`."""
        self._require_group(group)
        self._bounds_until_s = 0.0
        before = (await self._read_bounds()).get(group)
        if before is None:
            raise NotFound(f"nothing is known of the number of replicas of group '{group}'; try again", param="group")
        wanted = Bounds(min=least, max=max(least, before.max) if most is None else most)
        if wanted.min < 0 or wanted.max < max(1, wanted.min):
            raise InvalidRequest("min must be 0 or more, and max at least 1 and at least min", param="max")
        if wanted.min == 0 and group not in self.settings.routing.sleeping:
            raise InvalidRequest(f"min may be 0 only for groups in routing.sleeping, and '{group}' is not there", param="min")
        await self._cluster.set_bounds(group, wanted)
        self._bounds_until_s = 0.0
        shown = {"bounds": {"min": wanted.min, "max": wanted.max}, "before": {"min": before.min, "max": before.max}}
        return {"object": "operations.group", "group": group} | shown

    async def wake(self, group: str) -> JsonObject:
        """Let a sleeping group start; raises `NotFound` and `InvalidRequest`."""
        if not self._require_group(group).sleeps:
            raise InvalidRequest(f"group '{group}' does not sleep: it is not in routing.sleeping", param="group")
        await self._cluster.wake(group)
        return {"object": "operations.group", "group": group}

    def render_metrics(self) -> bytes:
        """Return the metrics of this ingress in Prometheus' text format."""
        gateway = self._gateway()
        if gateway is not None:
            return gateway.render_exposition()
        return render_exposition(report for group in self._fleet().groups for report in group.reports)

    async def read_logs(self, group: str | None, replica: str | None, lines: int) -> list[JsonObject]:
        """Return the last lines of the logs of ingress and replicas; raises `NotFound`."""
        if group is not None and group != "ingress":
            self._require_group(group)
        return await self._cluster.read_logs(group, replica, lines)

    def _require_group(self, name: str, replica: str | None = None) -> Group:
        group = self._fleet().group(name)
        if group is None:
            known = ", ".join(each.name for each in self._fleet().groups)
            raise NotFound(f"no engine group '{name[:100]}'; there are: {known}", param="group")
        if replica is not None and replica not in {report.replica_id for report in group.reports}:
            raise NotFound(f"group '{name}' has no replica '{replica[:100]}'", param="replica")
        return group

    async def _read_bounds(self) -> Mapping[str, Bounds]:
        if time.monotonic() >= self._bounds_until_s:
            self._bounds_until_s = time.monotonic() + _BOUNDS_KEPT_S
            with suppress(ServeError):
                self._bounds = await self._cluster.read_bounds()
        return self._bounds
