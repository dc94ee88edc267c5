"""What a benchmark does: which groups, which loads, how often, and when requests are sent. Pure; knows neither HTTP nor clocks."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
"""The endpoints that can be measured."""
Endpoint = Literal["chat", "completions"]
_LEAST_REQUESTS = 8
_REQUESTS_PER_STREAM = 2
_REQUESTS_AT_A_RATE = 60


class BenchError(Exception):
    """A benchmark cannot be run or read, described for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How requests come: so many streams that each send one after the other, or arrivals that wait for nobody."""

    streams: int = 0
    """Requests under way at once; 0: arrivals at `rate`."""
    rate: float = 0.0
    """Mean arrivals per second of a Poisson process, however many are under way; 0: `streams`."""

    @property
    def label(self) -> str:
        """Return the load in words."""
        if self.streams:
            return f"{self.streams} stream{'s' if self.streams > 1 else ''}"
        return f"{self.rate:g} requests/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is chosen before a benchmark begins."""

    groups: tuple[str, ...]
    loads: tuple[Load, ...]
    rounds: int
    """Runs of each group and load. Their spread is the noise by which `compare` judges."""
    requests: int | None
    """Requests of a run; None: by the load, or as many as fit into `duration_s`."""
    duration_s: float | None
    """Seconds during which a run sends requests; those under way then may end. None: `requests` decides."""
    warmup: int
    """Requests before each run that are not counted."""
    prompt_tokens: int
    """Tokens of a prompt, those of the chat template included."""
    answer_tokens: int
    shared_prefix_tokens: int
    """About so many tokens at the beginning of the text are the same in all prompts."""
    temperature: float
    endpoint: Endpoint
    timeout_s: float
    """Seconds after which a request counts as failed."""
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One run of the plan: a group under a load."""

    group: str
    load: Load
    round: int


def list_steps(plan: Plan) -> list[Step]:
    """Return the runs in their order.

    The groups take turns, beginning with another one in each round, so that a slow minute of the machine does not
    fall on one group.
    """
    steps = []
    for number in range(plan.rounds):
        shift = number % len(plan.groups)
        for load in plan.loads:
            steps += [Step(group=group, load=load, round=number) for group in plan.groups[shift:] + plan.groups[:shift]]
    return steps


def count_requests(plan: Plan, load: Load) -> int | None:
    """Return the requests of a run; None: the duration ends it."""
    if plan.requests is not None or plan.duration_s is not None:
        return plan.requests
    return max(_LEAST_REQUESTS, _REQUESTS_PER_STREAM * load.streams) if load.streams else _REQUESTS_AT_A_RATE


def draw_arrivals(load: Load, seed: str, count: int | None, duration_s: float | None) -> Iterator[float]:
    """Yield seconds from the beginning of a run at which requests arrive: a Poisson process, the same for the same seed.

    Ends after `count` arrivals or `duration_s` seconds, whichever comes first.
    """
    draw = random.Random(seed)
    at_s, number = 0.0, 0
    while count is None or number < count:
        at_s += -math.log(1.0 - draw.random()) / load.rate
        if duration_s is not None and at_s >= duration_s:
            return
        yield at_s
        number += 1
