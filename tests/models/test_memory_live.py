"""The plan of the shipped configuration against the running application: each group's replicas, and Ray's own processes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.memory import draw_prompts
from serve_app.memory import measure_tree_bytes
from serve_app.sizing.plan import GroupPlan, Plan, build_plan
from serve_app.validation.agreement import Machine
from tests.live import LiveApp, live, shipped_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
BOUND = 0.15
VOCABULARY = 2048
AMPLE = Machine(cpus=64, memory_bytes=float(1 << 40), gpus=0)


@pytest.fixture(scope="module")
def app() -> Iterator[LiveApp]:
    with live(shipped_config()) as app:
        yield app


@pytest.fixture(scope="module")
def plan(app: LiveApp) -> Plan:
    return build_plan(yaml.safe_dump(app.config), AMPLE)


def _fill(app: LiveApp, group: GroupPlan) -> None:
    """Send every replica as many prompts at once as it computes together, each as long as the context."""
    settings: Any = group.settings
    at_once = getattr(settings, "slots", 0) or settings.max_num_seqs
    prompts = draw_prompts(at_once * group.wants.most, settings.max_model_len - 4, VOCABULARY)

    def ask(prompt: tuple[int, ...]) -> None:
        body = {"model": "phi-4-mini-instruct", "prompt": list(prompt), "max_tokens": 2, "ignore_eos": True}
        answer = httpx.post(f"{app.url}/v1/completions", json=body, headers={"x-engine": group.name}, timeout=600)
        assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(len(prompts)) as pool:
        list(pool.map(ask, prompts))


@pytest.mark.parametrize("name", ["llama_cpp", "onnx", "vllm"])
def test_replicas_take_what_the_plan_says(app: LiveApp, plan: Plan, name: str) -> None:
    group = next(each for each in plan.groups if each.name == name)
    _fill(app, group)
    sizes = [measure_tree_bytes(pid) or 0 for pid in app.pids(name)]
    assert len(sizes) == group.wants.most
    planned = group.size.total_bytes
    shown = f"{name}: planned {planned / 2**20:,.0f} MiB, measured {', '.join(f'{size / 2**20:,.0f}' for size in sizes)} MiB"
    print(shown)
    assert sum(sizes) / len(sizes) == pytest.approx(planned, rel=BOUND), shown


def test_all_processes_take_what_the_plan_says(app: LiveApp, plan: Plan) -> None:
    """The replicas are full by now; the processes of this test's own Ray are found by the folder of its session."""
    folder = str(app.temporary.parent)
    measured = {pid: _read_pss(pid) for pid in _list_session(folder)}
    total = sum(measured.values())
    shown = f"planned {plan.most.memory_bytes / 2**20:,.0f} MiB, measured {total / 2**20:,.0f} MiB in {len(measured)} processes"
    print(shown)
    assert total == pytest.approx(plan.most.memory_bytes, rel=BOUND), shown


def _list_session(folder: str) -> Iterator[int]:
    """Yield the processes that carry the session's folder in their command, and their descendants."""
    seen: set[int] = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it ended
            continue
        if folder in command:
            seen |= set(_list_tree(int(place.name)))
    yield from seen


def _list_tree(pid: int) -> Iterator[int]:
    yield pid
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in file.read_text().split():
            yield from _list_tree(int(child))


def _read_pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
