"""Benchmarks' records of known figures."""

from collections.abc import Sequence

from serve_app.bench.plan import Load, Plan
from serve_app.bench.record import GroupFacts, Record, Run, Sample, Surroundings

ONE, EIGHT = Load(streams=1), Load(streams=8)


def make_plan(**fields: object) -> Plan:
    given: dict[str, object] = {
        "groups": ("a",),
        "loads": (ONE,),
        "rounds": 1,
        "requests": None,
        "duration_s": None,
        "warmup": 0,
        "prompt_tokens": 10,
        "answer_tokens": 5,
        "shared_prefix_tokens": 0,
        "temperature": 0.0,
        "endpoint": "chat",
        "timeout_s": 60.0,
        "seed": 1,
    }
    return Plan(**(given | fields))  # type: ignore[arg-type]


def make_sample(*chunks_s: float, number: int = 0, group: str = "a", tokens: int = 5, failure: str = "") -> Sample:
    return Sample(
        number=number,
        sent_s=0.0,
        chunks_s=[] if failure else list(chunks_s),
        ended_s=chunks_s[-1] if chunks_s else 0.0,
        failure=failure,
        prompt_tokens=0 if failure else 10,
        completion_tokens=0 if failure else tokens,
        group=group,
        attempts=1,
    )


def make_run(samples: Sequence[Sample], *, duration_s: float = 1.0, round: int = 0, group: str = "a", load: Load = ONE) -> Run:
    return Run(group=group, load=load, round=round, duration_s=duration_s, samples=list(samples))


def make_record(runs: list[Run], plan: Plan | None = None) -> Record:
    facts = GroupFacts(model="m", engine="fake", precision="none", context_length=4096, replicas=1)
    plan = plan or make_plan()
    return Record(
        plan=plan,
        surroundings=Surroundings(
            url="http://127.0.0.1:8000",
            began="2026-11-30T00:00:00+00:00",
            cpus=2.0,
            memory_bytes=8 * 2**30,
            processor="A processor",
            versions={"phi-serve": "0.1.0"},
        ),
        groups=dict.fromkeys(plan.groups, facts),
        runs=runs,
    )
