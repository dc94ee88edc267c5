"""What the scripted server sends has the form of its examples: a contract test over the examples covers all that the page gets."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.access.operator import find_operators
from serve_app.operations.base import Bounds
from serve_app.operations.history import History
from serve_app.reports import Mishap, PhaseChange, ReplicaProcess
from tests.pages import ops_data as data
from tests.pages.ops_world import World
from tests.unit.app import running


@pytest.fixture
def world() -> World:
    world = World(data.NOW)
    for _ in range(20):
        world.tick(2)
    return world


def _keys(value: Any) -> Any:
    """Return the names in a value and below; of lists those of the first entry. What is not a dict or a list has none."""
    if isinstance(value, dict):
        return {name: _keys(below) for name, below in value.items()}
    return [_keys(value[0])] if isinstance(value, list) and value else None


def test_states_have_the_form_of_the_example(world: World) -> None:
    state = world.snapshot()
    assert state.keys() == data.STATE.keys()
    (group,) = data.STATE["groups"]
    (replica,) = group["replicas"]
    for each in state["groups"]:
        assert each.keys() == group.keys()
        for one in each["replicas"]:
            assert one.keys() == replica.keys()
            assert one["phase"] == one["timeline"][-1]["phase"]
            assert _keys(one["timeline"]) == _keys(replica["timeline"])
    assert {each["phase"] for each in state["groups"]} == {"ready", "loading", "failed", "draining", "asleep"}
    assert {each["phase"] for each in state["groups"]} <= set(data.PHASES)
    assert _keys(state["live"]) == _keys(data.STATE["live"])
    assert _keys(state["ingresses"]) == _keys(data.STATE["ingresses"])


def test_requests_points_and_stories_have_the_form_of_their_examples(world: World) -> None:
    assert {frozenset(each) for each in world.finished} == {frozenset(data.FINISHED)}
    assert {frozenset(each) for each in world.history} == {frozenset(data.POINT)}
    assert {frozenset(each) for each in world.details.values()} == {frozenset(data.DETAIL)}
    assert world.hello().keys() == data.HELLO.keys()
    assert len(world.history) == 90
    assert len(world.hello()["requests"]) == 200


def test_one_seed_is_one_world() -> None:
    assert World(data.NOW).snapshot() == World(data.NOW).snapshot()


async def test_the_application_itself_answers_in_this_form(tmp_path: Path) -> None:
    """The scripted server stands in for the application, so its examples must have the application's own keys."""
    keys_file = tmp_path / "keys.json"
    headers = {"x-operator-token": find_operators(str(keys_file)).read_secret()}
    slow = {"tokens_per_second": 20, "text": "word " * 100}
    extra = {"access": {"keys_file": str(keys_file), "journal_dir": None}, "models_dir": None}
    async with running(extra, a=slow) as app:
        app.cluster.bounds = {"a": Bounds(min=1, max=2)}
        (report,) = app.view.snapshot(time.monotonic()).groups[0].reports
        process = ReplicaProcess(node="n", pid=1, memory_bytes=5)
        steps = (PhaseChange(phase=report.phase, at=data.NOW, reason=""),)
        whole = replace(report, process=process, timeline=steps, mishap=Mishap(at=data.NOW, message="m"))
        app.view.record(whole, time.monotonic())
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        await app.client.post("/v1/chat/completions", json=body, headers={"x-request-id": "one"})
        asking = asyncio.create_task(app.client.post("/v1/chat/completions", json=body | {"max_tokens": 90}))
        while not any(each.has_begun for each in app.gateway.book.live()):
            await asyncio.sleep(0.01)

        async def read(path: str) -> Any:
            return (await app.client.get(f"/v1/operations{path}", headers=headers)).json()

        state, found = await read("/state"), await read("/requests/one")
        requests, logs, configuration = await read("/requests"), await read("/logs"), await read("/configuration")
        asking.cancel()
        history = History()
        history.sample(app.gateway.fleet(), {}, 10)
        point = history.sample(app.gateway.fleet(), app.gateway.book.outcomes, 20)
    assert _keys({name: value for name, value in state.items() if name != "object"}) == _keys(data.STATE)
    assert _keys({name: value for name, value in found.items() if name != "object"}) == _keys(data.DETAIL)
    assert _keys(requests["data"]) == _keys([data.FINISHED])
    assert point is not None
    assert point.keys() == data.POINT.keys()
    assert _keys(logs) == _keys(data.LOGS)
    assert configuration.keys() == data.CONFIGURATION.keys()
