"""The autoscaling policy as what it is: a function of what replicas say."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.autoscaling import Goal, ReplicaStats, TokenBacklog, decide, read_stats
from deployments.replica import EngineReplica, NamedModel
from serve_app.config import ModelSettings
from serve_app.engine_config import FakeSettings
from serve_app.reports import ReplicaReport

GOAL = Goal(target_wait_s=5, answer_tokens=100, target_running=4)
BUSY = ReplicaStats(running=8, waiting=10, waiting_tokens=1000, tokens_per_second=100)
WORKING = ReplicaStats(running=4, waiting=0, waiting_tokens=0, tokens_per_second=100)
IDLE = ReplicaStats(running=0, waiting=0, waiting_tokens=0, tokens_per_second=0)
STARTED = ReplicaStats(running=1, waiting=2, waiting_tokens=50, tokens_per_second=0)


@pytest.mark.parametrize(
    ("replicas", "current", "queued", "expected"),
    [
        pytest.param([BUSY], 1, 0, 4, id="2,000 tokens at 100 a second wait 20 s: four times as many for 5 s"),
        pytest.param([BUSY, BUSY], 2, 0, 8, id="the same wait with two"),
        pytest.param([WORKING], 1, 6, 2, id="what queues before the replicas counts"),
        pytest.param([WORKING], 1, 0, 1, id="busy without a queue"),
        pytest.param([WORKING, WORKING], 2, 0, 2, id="both are needed for what runs"),
        pytest.param([WORKING, IDLE], 2, 0, 1, id="one is idle"),
        pytest.param([IDLE, IDLE, IDLE], 3, 0, 2, id="down one at a time"),
        pytest.param([IDLE], 1, 0, 0, id="to zero where min_replicas allows it"),
        pytest.param([IDLE, IDLE], 2, 3, 2, id="something queues and nothing is known of the pace"),
        pytest.param([STARTED], 1, 0, 1, id="no pace yet"),
        pytest.param([IDLE], 2, 0, 2, id="one is silent: hold"),
        pytest.param([], 3, 50, 3, id="all are silent: hold"),
        pytest.param([], 0, 1, 1, id="from zero when somebody waits"),
        pytest.param([], 0, 0, 0, id="stays at zero"),
    ],
)
def test_decisions(replicas: list[ReplicaStats], current: int, queued: float, expected: int) -> None:
    assert decide(replicas, current, queued, GOAL) == expected


def _replicas() -> st.SearchStrategy[list[ReplicaStats]]:
    count = st.floats(0, 1000)
    one = st.builds(ReplicaStats, running=count, waiting=count, waiting_tokens=count, tokens_per_second=count)
    return st.lists(one, min_size=1, max_size=6)


@given(replicas=_replicas(), queued=st.floats(0, 100))
def test_more_work_never_means_fewer_and_down_needs_an_empty_queue(replicas: list[ReplicaStats], queued: float) -> None:
    now = decide(replicas, len(replicas), queued, GOAL)
    assert decide(replicas, len(replicas), queued + 10, GOAL) >= now
    if now < len(replicas):
        assert queued == 0
        assert not any(replica.waiting or replica.waiting_tokens for replica in replicas)


def test_a_replica_that_told_only_half_is_silent() -> None:
    metrics = {name: {"a": 1.0, "b": 2.0} for name in ("running", "waiting", "waiting_tokens")} | {"tokens_per_second": {"a": 3.0}}
    assert read_stats(metrics) == [ReplicaStats(running=1, waiting=1, waiting_tokens=1, tokens_per_second=3)]


def test_the_policy_reads_serves_context() -> None:
    figures = {"running": 8.0, "waiting": 10.0, "waiting_tokens": 1000.0, "tokens_per_second": 100.0}
    context = SimpleNamespace(
        aggregated_metrics={name: {"r": value} for name, value in figures.items()}, target_num_replicas=1, total_queued_requests=0
    )
    assert TokenBacklog(target_wait_s=5, answer_tokens=100)(context) == (4, {})
    assert TokenBacklog()(SimpleNamespace(aggregated_metrics=None, target_num_replicas=2, total_queued_requests=None)) == (2, {})
    with pytest.raises(TypeError, match="target_wait"):
        TokenBacklog(target_wait=5)


async def test_replicas_tell_what_the_policy_reads() -> None:
    replica = EngineReplica.__new__(EngineReplica)

    async def send(_: ReplicaReport) -> bool:
        return True

    await replica.__init__("a", FakeSettings(), NamedModel("phi", ModelSettings()), lambda: ("r1", send))  # type: ignore[misc,func-returns-value]
    told = replica.record_autoscaling_stats()
    await replica.close()
    assert len(read_stats({name: {"r": value} for name, value in told.items()})) == 1
