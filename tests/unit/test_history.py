"""Points of ten seconds from replicas' counts, and quantiles of histograms."""

from collections import Counter

import pytest

from serve_app.operations.history import KEPT, History, add_outcomes, find_quantile
from serve_app.reports import Histogram, ReplicaReport, RequestCounts
from serve_app.routing.fleet import Fleet, Group
from serve_app.types import Phase, Task


def fleet(*counts: tuple[int, ...]) -> Fleet:
    reports = tuple(
        ReplicaReport(
            group="a",
            replica_id=str(place),
            phase=Phase.READY,
            requests=RequestCounts(
                model="m", histograms={"time_to_first_token_seconds": Histogram(bounds=(0.1, 0.2), counts=each, total=0.0)}
            ),
        )
        for place, each in enumerate(counts)
    )
    return Fleet((Group(name="a", phase=Phase.READY, replicas=len(reports), reports=reports),))


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, (0, 0, 0), None),
        (0.5, (4, 0, 0), 0.05),
        (1.0, (4, 0, 0), 0.1),
        (0.5, (0, 2, 0), 0.15),
        (0.95, (1, 0, 9), 0.2),
        (0.5, (1, 1, 0), 0.1),
    ],
)
def test_quantiles_are_interpolated_within_a_bucket(share: float, counts: tuple[int, ...], expected: float | None) -> None:
    found = find_quantile(share, (0.1, 0.2), counts)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_a_point_shows_what_happened_since_the_last_one() -> None:
    history = History()
    assert history.sample(fleet((5, 0, 0)), {(Task.MATH, "a", "ok"): 5}, 10) is None
    outcomes = Counter({(Task.MATH, "a", "ok"): 7, (None, None, "overloaded"): 1, (Task.MATH, "a", "cancelled"): 2})
    point = history.sample(fleet((5, 4, 0), (0, 4, 0)), outcomes, 20)
    assert point is not None
    assert point["first_token_s"]["p50"] == pytest.approx(0.15)
    assert point["inter_token_s"] == {"p50": None, "p95": None}
    assert (point["ok"], point["errors"], point["cancelled"]) == (2, 1, 2)
    assert point["flow"] == {"math": {"a": 4}, "none": {"none": 1}}
    assert point["replicas"] == {"a": 2}


def test_a_replica_that_restarts_does_not_count_backwards() -> None:
    history = History()
    history.sample(fleet((5, 0, 0)), {}, 10)
    history.sample(fleet(), {}, 20)
    point = history.sample(fleet((1, 0, 0)), {}, 30)
    assert point is not None
    assert point["first_token_s"]["p50"] == pytest.approx(0.05)


def test_outcomes_of_several_ingresses_add_up() -> None:
    one = {"at": 10, "ok": 1, "errors": 0, "cancelled": 2, "flow": {"math": {"a": 1}}, "running": 3}
    other = {"at": 10, "ok": 2, "errors": 1, "cancelled": 0, "flow": {"math": {"a": 1, "b": 2}, "none": {"none": 1}}, "running": 3}
    total = add_outcomes(one, [other])
    assert total == {
        "at": 10,
        "ok": 3,
        "errors": 1,
        "cancelled": 2,
        "flow": {"math": {"a": 2, "b": 2}, "none": {"none": 1}},
        "running": 3,
    }
    assert one["flow"] == {"math": {"a": 1}}


def test_fifteen_minutes_are_kept() -> None:
    history = History()
    for at in range(KEPT + 50):
        history.sample(fleet(), {}, 10 * at)
    assert len(history.points) == KEPT
    assert history.points[-1]["at"] - history.points[0]["at"] == 10 * (KEPT - 1)
