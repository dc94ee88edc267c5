"""One bad replica is left alone without its group; a group is when all of its replicas are."""

from dataclasses import replace

from serve_app.config import BreakerSettings
from serve_app.reports import ReplicaReport
from serve_app.routing.breaker import BreakerState
from serve_app.routing.fleet import Fleet, Group
from serve_app.routing.health import Admission, Health
from serve_app.types import Phase

PAIR = Group(
    name="onnx",
    phase=Phase.READY,
    replicas=2,
    reports=tuple(ReplicaReport(group="onnx", replica_id=name, phase=Phase.READY) for name in "ab"),
)


def _admit(health: Health, now: float = 0.0, group: Group = PAIR) -> Admission:
    admission = health.admit(group, (), now)
    assert admission is not None
    return admission


def _fail(health: Health, replica: str, times: int = 5, now: float = 0.0) -> None:
    for _ in range(times):
        health.settle(_admit(health, now), replica, ok=False, now=now)


def _blocked(health: Health, now: float) -> bool:
    return health.annotate(Fleet((PAIR,)), now).groups[0].blocked


def test_a_bad_replica_is_avoided_and_its_group_goes_on() -> None:
    health = Health(BreakerSettings())
    _fail(health, "a")
    assert not _blocked(health, 1)
    assert _admit(health, 1).avoid == {"a"}
    _fail(health, "b")
    assert _blocked(health, 1)
    assert health.admit(PAIR, (), 1) is None


def test_failures_of_unknown_replicas_count_for_the_group() -> None:
    health = Health(BreakerSettings())
    _fail(health, "")
    assert _blocked(health, 1)
    assert health.states(Fleet((PAIR,)), 1) == {
        ("onnx", ""): BreakerState.OPEN,
        ("onnx", "a"): BreakerState.CLOSED,
        ("onnx", "b"): BreakerState.CLOSED,
    }


def test_one_request_at_a_time_probes_and_two_good_ones_close() -> None:
    health = Health(BreakerSettings())
    _fail(health, "a")
    probing, other = _admit(health, 30), _admit(health, 30)
    assert (probing.probe, probing.avoid) == ("a", frozenset())
    assert (other.probe, other.avoid) == ("", {"a"})
    health.settle(probing, "a", ok=True, now=31)
    health.settle(_admit(health, 31), "a", ok=True, now=32)
    assert health.states(Fleet((PAIR,)), 32)[("onnx", "a")] is BreakerState.CLOSED


def test_a_probe_that_went_elsewhere_makes_room_for_another() -> None:
    health = Health(BreakerSettings())
    _fail(health, "a")
    health.settle(_admit(health, 30), "b", ok=True, now=30)
    assert _admit(health, 30).probe == "a"


def test_replicas_that_failed_the_request_or_fell_silent_are_avoided() -> None:
    health = Health(BreakerSettings())
    admission = health.admit(replace(PAIR, silent=frozenset("c")), ("b",), 0)
    assert admission is not None
    assert admission.avoid == {"b", "c"}
