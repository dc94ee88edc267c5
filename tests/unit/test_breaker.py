"""Breakers open, probe and close as configured, whatever the order of events."""

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.config import BreakerSettings
from serve_app.routing.breaker import Breaker, Breakers, BreakerState

SETTINGS = BreakerSettings()


def _record(breaker: Breaker, outcomes: list[bool], now: float = 0.0) -> None:
    for ok in outcomes:
        ticket = breaker.admit(now)
        assert ticket is not None
        breaker.record(ticket, ok=ok, now=now)


def _opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(SETTINGS)
    _record(breaker, [False] * 5, now)
    return breaker


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    breaker = Breaker(SETTINGS.model_copy(update={"min_requests": 100}))
    _record(breaker, [False] * 4)
    assert breaker.state(0) is BreakerState.CLOSED
    _record(breaker, [False])
    assert breaker.state(0) is BreakerState.OPEN
    assert breaker.admit(29.9) is None
    assert breaker.retry_after_s(10) == 20


def test_half_of_five_open_it_and_less_does_not() -> None:
    breaker = Breaker(SETTINGS)
    _record(breaker, [True, False, True, False, True])
    assert breaker.state(0) is BreakerState.CLOSED
    _record(breaker, [False])
    assert breaker.state(0) is BreakerState.OPEN


def test_what_left_the_window_does_not_count() -> None:
    breaker = Breaker(SETTINGS)
    _record(breaker, [False] * 4, now=0)
    _record(breaker, [True, True, True, False], now=31)
    assert breaker.state(31) is BreakerState.CLOSED


def test_after_thirty_seconds_one_probe_goes_at_a_time_and_two_close_it() -> None:
    breaker = _opened()
    assert breaker.state(30) is BreakerState.HALF_OPEN
    first = breaker.admit(30)
    assert first is not None
    assert breaker.admit(31) is None
    breaker.record(first, ok=True, now=32)
    assert breaker.state(32) is BreakerState.HALF_OPEN
    _record(breaker, [True], now=33)
    assert breaker.state(33) is BreakerState.CLOSED


def test_a_failed_probe_opens_it_for_the_whole_time_again() -> None:
    breaker = _opened()
    _record(breaker, [False], now=40)
    assert breaker.state(69.9) is BreakerState.OPEN
    assert breaker.state(70) is BreakerState.HALF_OPEN


def test_a_probe_that_says_nothing_makes_room_for_the_next() -> None:
    breaker = _opened()
    probe = breaker.admit(30)
    assert probe is not None
    breaker.release(probe)
    lost = breaker.admit(30)
    assert lost is not None
    assert breaker.admit(59) is None
    assert breaker.admit(60) is not None, "a probe that never comes back does not block for ever"


def test_outcomes_of_requests_from_before_it_opened_do_not_count() -> None:
    breaker = Breaker(SETTINGS)
    old = [breaker.admit(0) for _ in range(10)]
    _record(breaker, [False] * 5)
    for ticket in old:
        assert ticket is not None
        breaker.record(ticket, ok=True, now=30)
    assert breaker.state(30) is BreakerState.HALF_OPEN
    assert breaker.admit(30) is not None


def test_keys_do_not_share_and_the_unused_are_forgotten() -> None:
    breakers: Breakers[str] = Breakers(SETTINGS)
    _record(breakers["a"], [False] * 5)
    assert not breakers.admits("a", 1)
    assert breakers.admits("b", 1)
    for number in range(2000):
        breakers[str(number)].admit(1)
    assert len(breakers._breakers) <= 1024


EVENTS = st.lists(st.tuples(st.sampled_from(["admit", "ok", "fail", "release"]), st.floats(0, 20)), max_size=80)


@settings(deadline=None)
@given(EVENTS)
def test_the_contract_holds_for_any_history(events: list[tuple[str, float]]) -> None:
    """While open nothing passes; while half-open no two probes within open_s; it closes only after two good probes in a row."""
    breaker, now = Breaker(SETTINGS), 0.0
    out: list = []
    probes_out: list[float] = []
    good = 0
    for kind, pause in events:
        now += pause
        before = breaker.state(now)
        if kind == "admit":
            ticket = breaker.admit(now)
            assert not (ticket and before is BreakerState.OPEN)
            if ticket and before is BreakerState.HALF_OPEN:
                assert not probes_out or now - probes_out[-1] >= SETTINGS.open_s
                probes_out.append(now)
            if ticket:
                out.append((ticket, before))
        elif out:
            ticket, admitted_as = out.pop(0)
            current = ticket.epoch == breaker._epoch
            if kind == "release":
                breaker.release(ticket)
            else:
                breaker.record(ticket, ok=kind == "ok", now=now)
            if current and admitted_as is BreakerState.HALF_OPEN:
                probes_out.clear()
                good = good + 1 if kind == "ok" else (0 if kind == "fail" else good)
        after = breaker.state(now)
        if before is BreakerState.HALF_OPEN and after is BreakerState.CLOSED:
            assert good >= SETTINGS.successes
        if after is not BreakerState.HALF_OPEN:
            probes_out.clear()
        if after is BreakerState.CLOSED:
            good = 0
