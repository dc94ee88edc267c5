"""Computes how many replicas a group should have, from its backlog in tokens and its pace.

Used in serve_config.yaml as

    autoscaling_config:
      policy:
        policy_function: deployments.autoscaling:TokenBacklog
        policy_kwargs: {target_wait_s: 5}

Serve calls this in its controller and applies min_replicas, max_replicas and its delays. Knows the statistics of
`EngineReplica.record_autoscaling_stats`; knows no engine. `decide` is pure.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MAX_GROWTH = 8.0
"""Largest growth of one decision, as a factor: a momentarily low pace must not start thousands of replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStats:
    """Averages that one replica reported over the last seconds."""

    running: float
    waiting: float
    waiting_tokens: float
    """Prompt tokens of the waiting requests."""
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Targets for the number of replicas."""

    target_wait_s: float = 5.0
    """Longest time that work should wait inside the replicas, in seconds."""
    answer_tokens: float = 200.0
    """Tokens that a waiting request is expected to generate."""
    target_running: float = 8.0
    """Requests that one replica should run; with fewer, and an empty queue, there are too many replicas."""


def backlog_tokens(replicas: Sequence[ReplicaStats], goal: Goal) -> float:
    """Return the backlog of the waiting requests in tokens: prompts and expected answers."""
    return sum(replica.waiting_tokens + replica.waiting * goal.answer_tokens for replica in replicas)


def decide(replicas: Sequence[ReplicaStats], current: int, queued: float, goal: Goal) -> int:
    """Return how many replicas there should be.

    More while the backlog takes longer than the target at the current pace. One fewer only when nothing waits anywhere and the
    remaining replicas can run all current requests. The same number while some replicas have not reported: silence is not idleness.

    Args:
        replicas: Statistics of the running replicas.
        current: Replicas there should be now.
        queued: Requests in Serve's queues, before the replicas.
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
            return current  # the pace is unknown: the replicas may have only just started
        overload = min(backlog / rate / goal.target_wait_s, _MAX_GROWTH)
        return current if overload <= 1 else max(current + 1, math.ceil(current * overload))
    needed = math.ceil(running / goal.target_running)
    return current - 1 if needed < current else current


class TokenBacklog:
    """The autoscaling policy that Serve calls; see the module."""

    def __init__(self, **goal: float) -> None:
        """Take the fields of `Goal`."""
        self._goal = Goal(**goal)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the wanted number of replicas, before Serve's bounds and delays, and no state."""
        replicas = read_stats(context.aggregated_metrics or {})
        return decide(replicas, context.target_num_replicas, context.total_queued_requests or 0.0, self._goal), {}


def read_stats(metrics: Mapping[str, Mapping[Any, float]]) -> list[ReplicaStats]:
    """Return the statistics of the replicas that reported all of them."""
    figures = [metrics.get(name, {}) for name in ReplicaStats.__dataclass_fields__]
    complete = set(figures[0]).intersection(*figures[1:])
    return [ReplicaStats(**{name: metrics[name][each] for name in ReplicaStats.__dataclass_fields__}) for each in complete]
