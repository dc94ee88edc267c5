"""The plan of a configuration: what each replica takes, what all take together with Ray, and what does not fit where.

Ray places replicas by the cores and GPUs that they ask for, and by memory only where `ray_actor_options.memory` is set. The plan
places them by what they take: the largest first, each on the first node that has room. Pure but for the models' config.json.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from serve_app.config import AppSettings
from serve_app.engine_config import EngineSettings
from serve_app.errors import ModelUnusable
from serve_app.sizing.engines import ReplicaSize, estimate_replica
from serve_app.sizing.ray_processes import HEAD, NODE, estimate_ingress_bytes
from serve_app.sizing.shape import ModelFiles, find_model
from serve_app.validation.agreement import Machine
from serve_app.validation.applications import INGRESS, Application, Wants, read_applications, read_wants
from serve_app.validation.findings import Finding
from serve_app.validation.text import read_document


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """One deployment: an engine group, or the ingress."""

    name: str
    kind: str
    """The kind of engine, or `ingress`."""
    model: str
    """The name of its model; empty for the ingress."""
    settings: EngineSettings | None
    """The group's settings; None for the ingress."""
    size: ReplicaSize
    """One replica."""
    wants: Wants
    """What it asks Ray for, and how many replicas there are."""
    threads: int
    """Threads that compute in one replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """All replicas at one number of them, and Ray's processes on all nodes."""

    replicas: int
    memory_bytes: float
    cpus: float
    """Cores that the replicas ask Ray for."""
    threads: int
    """Threads of the engines that compute at once when all are busy."""
    gpus: float
    unplaced: Mapping[str, int]
    """Replicas, by group, that no node has room for."""
    why: str
    """Why not, in a sentence; empty where all have room."""

    @property
    def fits(self) -> bool:
        """Whether every replica has room."""
        return not self.unplaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole configuration on the given nodes."""

    machine: Machine
    groups: tuple[GroupPlan, ...] = ()
    ray: Mapping[str, float] = field(default_factory=dict)
    """Bytes of Ray's own processes on all nodes, by what they are."""
    least: Total
    """At the least number of replicas, which is that of the start."""
    most: Total
    """At the most number that autoscaling allows."""
    findings: tuple[Finding, ...] = ()
    """Mistakes of the file, for which there is no plan."""
    notes: tuple[str, ...] = ()
    """What is worth knowing, although it fits."""

    @property
    def fits(self) -> bool:
        """Whether everything has room, and there are no mistakes."""
        return self.most.fits and self.least.fits and not self.findings

    @property
    def exported_bytes(self) -> float:
        """Bytes of the forms that the groups export into the cache at their first start."""
        return float(sum(group.size.exported_bytes for group in self.groups))


NOTHING = Total(replicas=0, memory_bytes=0.0, cpus=0.0, threads=0, gpus=0.0, unplaced={}, why="")


def build_plan(text: str, machine: Machine) -> Plan:
    """Return the plan of a configuration's text; with mistakes, only these."""
    document = read_document(text)
    applications = read_applications(document) if document.value is not None else []
    findings = [*document.findings, *(finding for each in applications for finding in each.findings)]
    if not applications and not findings:
        findings.append(document.report(("applications",), "there is no application", "list one under applications"))
    groups: list[GroupPlan] = []
    for each in applications:
        if each.settings is None or findings:
            continue
        models: dict[str, ModelFiles] = {}
        for name, model in each.settings.models.items():
            place = (*each.place, "args", "models", name, "path")
            try:
                models[name] = find_model(model.path)
            except ModelUnusable as error:
                findings.append(document.report(place, error.message))
        if findings:
            continue
        for name in each.settings.engines:
            try:
                groups.append(_plan_group(each, each.settings, name, models))
            except ModelUnusable as error:
                findings.append(document.report((*each.place, "args", "engines", name), error.message))
        groups.append(_plan_ingress(each, models))
    if findings:
        return Plan(machine=machine, least=NOTHING, most=NOTHING, findings=tuple(sorted(findings)))
    return complete(tuple(groups), machine)


def complete(groups: tuple[GroupPlan, ...], machine: Machine) -> Plan:
    """Return the plan of given groups: their sums, and what has no room."""
    ray = {part: float(size) for part, size in HEAD.items()}
    ray |= {f"{part} (each node)" if machine.nodes > 1 else part: float(size * machine.nodes) for part, size in NODE.items()}
    least = _add_up(groups, machine, {each.name: each.wants.least for each in groups})
    most = _add_up(groups, machine, {each.name: each.wants.most for each in groups})
    return Plan(machine=machine, groups=groups, ray=ray, least=least, most=most, notes=tuple(_list_notes(groups, machine, most)))


def resize(plan: Plan, name: str, settings: EngineSettings) -> Plan:
    """Return the plan with other settings of one group."""
    groups = []
    for each in plan.groups:
        if each.name == name:
            size = estimate_replica(settings, each.size.files)
            groups.append(replace(each, settings=settings, size=size))
        else:
            groups.append(each)
    return complete(tuple(groups), plan.machine)


def _plan_group(application: Application, settings: AppSettings, name: str, models: Mapping[str, ModelFiles]) -> GroupPlan:
    wants = read_wants(application.deployments.get(name, {}))
    group, model = settings.engines[name], settings.model_of(name)
    threads = group.threads or max(1, int(wants.cpus))
    size = estimate_replica(group, models[model])
    return GroupPlan(name=name, kind=str(group.kind), model=model, settings=group, size=size, wants=wants, threads=threads)


def _plan_ingress(application: Application, models: Mapping[str, ModelFiles]) -> GroupPlan:
    wants = read_wants(application.deployments.get(INGRESS, {}))
    size = ReplicaSize(runtime_bytes=estimate_ingress_bytes(models.values()))
    return GroupPlan(name=INGRESS, kind=INGRESS, model="", settings=None, size=size, wants=wants, threads=0)


def _add_up(groups: tuple[GroupPlan, ...], machine: Machine, counts: Mapping[str, int]) -> Total:
    """Place the replicas, the largest first, each on the first node that has room for it."""
    unplaced, why = _place(groups, machine, counts)
    own = sum(HEAD.values()) + machine.nodes * sum(NODE.values())
    return Total(
        replicas=sum(counts.values()),
        memory_bytes=own + sum(counts[each.name] * each.size.total_bytes for each in groups),
        cpus=sum(counts[each.name] * each.wants.cpus for each in groups),
        threads=sum(counts[each.name] * each.threads for each in groups),
        gpus=sum(counts[each.name] * each.wants.gpus for each in groups),
        unplaced=unplaced,
        why=why,
    )


@dataclass(slots=True)
class _Node:
    """What a node has left."""

    memory_bytes: float
    cpus: float
    gpus: float


def _place(groups: tuple[GroupPlan, ...], machine: Machine, counts: Mapping[str, int]) -> tuple[dict[str, int], str]:
    """Return how many replicas of which group have no room, and why the first of them has none."""
    head, node = sum(HEAD.values()), sum(NODE.values())
    nodes = [
        _Node(
            machine.memory_bytes / machine.nodes - node - (0 if at else head),
            machine.cpus / machine.nodes,
            machine.gpus / machine.nodes,
        )
        for at in range(machine.nodes)
    ]
    unplaced: dict[str, int] = {}
    why = ""
    if nodes[0].memory_bytes < 0:
        size = machine.memory_bytes / machine.nodes
        why = f"Ray's own processes take {(head + node) / 2**30:.1f} GiB, and a node has {size / 2**30:.1f}"
    for each in sorted(groups, key=lambda group: -group.size.total_bytes):
        for number in range(counts[each.name]):
            fitting = next((one for one in nodes if not _list_lacks(each, one)), None)
            if fitting is None:
                why = why or _explain(each, nodes)
                unplaced[each.name] = counts[each.name] - number
                break
            fitting.memory_bytes -= each.size.total_bytes
            fitting.cpus -= each.wants.cpus
            fitting.gpus -= each.wants.gpus
    return unplaced, why


_ROUNDING = 1e-9


def _list_lacks(group: GroupPlan, node: _Node) -> list[str]:
    """Return what a node lacks for a replica."""
    lacks = []
    if group.size.total_bytes > node.memory_bytes:
        lacks.append(f"{group.size.total_bytes / 2**30:.1f} GiB of memory (at most {max(0.0, node.memory_bytes) / 2**30:.1f} left)")
    if group.wants.cpus > node.cpus + _ROUNDING:
        lacks.append(f"{group.wants.cpus:g} cores ({node.cpus:.3g} left)")
    if group.wants.gpus > node.gpus + _ROUNDING:
        lacks.append(f"{group.wants.gpus:g} GPUs ({node.gpus:.3g} left)")
    return lacks


def _explain(group: GroupPlan, nodes: list[_Node]) -> str:
    nearest = min(nodes, key=lambda node: (len(_list_lacks(group, node)), -node.memory_bytes))
    where = "the machine has no" if len(nodes) == 1 else "no node has"
    return f"{where} room for a replica of '{group.name}': it needs {' and '.join(_list_lacks(group, nearest))}"


def _list_notes(groups: tuple[GroupPlan, ...], machine: Machine, most: Total) -> Iterator[str]:
    """Yield what fits, but may surprise."""
    if most.threads > machine.cpus:
        yield (
            f"the engines have {most.threads} threads when all are busy, and there are {machine.cpus:g} cores: they share them, "
            "and each is slower beside the others"
        )
    if machine.nodes > 1 and not any(each.wants.memory_bytes for each in groups):
        yield (
            "Ray places replicas by cores and GPUs only: set ray_actor_options.memory to a replica's size in bytes, or several may "
            "land on one node"
        )
    for each in groups:
        if each.wants.memory_bytes and each.size.total_bytes > each.wants.memory_bytes * 1.05:
            yield (
                f"'{each.name}' reserves {each.wants.memory_bytes / 2**30:.1f} GiB (ray_actor_options.memory), and takes about "
                f"{each.size.total_bytes / 2**30:.1f}"
            )
        if each.size.note:
            yield f"'{each.name}': {each.size.note}"
