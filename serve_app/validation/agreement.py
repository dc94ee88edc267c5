"""Checks that both halves of the configuration fit together, and that the machine is large enough. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.validation.applications import INGRESS, list_deployments, read_wants
from serve_app.validation.findings import Finding, Place, suggest
from serve_app.validation.text import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What all nodes have together, and the largest has alone."""

    cpus: float
    memory_bytes: float
    gpus: float
    nodes: int = 1


def check_agreement(document: Document, place: Place, application: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield groups without a deployment, and deployments without a group."""
    args = application.get("args")
    given = args.get("engines") if isinstance(args, dict) else None
    groups = [name for name in given if isinstance(name, str)] if isinstance(given, dict) else []
    named = {each["name"]: at for at, each in enumerate(list_deployments(application))}
    spare = set(named) - {INGRESS, *groups}
    for group in groups:
        if group not in named:
            near = f"; {suggest(group, spare)}" if spare else ""
            fix = f"add `- name: {group}` under deployments, with ray_actor_options{near}"
            yield document.report((*place, "args", "engines", group), f"the group '{group}' has no deployment of its name", fix)
    for name in sorted(spare):
        problem = f"the deployment '{name}' is neither the ingress nor a group under args.engines"
        yield document.report((*place, "deployments", named[name], "name"), problem, suggest(name, [INGRESS, *groups]))


def check_size(document: Document, place: Place, application: Mapping[str, Any], machine: Machine) -> Iterator[Finding]:
    """Yield replicas that no node can hold, and deployments that together need more than the nodes have."""
    total = {"num_cpus": 0.0, "num_gpus": 0.0, "memory": 0.0}
    has = {"num_cpus": machine.cpus, "num_gpus": machine.gpus, "memory": machine.memory_bytes}
    for at, deployment in enumerate(list_deployments(application)):
        each = read_wants(deployment)
        wants = {"num_cpus": each.cpus, "num_gpus": each.gpus, "memory": each.memory_bytes}
        for name, amount in wants.items():
            total[name] += each.least * amount
            node_has = has[name] / machine.nodes
            if amount > node_has:
                yield document.report(
                    (*place, "deployments", at, "ray_actor_options", name),
                    f"a replica of '{deployment['name']}' wants {_show(name, amount)}, and a node has {_show(name, node_has)}",
                    "such a replica never starts; lower the number, or give larger nodes",
                )
    for name, amount in total.items():
        if amount > has[name] + 1e-9:
            yield document.report(
                (*place, "deployments"),
                f"all replicas at their least number want {_show(name, amount)} together, and there are {_show(name, has[name])}",
                "lower the numbers of replicas or what each wants",
            )


def _show(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / 2**30:.1f} GiB"
    return f"{amount:g} {'cores' if name == 'num_cpus' else 'GPUs'}"
