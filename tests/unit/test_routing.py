"""Which group is chosen, why, and what is said when none can be."""

import pytest

from serve_app.config import RoutingSettings
from serve_app.conversation import Chat, GenerateRequest, Message, RawText, RawTokens
from serve_app.errors import ContextOverflow, InvalidRequest, NoEngine, Unsupported
from serve_app.routing.fleet import Fleet, FleetView, Group
from serve_app.routing.policy import Policy, Route
from serve_app.routing.tasks import classify
from serve_app.types import (
    Capability,
    Choice,
    Constraint,
    EngineInfo,
    EngineKind,
    EngineLoad,
    Grammar,
    JsonSchema,
    Phase,
    Regex,
    ReplicaReport,
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


def _choose(request: GenerateRequest, *groups: Group, tokens: int = 10, task: Task = Task.MATH) -> Route:
    return POLICY.choose(request, task, tokens, Fleet(groups))


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
    request = _request(sampling=Sampling(**sampling), constraint=constraint)  # type: ignore[arg-type]
    route = _choose(request, _group("vllm"), _group("onnx", capabilities=ALL - {need}))
    assert route == Route(candidates=("vllm",), reason="incapable")


@pytest.mark.parametrize(
    "constraint",
    [
        Choice(("ä",)),
        JsonSchema('{"enum": ["ä", "/ä/"], "pattern": "a", "description": "日本"}'),
        Grammar('start: "ä" "/ü/" // ö /ö/\n| /[a-z]/'),
    ],
)
def test_texts_outside_ascii_are_no_patterns(constraint: Constraint) -> None:
    request = _request(constraint=constraint)
    route = _choose(request, _group("vllm"), _group("onnx", capabilities=ALL - {Capability.UNICODE_PATTERNS}))
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
    assert classify(RawText(text=text)) is task
    chat = Chat(messages=(Message(role="system", content="Write code."), Message(role="user", content=text)))
    assert classify(chat) is task


def test_token_ids_have_no_wording_to_classify() -> None:
    assert classify(RawTokens(ids=(1, 2))) is Task.GENERAL
