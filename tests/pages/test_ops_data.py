"""What the scripted server sends has the form of its examples: a contract test over the examples covers all that the page gets."""

from typing import Any

import pytest

from tests.pages import ops_data as data
from tests.pages.ops_world import World


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
