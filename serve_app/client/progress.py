"""Follows a start: what the log, /health and Serve say becomes the state of each part and a verdict on the whole. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from serve_app.client.run_log import find_dashboard, find_group

RAY, INGRESS = "Ray", "ingress"
READY, FAILED, ASLEEP = "ready", "failed", "asleep"
_TICKET = re.compile(r"/ops#ticket=(\S+)")
_MODEL_FAULT = re.compile(r"The model (\S+) cannot be served: (.*)")
_GROUP_FAULT = re.compile(r"Group (\S+) failed: (.*)")


class Verdict(StrEnum):
    """How a start stands."""

    UNDER_WAY = "under way"
    SERVING = "serving"
    """At least one group answers, and no other is on its way."""
    HOPELESS = "hopeless"
    """Nothing can ever answer."""


@dataclass(slots=True)
class Part:
    """Ray, the ingress, or a group."""

    name: str
    expected_s: float | None
    """Seconds from the command until it was ready in earlier starts."""
    phase: str = ""
    """Empty until its start is known to have begun."""
    reason: str = ""
    fix: str = ""
    replicas: int = 0
    ready_s: float | None = None
    """Seconds from the command until it was ready."""

    @property
    def is_settled(self) -> bool:
        """Whether it needs no more waiting: it is ready, sleeps, or has failed."""
        return self.phase in (READY, FAILED, ASLEEP)


@dataclass(slots=True)
class Progress:
    """A start. All times are seconds since the command."""

    parts: dict[str, Part]
    dashboard: str = ""
    """URL of Ray's dashboard."""
    ticket: str = ""
    """Opens the operations page, once."""
    cause: str = ""
    """Why nothing can be served."""
    _groups: tuple[str, ...] = field(default=())

    @classmethod
    def begin(cls, groups: Iterable[str], expected_s: Mapping[str, float]) -> "Progress":
        """Return a start of these groups; `expected_s` by the names of parts."""
        names = tuple(groups)
        parts = {name: Part(name, expected_s.get(name)) for name in (RAY, INGRESS, *names)}
        parts[RAY].phase = "starting"
        return cls(parts=parts, _groups=names)

    @property
    def groups(self) -> list[Part]:
        """The groups, in the configuration's order."""
        return [self.parts[name] for name in self._groups]

    @property
    def verdict(self) -> Verdict:
        """How the start stands."""
        groups = self.groups
        if self.cause or all(part.phase == FAILED for part in groups):
            return Verdict.HOPELESS
        is_up = self.parts[INGRESS].phase == READY
        return Verdict.SERVING if is_up and all(part.is_settled for part in groups) else Verdict.UNDER_WAY

    def push_line(self, line: str, now_s: float) -> None:
        """Take a line of the log."""
        if dashboard := find_dashboard(line):
            self.dashboard = dashboard
            self._settle(self.parts[RAY], now_s)
            self.parts[INGRESS].phase = self.parts[INGRESS].phase or "starting"
        writer = find_group(line)
        if writer is None or writer[0] != INGRESS:
            return
        if match := _TICKET.search(line):
            self.ticket = match[1]
        elif match := _GROUP_FAULT.search(line):
            self._fail(match[1], match[2])
        elif (match := _MODEL_FAULT.search(line)) and not self.parts[INGRESS].reason:
            self.parts[INGRESS].reason = f"the model {match[1]} cannot be served: {match[2]}"

    def push_health(self, body: Mapping[str, Any] | None, now_s: float) -> None:
        """Take the answer of /health; None where the ingress does not answer yet."""
        if body is None or not isinstance(groups := body.get("groups"), dict):
            return
        for part in (self.parts[RAY], self.parts[INGRESS]):
            self._settle(part, now_s)
        for name, state in groups.items():
            if name in self._groups:
                self._push_group(self.parts[name], state, now_s)
        for name, state in (body.get("models") or {}).items():
            if state.get("status") == FAILED:
                for group in state.get("groups", ()):
                    self._fail(group, f"the model {name} cannot be served: {state.get('reason', '')}")
        if body.get("status") == FAILED:
            reasons = [state.get("reason", "") for state in (body.get("models") or {}).values() if state.get("reason")]
            self.cause = self.parts[INGRESS].reason or f"no model can be served: {'; '.join(reasons) or 'see the log'}"

    def push_serve(self, application: Mapping[str, Any] | None) -> None:
        """Take what Serve says of the application; None where it knows none."""
        if application is None or application.get("status") not in ("DEPLOY_FAILED", "UNHEALTHY"):
            return
        deployments = application.get("deployments") or {}
        for name, state in deployments.items():
            if state.get("status") == "DEPLOY_FAILED":
                self._fail(name, f"Serve gave it up: {summarize(state.get('message', ''))}")
        is_up = self.parts[INGRESS].phase == READY
        if application["status"] == "DEPLOY_FAILED" and (not deployments or not is_up):
            self.cause = f"Serve could not deploy the application: {summarize(application.get('message', ''))}"

    def list_seconds(self) -> dict[str, float]:
        """Return how long each part took that is ready."""
        return {name: part.ready_s for name, part in self.parts.items() if part.ready_s is not None}

    def _push_group(self, part: Part, state: Mapping[str, Any], now_s: float) -> None:
        phase = str(state.get("phase", ""))
        part.replicas = int(state.get("replicas", 0) or 0)
        if phase == READY:
            self._settle(part, now_s)
        elif phase == FAILED:
            self._fail(part.name, str(state.get("reason") or ""), str(state.get("fix") or ""))
        elif part.phase != FAILED:  # a group that failed tries again by itself; nobody needs to wait for it
            part.phase, part.reason = phase, str(state.get("reason") or "")

    def _settle(self, part: Part, now_s: float) -> None:
        part.ready_s = now_s if part.ready_s is None else part.ready_s
        part.phase, part.reason, part.fix = READY, "", ""

    def _fail(self, name: str, reason: str, fix: str = "") -> None:
        part = self.parts.get(name)
        if part is not None and part.phase != READY:
            part.phase, part.reason, part.fix = FAILED, reason or part.reason, fix or part.fix


def summarize(message: str) -> str:
    """Return the sentence of a message that may end with a traceback: its last line that is not indented."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    return lines[-1] if lines else "it gave no reason"


def list_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return one sentence per group that changed its phase or its number of ready replicas between two answers of /health."""
    changes = []
    for name, state in after.items():
        old = before.get(name)
        if old is None or (old.get("phase"), old.get("replicas")) == (state.get("phase"), state.get("replicas")):
            continue
        phase, count, earlier = state.get("phase"), state.get("replicas"), old.get("replicas")
        if old.get("phase") == READY and phase in ("starting", "loading", "warming"):
            changes.append(f"{name} has no replica left; it starts again")
        elif phase != old.get("phase"):
            reason = f": {state['reason']}" if state.get("reason") else ""
            changes.append(f"{name} is {phase}{reason}" + (f" with {_count(count)}" if phase == READY and count else ""))
        elif isinstance(count, int) and isinstance(earlier, int):
            changes.append(f"{name} has {_count(count)} ready, {earlier} before")
    return changes


def _count(replicas: int) -> str:
    return "1 replica" if replicas == 1 else f"{replicas} replicas"
