"""Further tries stay within the share of traffic and the reserve, whatever the order of events."""

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.routing.retry_budget import RetryBudget


def test_twenty_percent_of_the_traffic() -> None:
    budget = RetryBudget(0.2, 0)
    for _ in range(100):
        budget.deposit(0.0)
    assert [budget.withdraw(0.0) for _ in range(2)] == [True, False], "not saved up beyond the reserve"
    granted = 0
    for _ in range(1000):
        budget.deposit(0.0)
        granted += budget.withdraw(0.0)
    assert 198 <= granted <= 200


def test_the_reserve_serves_a_burst_and_comes_back_within_a_minute() -> None:
    budget = RetryBudget(0.2, 8)
    budget.deposit(0.0)
    assert sum(budget.withdraw(0.0) for _ in range(20)) == 8
    assert sum(budget.withdraw(30.0) for _ in range(20)) == 4
    assert sum(budget.withdraw(120.0) for _ in range(20)) == 8


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=200), st.integers(0, 10))
def test_the_bound_holds_for_any_history(events: list[tuple[bool, float]], reserve: int) -> None:
    budget, now, requests, granted = RetryBudget(0.2, reserve), 0.0, 0, 0
    for is_request, pause in events:
        now += pause
        if is_request:
            budget.deposit(now)
            requests += 1
        else:
            granted += budget.withdraw(now)
        assert granted <= 0.2 * requests + reserve * (1 + now / 60) + 1e-6
