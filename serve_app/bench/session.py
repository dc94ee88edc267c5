"""Runs a plan against an application, step by step, and keeps every sample in a record that is usable at any moment."""

import time
from collections.abc import Callable

from serve_app.bench.load import follow_arrivals, keep_streams
from serve_app.bench.plan import BenchError, Plan, Step, count_requests, draw_arrivals, list_steps
from serve_app.bench.prompts import PromptMaker
from serve_app.bench.record import GroupFacts, Record, Run, Sample
from serve_app.bench.target import Target

Watch = Callable[[Step, int, int | None], None]
"""Is told of the step under way, the requests that ended in it, and how many there will be; None: unknown."""


async def choose_groups(target: Target, wanted: tuple[str, ...]) -> dict[str, GroupFacts]:
    """Return the ready groups, or those wanted; raises `BenchError` for one that is not ready."""
    ready = await target.list_groups()
    missing = [name for name in wanted if name not in ready]
    if missing:
        raise BenchError(f"the group '{missing[0]}' is not ready; ready are: {', '.join(ready)}")
    return {name: ready[name] for name in wanted or ready}


async def calibrate(target: Target, plan: Plan, groups: dict[str, GroupFacts]) -> dict[str, PromptMaker]:
    """Return the maker of prompts for each model; raises `BenchError` also for a context that is too short."""
    makers: dict[str, PromptMaker] = {}
    for name, facts in groups.items():
        if plan.prompt_tokens + plan.answer_tokens > facts.context_length:
            raise BenchError(
                f"{plan.prompt_tokens} + {plan.answer_tokens} tokens are more than the {facts.context_length} of the group '{name}'"
            )
        if facts.model in makers:
            continue
        maker = makers[facts.model] = PromptMaker(plan.prompt_tokens, plan.shared_prefix_tokens, plan.seed)

        async def count_text(text: str, model: str = facts.model) -> int:
            return await target.count_text(model, text)

        async def count_prompt(text: str, model: str = facts.model) -> int:
            return await target.count_prompt(model, text)

        await maker.calibrate(count_text, count_prompt)
    return makers


async def run_plan(target: Target, record: Record, makers: dict[str, PromptMaker], watch: Watch) -> None:
    """Run all steps; the samples of a step that is interrupted stay in the record."""
    for step in list_steps(record.plan):
        await _run_step(target, record, makers[record.groups[step.group].model], step, watch)


async def _run_step(target: Target, record: Record, maker: PromptMaker, step: Step, watch: Watch) -> None:
    plan, model, load = record.plan, record.groups[step.group].model, step.load
    key = f"{load.label}:{step.round}"

    def encode(kind: str, number: int) -> bytes:
        text = maker.make(f"{key}:{kind}:{number}")
        return target.encode_body(model, text, plan.answer_tokens, plan.temperature)

    async def warm(number: int, due: float) -> None:
        await target.ask(encode("warm-up", number), step.group, Sample(number=number, sent_s=0.0))

    total = count_requests(plan, load)
    watch(step, 0, total)
    await keep_streams(warm, load.streams or plan.warmup, plan.warmup, None)
    bodies = [encode("request", number) for number in range(total or 0)]
    run = Run(group=step.group, load=load, round=step.round, duration_s=0.0, samples=[], complete=False)
    record.runs.append(run)
    began = time.perf_counter()

    async def ask(number: int, due: float) -> None:
        body = bodies[number] if number < len(bodies) else encode("request", number)
        sent = time.perf_counter()
        sample = Sample(number=number, sent_s=sent - began, late_s=sent - due)
        await target.ask(body, step.group, sample)
        run.samples.append(sample)
        run.duration_s = max(run.duration_s, sample.sent_s + sample.ended_s)
        watch(step, len(run.samples), total)

    if load.streams:
        await keep_streams(ask, load.streams, total, plan.duration_s)
    else:
        await follow_arrivals(ask, draw_arrivals(load, f"{plan.seed}:{key}", total, plan.duration_s))
    run.complete = True
