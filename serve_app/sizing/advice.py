"""What to change where a plan does not fit: edits of the configuration, each with the size that the replica would have. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from serve_app.engine_config import EngineSettings, LlamaCppSettings, OnnxSettings, VllmSettings
from serve_app.sizing.plan import GroupPlan, Plan, complete, resize

_LEAST_CONTEXT = 1024
"""Shorter contexts are of little use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Changes of one group, or of its deployment."""

    kind: str
    """What is lowered: precision, slots, context or replicas; or `removal`."""
    group: str
    changes: tuple[str, ...]
    """What to write, such as `engines.onnx.slots: 4`."""
    replica_bytes: float
    """What a replica takes then; 0: there is none."""
    total_bytes: float
    """What everything takes then, at the most replicas."""
    suffices: bool
    """Whether everything fits then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """How to make a configuration fit."""

    alone: tuple[Edit, ...] = ()
    """Each of them suffices."""
    together: tuple[Edit, ...] = ()
    """Steps, each on top of those before; empty where one edit that keeps every group suffices, and where no steps do."""


def advise(plan: Plan) -> Advice:
    """Return the edits that make a plan fit; nothing where it does, and where the file has mistakes."""
    if plan.fits or plan.findings:
        return Advice()
    shrinking = [edit for group in plan.groups for edit, _ in _try_group(plan, group) if edit.suffices]
    removing = [edit for group in plan.groups for edit, _ in _try_removal(plan, group) if edit.suffices]
    return Advice(alone=(*shrinking, *removing), together=() if shrinking else tuple(_combine_removing(plan)))


def _try_group(plan: Plan, group: GroupPlan) -> Iterator[tuple[Edit, Plan]]:
    """Yield for each kind of change the smallest one that suffices, or else the largest one."""
    yield from _try_replicas(plan, group)
    if group.settings is None:
        return
    for kind, steps in (
        ("slots", _list_slots(group.settings)),
        ("context", _list_contexts(group.settings)),
        ("precision", _list_precisions(group.settings)),
    ):
        last: tuple[Edit, Plan] | None = None
        for changes in steps:
            changed = _change(group.settings, changes)
            if changed is None:
                continue
            after = resize(plan, group.name, changed)
            written = tuple(f"engines.{group.name}.{name}: {value}" for name, value in changes.items())
            last = _describe(kind, group.name, written, after), after
            if after.fits:
                break
        if last is not None and last[0].total_bytes < plan.most.memory_bytes:
            yield last


def _try_removal(plan: Plan, group: GroupPlan) -> Iterator[tuple[Edit, Plan]]:
    """Yield the plan without a group whose model another group serves too."""
    if group.settings is not None and any(each.model == group.model and each is not group for each in plan.groups):
        after = complete(tuple(each for each in plan.groups if each is not group), plan.machine)
        written = f"remove engines.{group.name} and its deployment: other groups serve {group.model}"
        yield _describe("removal", group.name, (written,), after), after


def _try_replicas(plan: Plan, group: GroupPlan) -> Iterator[tuple[Edit, Plan]]:
    """Yield fewer replicas: first of those that autoscaling may add, then of those at the start."""
    last: tuple[Edit, Plan] | None = None
    for count in range(group.wants.most - 1, 0, -1):
        wants = replace(group.wants, most=count, least=min(group.wants.least, count))
        after = complete(tuple(replace(each, wants=wants) if each is group else each for each in plan.groups), plan.machine)
        lowered = [f"max_replicas: {count}"] + ([f"min_replicas: {count}"] if count < group.wants.least else [])
        is_fixed = group.wants.least == group.wants.most
        written = (f"deployments.{group.name}: {f'{count} replicas' if is_fixed else ', '.join(lowered)}",)
        last = _describe("replicas", group.name, written, after), after
        if after.fits:
            break
    if last is not None:
        yield last


def _list_slots(settings: EngineSettings) -> Iterator[dict[str, Any]]:
    """Yield settings with fewer sequences at once, or a smaller cache, the mildest first."""
    if isinstance(settings, OnnxSettings | LlamaCppSettings):
        yield from ({"slots": count} for count in range(settings.slots - 1, 0, -1))
    elif isinstance(settings, VllmSettings) and settings.device == "cpu":
        size = settings.kv_cache_gib / 2
        while size >= 0.125:
            yield {"kv_cache_gib": round(size, 3)}
            size /= 2


def _list_contexts(settings: EngineSettings) -> Iterator[dict[str, Any]]:
    if isinstance(settings, VllmSettings):
        return  # its cache has a size of its own
    length = settings.max_model_len // 2
    while length >= _LEAST_CONTEXT:
        yield {"max_model_len": length}
        length //= 2


def _list_precisions(settings: EngineSettings) -> Iterator[dict[str, Any]]:
    if isinstance(settings, OnnxSettings) and settings.exported is None:
        yield from ({"precision": name} for name in _below(settings.precision, ("fp32", "int8", "int4_mixed", "int4")))
    elif isinstance(settings, LlamaCppSettings) and settings.exported is None and settings.gguf is None:
        yield from ({"precision": name} for name in _below(settings.precision, ("f32", "f16", "q8_0", "q4_0")))
    elif isinstance(settings, VllmSettings) and settings.device == "cpu" and settings.dtype == "float32":
        yield {"dtype": "bfloat16"}


def _below(name: str, ordered: tuple[str, ...]) -> tuple[str, ...]:
    return ordered[ordered.index(name) + 1 :]


def _change(settings: EngineSettings, changes: dict[str, Any]) -> EngineSettings | None:
    """Return the settings with changes; None where their own rules refuse them."""
    try:
        return type(settings).model_validate(settings.model_dump() | changes)
    except ValidationError:
        return None


def _describe(kind: str, name: str, changes: tuple[str, ...], after: Plan) -> Edit:
    size = next((each.size.total_bytes for each in after.groups if each.name == name), 0.0)
    return Edit(
        kind=kind,
        group=name,
        changes=changes,
        replica_bytes=size,
        total_bytes=after.most.memory_bytes,
        suffices=after.most.fits and after.least.fits,
    )


_ORDER = ("precision", "slots", "context", "replicas")
"""Kinds of edits, the first to try first where several are needed."""


def _combine(plan: Plan) -> list[Edit]:
    """Return steps that save something, one after the other, until everything fits or nothing saves any more."""
    steps: list[Edit] = []
    while not plan.fits and len(steps) < len(_ORDER) * len(plan.groups):
        tried = [each for group in plan.groups for each in _try_group(plan, group)]
        tried = [each for each in tried if each[0].suffices or each[0].total_bytes < plan.most.memory_bytes]
        if not tried:
            break
        edit, plan = min(tried, key=lambda each: (not each[0].suffices, _ORDER.index(each[0].kind), each[0].total_bytes))
        steps.append(edit)
    return steps


def _combine_removing(plan: Plan) -> list[Edit]:
    """Return steps after which everything fits, with as few groups removed as that needs, the largest first; [] for none."""
    steps = _combine(plan)
    if steps and steps[-1].suffices:
        return steps
    removals = [each for group in plan.groups for each in _try_removal(plan, group)]
    if not removals:
        return []
    removal, after = min(removals, key=lambda each: each[0].total_bytes)
    if after.fits:
        return [removal]
    rest = _combine_removing(after)
    return [removal, *rest] if rest else []
