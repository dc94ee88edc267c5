"""Decides which groups and replicas may get requests: a circuit breaker per group and per replica. Pure.

A failure counts against the replica that failed, and against the group only where the replica is unknown; so one bad replica does
not take the good ones of its group out of service. A group is blocked when all of its replicas are.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from serve_app.config import BreakerSettings
from serve_app.routing.breaker import Breakers, BreakerState, Ticket
from serve_app.routing.fleet import Fleet, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Permission to send one request to a group, with hints for Serve's replica choice."""

    group: Group
    ticket: Ticket
    replicas: dict[str, Ticket]
    """Tickets of the replicas that may take the request."""
    probe: str
    """The replica that the request probes; empty when it probes none."""
    avoid: frozenset[str]
    """Replicas that should not take the request."""


class Health:
    """The breakers of a fleet."""

    def __init__(self, settings: BreakerSettings) -> None:
        """Start with every breaker closed."""
        self._groups: Breakers[str] = Breakers(settings)
        self._replicas: Breakers[tuple[str, str]] = Breakers(settings)

    def annotate(self, fleet: Fleet, now: float) -> Fleet:
        """Return the fleet with the blocked groups marked."""
        return replace(fleet, groups=tuple(replace(group, blocked=self._is_blocked(group, now)) for group in fleet.groups))

    def states(self, fleet: Fleet, now: float) -> dict[tuple[str, str], BreakerState]:
        """Return the state of every breaker by (group, replica), the replica empty for the group's own."""
        states = {(group.name, ""): self._groups.state(group.name, now) for group in fleet.groups}
        for group in fleet.groups:
            states |= {(group.name, each): self._replicas.state((group.name, each), now) for each in group.replica_ids}
        return states

    def admit(self, group: Group, tried: Collection[str], now: float) -> Admission | None:
        """Return permission for one request, None when the group is blocked; `tried` are replicas that already failed it."""
        if self._is_blocked(group, now):
            return None
        ticket = self._groups[group.name].admit(now)
        if ticket is None:
            return None
        tickets: dict[str, Ticket] = {}
        probe = ""
        for replica in group.replica_ids:
            key = (group.name, replica)
            closed = self._replicas.state(key, now) is BreakerState.CLOSED
            if replica in tried or not (closed or not probe):
                continue
            replica_ticket = self._replicas[key].admit(now)
            if replica_ticket is not None:
                tickets[replica] = replica_ticket
                probe = probe if closed else replica
        left_out = frozenset(group.replica_ids) - tickets.keys()
        return Admission(
            group=group,
            ticket=ticket,
            replicas=tickets,
            probe=probe,
            avoid=left_out | frozenset(tried) | group.silent | group.draining,
        )

    def settle(self, admission: Admission, replica: str, *, ok: bool | None, now: float) -> None:
        """Record an outcome, `ok` None where there is none; `replica` is empty when the one that had the request is unknown."""
        name = admission.group.name
        group_breaker = self._groups[name]
        if ok is None or (replica and not ok):
            group_breaker.release(admission.ticket)
        else:
            group_breaker.record(admission.ticket, ok=ok, now=now)
        if admission.probe and admission.probe != replica:
            self._replicas[(name, admission.probe)].release(admission.replicas[admission.probe])
        if not replica:
            return
        breaker = self._replicas[(name, replica)]
        # A replica that had not reported yet has no ticket.
        ticket = admission.replicas.get(replica) or breaker.admit(now)
        if ticket is not None and ok is None:
            breaker.release(ticket)
        elif ticket is not None and ok is not None:
            breaker.record(ticket, ok=ok, now=now)

    def _is_blocked(self, group: Group, now: float) -> bool:
        if not self._groups.admits(group.name, now):
            return True
        replicas = group.replica_ids
        return bool(replicas) and not any(self._replicas.admits((group.name, replica), now) for replica in replicas)
