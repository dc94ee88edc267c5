"""How many replicas a group should have, from the tokens that wait and the time they will wait.

Used in serve_config.yaml as

    autoscaling_config:
      policy:
        policy_function: deployments.autoscaling:TokenBacklog
        policy_kwargs: {target_wait_s: 5}

Serve keeps to min_replicas, max_replicas and its delays, and calls this in its controller. Knows what replicas report of themselves
(`EngineReplica.record_autoscaling_stats`); knows no engine. `decide` is pure.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MAX_GROWTH = 8.0
"""Bound of one step up, as a factor: a pace that is measured low for a moment must not ask for thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStats:
    """What one replica said over the last seconds."""

    running: float
    waiting: float
    waiting_tokens: float
    """Prompt tokens of the requests that wait."""
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """When there are too few replicas, and when too many."""

    target_wait_s: float = 5.0
    """Longest time that work should wait inside the replicas, in seconds."""
    answer_tokens: float = 200.0
    """Tokens that a waiting request is expected to generate."""
    target_running: float = 8.0
    """Requests that one replica should work on; fewer, with nothing waiting, is idle."""


def backlog_tokens(replicas: Sequence[ReplicaStats], goal: Goal) -> float:
    """Return the tokens that wait, read and generated alike."""
    return sum(replica.waiting_tokens + replica.waiting * goal.answer_tokens for replica in replicas)


def decide(replicas: Sequence[ReplicaStats], current: int, queued: float, goal: Goal) -> int:
    """Return how many replicas there should be.

    Up while the backlog, at the pace observed, takes longer than the target, or while requests queue before the replicas; down
    by one only when nothing waits anywhere and the rest can take what runs; the same number where fewer replicas reported than
    there are: a silent replica is no idle one.

    Args:
        replicas: What the running replicas said.
        current: Replicas there should be now.
        queued: Requests that wait before the replicas.
        goal: Targets.
    """
    if current < 1:
        return 1 if queued > 0 else 0
    if len(replicas) < current:
        return current
    backlog = backlog_tokens(replicas, goal) + queued * goal.answer_tokens
    running = sum(replica.running for replica in replicas)
    if backlog > 0:
        rate = sum(replica.tokens_per_second for replica in replicas)
        if rate <= 0:
            return current  # nothing is known of the pace: they may have only just started
        overload = min(backlog / rate / goal.target_wait_s, _MAX_GROWTH)
        return current if overload <= 1 else max(current + 1, math.ceil(current * overload))
    needed = math.ceil(running / goal.target_running)
    return current - 1 if needed < current else current


class TokenBacklog:
    """The policy that Serve calls; see the module."""

    def __init__(self, **goal: float) -> None:
        """Take the fields of `Goal`."""
        self._goal = Goal(**goal)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the wanted number of replicas, before Serve's bounds and delays, and no state."""
        replicas = read_stats(context.aggregated_metrics or {})
        return decide(replicas, context.target_num_replicas, context.total_queued_requests or 0.0, self._goal), {}


def read_stats(metrics: Mapping[str, Mapping[Any, float]]) -> list[ReplicaStats]:
    """Return the replicas that reported all of their figures."""
    figures = [metrics.get(name, {}) for name in ReplicaStats.__dataclass_fields__]
    complete = set(figures[0]).intersection(*figures[1:])
    return [ReplicaStats(**{name: metrics[name][each] for name in ReplicaStats.__dataclass_fields__}) for each in complete]
