"""Which group is chosen, why, and what is said when none can be."""

from dataclasses import replace

import pytest

from serve_app.config import AppSettings, RoutingSettings
from serve_app.conversation import Chat, GenerateRequest, Message, RawText, RawTokens
from serve_app.engines.throughput import DrainRate
from serve_app.errors import ContextOverflow, InvalidRequest, NoEngine, Overloaded, Unsupported
from serve_app.reports import ReplicaReport
from serve_app.routing.fleet import Fleet, FleetView, Group, Workload
from serve_app.routing.policy import Policy, Route
from serve_app.routing.tasks import classify
from serve_app.types import (
    Capability,
    Constraint,
    EngineInfo,
    EngineKind,
    EngineLoad,
    Grammar,
    JsonSchema,
    OneOf,
    Phase,
    Regex,
    Sampling,
    Task,
)

ALL = frozenset(Capability)


def _info(context: int = 4096, capabilities: frozenset[Capability] = ALL) -> EngineInfo:
    return EngineInfo(kind=EngineKind.FAKE, context_length=context, capabilities=capabilities, max_concurrency=4, precision="none")


def _group(name: str, *, ready: bool = True, context: int = 4096, capabilities: frozenset[Capability] = ALL) -> Group:
    phase = Phase.READY if ready else Phase.LOADING
    return Group(name=name, phase=phase, info=_info(context, capabilities), replicas=int(ready))


def _request(**fields: object) -> GenerateRequest:
    return GenerateRequest(request_id="r", prompts=(RawText(text="x"),), **fields)  # type: ignore[arg-type]


POLICY = Policy(RoutingSettings(prefer={Task.MATH: ("onnx", "vllm")}))


def _choose(
    request: GenerateRequest, *groups: Group, tokens: int = 10, task: Task = Task.MATH, constraint: Constraint | None = None
) -> Route:
    return POLICY.choose(request, task, tokens, Fleet(groups), constraint=constraint)


def test_the_preferred_group_comes_first_and_the_others_follow() -> None:
    route = _choose(_request(), _group("vllm"), _group("llama"), _group("onnx"))
    assert route == Route(candidates=("onnx", "vllm", "llama"), reason="preferred")


def test_without_a_preference_the_configured_order_counts() -> None:
    route = _choose(_request(), _group("vllm"), _group("onnx"), task=Task.CODING)
    assert route.candidates == ("vllm", "onnx")


def test_a_group_named_by_the_client_wins_alone() -> None:
    route = _choose(_request(group="vllm"), _group("vllm"), _group("onnx"))
    assert route == Route(candidates=("vllm",), reason="requested")


def test_a_group_that_is_not_ready_is_passed_over() -> None:
    assert _choose(_request(), _group("vllm"), _group("onnx", ready=False)) == Route(candidates=("vllm",), reason="not-ready")


def test_a_group_with_too_little_context_is_passed_over() -> None:
    route = _choose(_request(), _group("vllm"), _group("onnx", context=100), tokens=100)
    assert route == Route(candidates=("vllm",), reason="too-long")


def test_a_group_without_the_capability_is_passed_over() -> None:
    request = _request(sampling=Sampling(logprobs=1))
    route = _choose(request, _group("vllm"), _group("onnx", capabilities=frozenset()))
    assert route == Route(candidates=("vllm",), reason="incapable")


@pytest.mark.parametrize(
    ("need", "sampling", "constraint"),
    [
        (Capability.OUTPUT_PENALTIES, {"presence_penalty": 0.5}, None),
        (Capability.OUTPUT_PENALTIES, {"frequency_penalty": -0.5}, None),
        (Capability.STRUCTURED, {}, Regex("[a-z]+")),
        (Capability.STRUCTURED_MIN_TOKENS, {"min_tokens": 2}, Regex("[a-z]+")),
        (Capability.UNICODE_PATTERNS, {}, Regex("[ä-ü]+")),
        (Capability.UNICODE_PATTERNS, {}, JsonSchema('{"type": "string", "pattern": "[ä-ü]+"}')),
        (Capability.UNICODE_PATTERNS, {}, JsonSchema('{"type": "string", "pattern": "\\u00e4+"}')),
        (Capability.UNICODE_PATTERNS, {}, JsonSchema('{"patternProperties": {"ä": {}}}')),
        (Capability.UNICODE_PATTERNS, {}, Grammar("start: /ä+/")),
        (Capability.UNICODE_PATTERNS, {}, Grammar('start: a\na: %json {"type": "string", "pattern": "ä"}')),
    ],
)
def test_what_a_request_needs(need: Capability, sampling: dict[str, float], constraint: Constraint | None) -> None:
    request = _request(sampling=Sampling(**sampling))  # type: ignore[arg-type]
    route = _choose(request, _group("vllm"), _group("onnx", capabilities=ALL - {need}), constraint=constraint)
    assert route == Route(candidates=("vllm",), reason="incapable")


@pytest.mark.parametrize(
    "constraint",
    [
        OneOf(("ä",)),
        JsonSchema('{"enum": ["ä", "/ä/"], "pattern": "a", "description": "日本"}'),
        Grammar('start: "ä" "/ü/" // ö /ö/\n| /[a-z]/'),
    ],
)
def test_texts_outside_ascii_are_no_patterns(constraint: Constraint) -> None:
    able = _group("onnx", capabilities=ALL - {Capability.UNICODE_PATTERNS})
    route = _choose(_request(), _group("vllm"), able, constraint=constraint)
    assert route.reason == "preferred"


def test_an_optional_constraint_needs_nothing() -> None:
    request, optional = _request(sampling=Sampling(min_tokens=2)), Grammar("start: /ä+/", optional=True)
    route = _choose(request, _group("vllm"), _group("onnx", capabilities=frozenset()), constraint=optional)
    assert route.reason == "preferred"


def test_a_prompt_that_fits_nowhere_is_refused_with_the_numbers() -> None:
    with pytest.raises(ContextOverflow, match=r"200 tokens.*300 tokens"):
        _choose(_request(), _group("vllm", context=100), _group("onnx", context=200), tokens=300)


def test_nobody_ready_is_a_retryable_refusal_that_names_the_phases() -> None:
    with pytest.raises(NoEngine, match="onnx is loading; vllm is loading") as refused:
        _choose(_request(), _group("vllm", ready=False), _group("onnx", ready=False))
    assert refused.value.retry_after_s


def test_nobody_able_is_a_client_error() -> None:
    with pytest.raises(Unsupported, match="incapable"):
        _choose(_request(sampling=Sampling(logit_bias={1: 1.0})), _group("onnx", capabilities=frozenset()))


def test_an_unknown_group_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="configured are: vllm, onnx"):
        _choose(_request(group="gpu"), _group("vllm"), _group("onnx"))


def _report(phase: Phase, replica: str = "a", reason: str = "", running: int = 0) -> ReplicaReport:
    load = EngineLoad(running=running)
    return ReplicaReport(group="onnx", replica_id=replica, phase=phase, reason=reason, info=_info(), load=load)


def test_a_fleet_is_ready_when_every_configured_group_is() -> None:
    view = FleetView(("onnx", "vllm"), 5)
    view.record(_report(Phase.READY), 0)
    fleet = view.snapshot(1)
    assert [group.phase for group in fleet.groups] == [Phase.READY, Phase.STARTING]
    assert not fleet.ready


def test_loads_add_up_over_replicas_and_silent_ones_are_forgotten() -> None:
    view = FleetView(("onnx",), 5)
    view.record(_report(Phase.READY, "a", running=1), 0)
    view.record(_report(Phase.READY, "b", running=2), 4)
    assert view.snapshot(4).groups[0].load.running == 3
    assert view.snapshot(6).groups[0].load.running == 2
    assert not view.snapshot(10).ready


def test_the_phase_is_that_of_the_replica_nearest_to_ready() -> None:
    view = FleetView(("onnx",), 5)
    view.record(_report(Phase.LOADING, "a"), 0)
    view.record(_report(Phase.WARMING, "b"), 0)
    assert view.snapshot(0).groups[0].phase is Phase.WARMING


def test_a_failure_is_told_until_a_replica_is_ready() -> None:
    view = FleetView(("onnx",), 5)
    view.record(_report(Phase.FAILED, "a", "no memory"), 0)
    assert view.snapshot(20).groups[0] == Group(name="onnx", phase=Phase.FAILED, reason="no memory")
    view.record(_report(Phase.LOADING, "b"), 20)
    assert "no memory" in view.snapshot(20).groups[0].reason
    view.record(_report(Phase.READY, "b"), 21)
    assert view.snapshot(21).groups[0].reason == ""


def test_reports_of_unknown_groups_are_ignored() -> None:
    view = FleetView(("vllm",), 5)
    view.record(_report(Phase.READY), 0)
    assert not view.snapshot(0).ready


def _asleep(name: str, phase: Phase = Phase.ASLEEP) -> Group:
    return Group(name=name, phase=phase, info=_info(), sleeps=True)


def test_a_group_that_sleeps_is_left_asleep_while_another_can_answer() -> None:
    route = _choose(_request(), _group("vllm"), _asleep("onnx"))
    assert route == Route(candidates=("vllm", "onnx"), reason="asleep")


@pytest.mark.parametrize("phase", [Phase.ASLEEP, Phase.STARTING, Phase.LOADING, Phase.WARMING])
def test_a_group_that_sleeps_is_woken_when_no_other_can_answer(phase: Phase) -> None:
    route = _choose(_request(), _group("vllm", ready=False), _asleep("onnx", phase))
    assert route == Route(candidates=("onnx",), reason="waking")


def test_a_group_that_sleeps_is_woken_when_the_client_names_it() -> None:
    route = _choose(_request(group="onnx"), _group("vllm"), _asleep("onnx"))
    assert route == Route(candidates=("onnx",), reason="requested")


def test_a_group_that_sleeps_is_woken_when_the_others_would_be_late() -> None:
    busy = replace(_group("vllm"), drain_rate=1.0, load=EngineLoad(running=4, waiting=100))
    assert _choose(_request(timeout_s=5), busy, _asleep("onnx")) == Route(candidates=("onnx", "vllm"), reason="waking")
    with pytest.raises(Overloaded):
        _choose(_request(timeout_s=5), busy, _group("onnx", ready=False))


def test_a_sleeping_group_without_the_capability_is_not_woken() -> None:
    view = FleetView(("onnx",), 5, sleeping=("onnx",))
    view.record(replace(_report(Phase.READY), info=_info(context=100)), 0)
    (group,) = view.snapshot(20).groups
    assert group.phase is Phase.ASLEEP
    with pytest.raises(ContextOverflow):
        _choose(_request(), group, tokens=200)


def test_a_fleet_whose_groups_sleep_is_ready() -> None:
    view = FleetView(("onnx",), 5, sleeping=("onnx",))
    assert view.snapshot(0).ready
    view.record(_report(Phase.LOADING), 0)
    assert view.snapshot(1).groups[0].phase is Phase.LOADING
    view.record(_report(Phase.FAILED, reason="no memory"), 2)
    assert not view.snapshot(3).ready
    assert view.snapshot(20).groups[0].phase is Phase.ASLEEP


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (
            "A train travels 240 km in 3 hours. If it increases its speed by 20 km/h, how long would the same journey take?",
            Task.MATH,
        ),
        ("Solve this step by step: If compound interest on $5000 at 6% annually for 3 years, what is the final amount?", Task.MATH),
        ("Write a Python function to calculate the Fibonacci sequence using dynamic programming.", Task.CODING),
        ("Implement binary search with detailed comments", Task.CODING),
        ("All cats are mammals. Some mammals are carnivores. Can we conclude that some cats are carnivores?", Task.REASONING),
        ("Anna is taller than Ben. Ben is taller than Carl. Who is the tallest?", Task.REASONING),
        ("Hello, who are you?", Task.GENERAL),
        ("", Task.GENERAL),
    ],
)
def test_classify_tells_the_tutorials_tasks_apart(text: str, task: Task) -> None:
    assert classify(RawText(text=text)).task is task
    chat = Chat(messages=(Message(role="system", content="Write code."), Message(role="user", content=text)))
    assert classify(chat).task is task


def test_token_ids_have_no_wording_to_classify() -> None:
    assert classify(RawTokens(ids=(1, 2))).task is Task.GENERAL


def _busy(name: str, rate: float | None, running: int = 0, waiting: int = 0, sent: int = 0, stream: float | None = None) -> Group:
    load = EngineLoad(running=running, waiting=waiting)
    return replace(_group(name), drain_rate=rate, stream_rate=stream, load=load, sent=sent, sent_tokens=128.0 * sent)


def test_a_much_shorter_wait_overrules_the_preference_and_the_numbers_are_told() -> None:
    route = _choose(_request(), _busy("vllm", 50.0, running=1), _busy("onnx", 100.0, running=4, waiting=10))
    assert route == Route(candidates=("vllm", "onnx"), reason="shorter-wait")
    onnx, vllm = route.considered
    # Four slots: 11 of the 14 have to end first. They are (4 / 2 + 10) x 128 tokens, 100 a second.
    assert onnx.wait_s == pytest.approx(11 / 14 * 12 * 128 / 100)
    # A free slot: no wait, and half of the 50 a second for the 128 tokens and the prompt's 10.
    assert (vllm.ahead, vllm.wait_s, vllm.finish_s) == (1, 0.0, pytest.approx((128 + 0.25 * 10) / 25))


def test_a_slower_group_is_not_chosen_for_having_fewer_requests() -> None:
    route = _choose(_request(), _busy("vllm", 10.0), _busy("onnx", 600.0, running=4, waiting=8))
    assert route.reason == "preferred"


def test_a_stream_is_no_faster_alone_than_it_ever_was() -> None:
    onnx, vllm = _choose(_request(), _busy("vllm", 100.0, stream=20.0), _busy("onnx", 100.0)).considered
    assert vllm.finish_s == pytest.approx(5 * (onnx.finish_s or 0))


def test_a_wait_beyond_the_client_s_time_is_refused_at_once() -> None:
    groups = _busy("vllm", 10.0, running=4, waiting=20), _busy("onnx", 100.0, running=4, waiting=20)
    assert _choose(_request(timeout_s=40.0), *groups)
    with pytest.raises(Overloaded, match="within its 20 s") as refused:
        _choose(_request(timeout_s=20.0), *groups)
    assert refused.value.retry_after_s == pytest.approx(21 / 24 * 22 * 128 / 100 + 130.5 / 25 - 20)
    assert _choose(_request(timeout_s=20.0), _busy("vllm", None), groups[1]), "nothing is known of the other"
    assert _choose(_request(timeout_s=0.1), _busy("onnx", 0.1)), "an idle one may prove its estimate wrong"


def test_a_short_wait_is_good_enough() -> None:
    route = _choose(_request(), _busy("vllm", 5000.0), _busy("onnx", 200.0))
    assert route.reason == "preferred"


def test_an_idle_group_of_unknown_speed_is_tried_once() -> None:
    waiting = _busy("onnx", 100.0, running=4, waiting=10)
    assert _choose(_request(), _busy("vllm", None), waiting).reason == "shorter-wait"
    assert _choose(_request(), _busy("vllm", None, sent=1), waiting).reason == "preferred"


def test_work_sent_since_the_last_report_counts() -> None:
    work, fleet = Workload(), Fleet((replace(_group("onnx"), reported_s=10.0),))
    work.send("onnx", 100.0, 9.0)
    done = work.send("onnx", 7.0, 10.5)
    work.send("onnx", 50.0, 11.0)
    assert [(group.sent, group.sent_tokens) for group in work.annotate(fleet, 11.5).groups] == [(2, 57.0)]
    work.end(done)
    assert [(group.sent, group.sent_tokens) for group in work.annotate(fleet, 11.5).groups] == [(1, 50.0)]


def test_lengths_are_learned_per_task() -> None:
    work = Workload()
    work.record_answer(Task.MATH, 10)
    work.record_answer(Task.CODING, 400)
    fleet = work.annotate(Fleet((_busy("onnx", 1.0),)), 0.0)
    policy = Policy(RoutingSettings(prompt_weight=0))
    tokens = [policy.choose(_request(), task, 10, fleet).work for task in (Task.MATH, Task.CODING, Task.GENERAL)]
    assert tokens == [10, 400, pytest.approx(10 + 0.05 * 390)]
    capped = policy.choose(_request(sampling=Sampling(max_tokens=50)), Task.CODING, 10, fleet)
    assert capped.work == 50


def test_an_open_breaker_passes_a_group_over_and_alone_refuses_for_a_while() -> None:
    route = _choose(_request(), _group("vllm"), replace(_group("onnx"), blocked=True))
    assert route == Route(candidates=("vllm",), reason="breaker-open")
    with pytest.raises(NoEngine, match="onnx failed too often") as refused:
        _choose(_request(), replace(_group("onnx"), blocked=True))
    assert refused.value.retry_after_s


def test_a_model_may_be_kept_to_some_groups() -> None:
    fleet = Fleet((_group("vllm"), _group("onnx")))
    restricted = POLICY.choose(_request(), Task.MATH, 1, fleet, allowed=("vllm",))
    assert restricted == Route(candidates=("vllm",), reason="restricted")
    assert POLICY.choose(_request(), Task.MATH, 1, fleet, allowed=("vllm", "onnx")).reason == "preferred"
    with pytest.raises(Unsupported, match="onnx: restricted"):
        POLICY.choose(_request(group="onnx"), Task.MATH, 1, fleet, allowed=("vllm",))


def _rated(rate: float, *, running: int = 1, waiting: int = 0, replica: str = "a") -> ReplicaReport:
    load = EngineLoad(running=running, waiting=waiting, drain_rate=rate)
    return ReplicaReport(group="onnx", replica_id=replica, phase=Phase.READY, info=_info(), load=load)


def test_the_drain_rate_is_smoothed_and_falls_only_under_full_load() -> None:
    view = FleetView(("onnx",), 5)
    assert view.snapshot(0).groups[0].drain_rate is None
    view.record(_rated(100), 0)
    view.record(_rated(50), 1)
    assert view.snapshot(1).groups[0].drain_rate == 100, "one request alone shows less than the engine can do"
    view.record(_rated(50, running=4, waiting=3), 2)
    assert view.snapshot(2).groups[0].drain_rate == pytest.approx(85)
    view.record(_report(Phase.READY, "b"), 2)
    assert view.snapshot(2).groups[0].drain_rate == pytest.approx(170), "a replica not yet measured is taken to be like the others"


def test_a_replica_that_fell_silent_is_remembered_until_it_speaks_again() -> None:
    view = FleetView(("onnx",), 5)
    view.record(_rated(1, replica="a"), 0)
    view.record(_rated(1, replica="b"), 4)
    group = view.snapshot(8).groups[0]
    assert (group.silent, group.replica_ids) == ({"a"}, ("b",))
    view.record(_rated(1, replica="a"), 9)
    assert view.snapshot(9).groups[0].silent == frozenset()


def test_busy_time_is_what_the_drain_rate_divides_by() -> None:
    now = 0.0
    rate = DrainRate(clock=lambda: now)
    assert rate.rate() == 0.0
    rate.enter()
    now = 2.0
    rate.add(20)
    rate.leave()
    now = 100.0
    assert rate.rate() == 10.0
    rate.enter()
    rate.enter()
    now = 102.0
    rate.add(60)
    assert rate.rate() == 20.0
    assert rate.stream_rate() == pytest.approx(80 / 6), "two of the four seconds had two streams"


@pytest.mark.parametrize("routing", [{"prefer": {"math": ["gpu"]}}, {"models": {"m": ["gpu"]}}])
def test_a_group_that_is_not_configured_is_refused_by_name(routing: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no engine group 'gpu'; configured are: onnx"):
        AppSettings.model_validate({"engines": {"onnx": {"kind": "fake"}}, "routing": routing})
