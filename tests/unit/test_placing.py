"""Which replica takes a request."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.routing.placing import choose_replica
from serve_app.types import Placement


def test_a_conversation_has_one_home_and_conversations_spread() -> None:
    idle = {"a": 0, "b": 0, "c": 0}
    homes = {str(key): {choose_replica(Placement(affinity=str(key)), idle, 8) for _ in range(5)} for key in range(300)}
    assert all(len(home) == 1 for home in homes.values())
    spread = Counter(home.pop() for home in homes.values())
    assert min(spread.values()) > 60


def test_the_end_of_a_replica_moves_its_own_conversations_only() -> None:
    for key in map(str, range(100)):
        before = choose_replica(Placement(affinity=key), {"a": 0, "b": 0, "c": 0}, 8)
        after = choose_replica(Placement(affinity=key), {"a": 0, "b": 0}, 8)
        assert before == "c" or after == before


def test_an_overloaded_home_is_left() -> None:
    wanted = Placement(affinity="x")
    home = choose_replica(wanted, {"a": 0, "b": 0}, 8)
    other = "b" if home == "a" else "a"
    assert choose_replica(wanted, {home: 8, other: 0}, 8) == home
    assert choose_replica(wanted, {home: 9, other: 0}, 8) == other


def test_the_less_busy_is_taken_without_an_affinity() -> None:
    assert choose_replica(Placement(), {"a": 3, "b": 2}, 8) == "b"


replicas = st.sets(st.sampled_from("abcdef"), min_size=1)


@settings(deadline=None)
@given(replicas, replicas, replicas, st.sampled_from(["", *"abcdef"]), st.sampled_from(["", "x"]), st.integers())
def test_what_is_to_be_avoided_is_taken_only_when_nothing_else_is_left(
    known: set[str], avoid: set[str], passed: set[str], prefer: str, affinity: str, seed: int
) -> None:
    random.seed(seed)
    placement = Placement(prefer=prefer, avoid=frozenset(avoid), affinity=affinity)
    chosen = choose_replica(placement, dict.fromkeys(known, 0), 8, passed)
    assert chosen in known
    if known - avoid:
        assert chosen not in avoid
    if known - avoid - passed:
        assert chosen not in passed
    if prefer in known - avoid - passed:
        assert chosen == prefer
