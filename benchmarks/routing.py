"""The routing policy against four simpler ones, in virtual time: the real Policy, FleetView and Workload over model engines.

    python -m benchmarks.routing [--seconds 600] [--seed 1]

Two groups: one drains like a GPU, one like a CPU. An engine of `slots` shares its rate among what runs, no stream faster than
`per_stream`; the rest waits in order. Tasks differ in length and preference; arrivals are Poisson, up to 1.2 x what both groups can
do together. A request is good when it ends within its deadline: three times what an idle GPU would need, and 10 s at least. As in
the application its client gives up then, under every policy, and the engine drops it. What our policy knows is what it knows in
the application: reports once a second, what it sent since, and the client's time; it may refuse at once, which counts as not good,
and as a latency of the whole deadline.
"""

import argparse
import heapq
import itertools
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serve_app.config import RoutingSettings
from serve_app.conversation import GenerateRequest, RawText
from serve_app.errors import Overloaded
from serve_app.reports import ReplicaReport
from serve_app.routing.fleet import Fleet, FleetView, Workload
from serve_app.routing.policy import Policy
from serve_app.types import Capability, EngineInfo, EngineKind, EngineLoad, Phase, Task

LENGTHS = {Task.GENERAL: 80, Task.MATH: 60, Task.REASONING: 150, Task.CODING: 300, Task.TOOLS: 30}
"""Mean tokens of an answer; drawn exponentially."""
SHARES = {Task.GENERAL: 0.3, Task.MATH: 0.2, Task.REASONING: 0.2, Task.CODING: 0.2, Task.TOOLS: 0.1}
PREFER = {
    Task.GENERAL: ("cpu", "gpu"),
    Task.MATH: ("cpu", "gpu"),
    Task.REASONING: ("gpu", "cpu"),
    Task.CODING: ("gpu", "cpu"),
    Task.TOOLS: ("cpu", "gpu"),
}
REPORT_EVERY_S = 1.0
LOADS = (0.5, 0.8, 1.0, 1.2)


@dataclass(eq=False)
class Job:
    """One request of the simulation."""

    task: Task
    arrived_s: float
    tokens: float
    left: float
    deadline_s: float
    group: str = ""
    done_s: float | None = None


@dataclass
class ModelEngine:
    """A processor-sharing engine with a queue."""

    name: str
    rate: float
    per_stream: float
    slots: int
    running: list[Job] = field(default_factory=list)
    waiting: deque[Job] = field(default_factory=deque)
    busy_s: float = 0.0
    stream_s: float = 0.0
    made: float = 0.0

    @property
    def pace(self) -> float:
        """Tokens per second of each running stream now."""
        return min(self.per_stream, self.rate / len(self.running)) if self.running else 0.0

    def take(self, job: Job) -> None:
        """Run or queue."""
        job.group = self.name
        (self.running if len(self.running) < self.slots else self.waiting).append(job)

    def next_end_s(self, now: float) -> float:
        """Return when the next one ends or is given up if nothing else happens."""
        given_up = min((job.deadline_s for job in itertools.chain(self.running, self.waiting)), default=float("inf"))
        done = now + min(job.left for job in self.running) / self.pace if self.running else float("inf")
        return min(given_up, done)

    def advance(self, now: float, to: float) -> list[Job]:
        """Compute up to `to`; return those that ended or were given up."""
        if not self.running:
            return []
        step = self.pace * (to - now)
        self.busy_s += to - now
        self.stream_s += (to - now) * (len(self.running) + len(self.waiting))
        self.made += step * len(self.running)
        for job in self.running:
            job.left -= step
        ended = [job for job in self.running if job.left <= 1e-9]
        for job in ended:
            job.done_s = to
        late = [job for job in itertools.chain(self.running, self.waiting) if job.deadline_s <= to and job.done_s is None]
        self.waiting = deque(job for job in self.waiting if job.deadline_s > to)
        self.running = [job for job in self.running if job.left > 1e-9 and job.deadline_s > to]
        while self.waiting and len(self.running) < self.slots:
            self.running.append(self.waiting.popleft())
        return ended + late

    def report(self) -> ReplicaReport:
        """Return what a replica would tell; the rate is over busy time, as `DrainRate` measures it."""
        load = EngineLoad(
            running=len(self.running),
            waiting=len(self.waiting),
            drain_rate=self.made / self.busy_s if self.busy_s else 0.0,
            stream_rate=self.made / self.stream_s if self.busy_s else 0.0,
        )
        if self.busy_s > 20:
            self.busy_s, self.made, self.stream_s = self.busy_s / 2, self.made / 2, self.stream_s / 2
        info = EngineInfo(
            kind=EngineKind.FAKE,
            context_length=4096,
            capabilities=frozenset(Capability),
            max_concurrency=self.slots,
            precision="none",
        )
        return ReplicaReport(group=self.name, replica_id=self.name, phase=Phase.READY, info=info, load=load)


def engines() -> dict[str, ModelEngine]:
    """Return the two groups."""
    return {
        "gpu": ModelEngine("gpu", rate=1200.0, per_stream=90.0, slots=32),
        "cpu": ModelEngine("cpu", rate=150.0, per_stream=30.0, slots=8),
    }


Chooser = Callable[[Job, float], str | None]
"""(job, now) -> the group; None refuses it."""


class World:
    """Engines, arrivals and what a chooser may look at."""

    def __init__(self, seed: int) -> None:
        """Start empty."""
        self.engines = engines()
        self.random = random.Random(seed)
        self.view = FleetView(self.engines, 6.0)
        self.workload = Workload()
        self.policy = Policy(RoutingSettings(prefer=PREFER))
        self._sent: dict[Job, object] = {}
        self._turn = itertools.cycle(self.engines)

    def fleet(self, now: float) -> Fleet:
        """Return what the gateway would know now."""
        return self.workload.annotate(self.view.snapshot(now), now)

    def by_policy(self, job: Job, now: float) -> str | None:
        """Choose as the application does."""
        request = GenerateRequest(request_id="", prompts=(RawText(text=""),), timeout_s=job.deadline_s - now)
        try:
            route = self.policy.choose(request, job.task, 0, self.fleet(now))
        except Overloaded:
            return None
        self._sent[job] = self.workload.send(route.candidates[0], route.work, now)
        return route.candidates[0]

    def round_robin(self, job: Job, now: float) -> str:
        """Take turns."""
        return next(self._turn)

    def at_random(self, job: Job, now: float) -> str:
        """Take any."""
        return self.random.choice(list(self.engines))

    def least_requests(self, job: Job, now: float) -> str:
        """Take the one with the fewest requests, known exactly."""
        return min(self.engines.values(), key=lambda engine: len(engine.running) + len(engine.waiting)).name

    def static(self, job: Job, now: float) -> str:
        """Always take the preferred one."""
        return PREFER[job.task][0]

    def ended(self, job: Job) -> None:
        """Tell the workload what the gateway would."""
        sent = self._sent.pop(job, None)
        if sent is not None:
            self.workload.end(sent)  # type: ignore[arg-type]
            if job.done_s is not None:
                self.workload.record_answer(job.task, round(job.tokens))


POLICIES: dict[str, Callable[[World], Chooser]] = {
    "phi-serve": lambda world: world.by_policy,
    "round-robin": lambda world: world.round_robin,
    "random": lambda world: world.at_random,
    "least-requests": lambda world: world.least_requests,
    "static preference": lambda world: world.static,
}


def arrivals(load: float, seconds: float, seed: int) -> list[Job]:
    """Return the jobs of one run; every policy gets the same ones."""
    drawn = random.Random(seed)
    gpu = engines()["gpu"]
    mean = sum(LENGTHS[task] * share for task, share in SHARES.items())
    per_s = load * sum(engine.rate for engine in engines().values()) / mean
    jobs, now = [], 0.0
    while (now := now + drawn.expovariate(per_s)) < seconds:
        task = drawn.choices(list(SHARES), list(SHARES.values()))[0]
        tokens = 1 + drawn.expovariate(1 / LENGTHS[task])
        jobs.append(Job(task, now, tokens, tokens, now + max(10.0, 3 * tokens / gpu.per_stream)))
    return jobs


@dataclass(frozen=True)
class Result:
    """What one policy achieved at one load."""

    mean_s: float
    p99_s: float
    goodput: float
    """Requests per second that ended in time."""
    good: float
    """Their share."""


def simulate(policy: str, load: float, seconds: float, seed: int) -> Result:
    """Run one policy until every job has ended or was given up."""
    world = World(seed)
    choose = POLICIES[policy](world)
    jobs = arrivals(load, seconds, seed)
    events: list[tuple[float, int, Job | None]] = [(job.arrived_s, number, job) for number, job in enumerate(jobs)]
    end_s = max(job.deadline_s for job in jobs) + REPORT_EVERY_S
    events += [(second * REPORT_EVERY_S, -1 - second, None) for second in range(int(end_s / REPORT_EVERY_S) + 1)]
    heapq.heapify(events)
    now = 0.0
    while events and now < end_s:
        due = min((engine.next_end_s(now) for engine in world.engines.values()), default=float("inf"))
        to = min(due, events[0][0])
        for engine in world.engines.values():
            for job in engine.advance(now, to):
                world.ended(job)
        now = to
        while events and events[0][0] <= now:
            _, _, arrived = heapq.heappop(events)
            if arrived is not None:
                chosen = choose(arrived, now)
                if chosen is not None:
                    world.engines[chosen].take(arrived)
                continue
            for engine in world.engines.values():
                world.view.record(engine.report(), now)
    latencies = sorted((job.deadline_s if job.done_s is None else job.done_s) - job.arrived_s for job in jobs)
    good = sum(job.done_s is not None for job in jobs)
    return Result(statistics.fmean(latencies), latencies[int(0.99 * len(latencies))], good / seconds, good / len(jobs))


def compare(loads: Iterable[float], seconds: float, seed: int) -> dict[float, dict[str, Result]]:
    """Return every policy's result at every load."""
    return {load: {policy: simulate(policy, load, seconds, seed) for policy in POLICIES} for load in loads}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    for load, results in compare(LOADS, arguments.seconds, arguments.seed).items():
        print(f"\nload {load:.1f} x capacity      mean s    p99 s   good/s   in time")
        for policy, result in results.items():
            print(f"  {policy:18s} {result.mean_s:10.2f} {result.p99_s:8.2f} {result.goodput:8.2f} {result.good:8.1%}")
    print(f"\n{arguments.seconds:g} virtual seconds per run, {time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
