"""The retry loop over groups of several replicas: engines in this process, chosen as Serve's request router chooses."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from serve_app.attempts import Attempts
from serve_app.chat.text_stream import TextStream
from serve_app.chat.tokenizer import Tokenizer
from serve_app.config import RoutingSettings
from serve_app.conversation import RawText
from serve_app.engine_config import FakeSettings
from serve_app.engines.fake import FakeEngine
from serve_app.errors import ConstraintLost, EngineDead, NoEngine, ServeError
from serve_app.generation import Generation
from serve_app.metrics import IngressMetrics
from serve_app.models.locate import EMBEDDED
from serve_app.models.served import PreparedChoice
from serve_app.record import RequestRecord
from serve_app.reports import ReplicaReport
from serve_app.routing.fleet import FleetView
from serve_app.routing.placing import choose_replica
from serve_app.types import (
    Capability,
    Constraint,
    EngineInfo,
    Finished,
    Grammar,
    OneOf,
    Phase,
    Sampling,
    TokenDelta,
    TokenEvent,
    TokenRequest,
)

TOKENIZER = Tokenizer.load(EMBEDDED)
TEXT = "one two three four five six seven eight"


class Replicas:
    """A group of fake engines by replica id."""

    def __init__(self, **engines: FakeEngine) -> None:
        self.engines = engines
        self.chosen: list[str] = []

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        placement = request.placement
        placement.replica = choose_replica(placement, {name: engine.load().running for name, engine in self.engines.items()}, 4)
        self.chosen.append(placement.replica)
        async with aclosing(self.engines[placement.replica].generate(request)) as events:
            async for event in events:
                yield event


async def _engine(kind: type[FakeEngine] = FakeEngine, **settings: object) -> FakeEngine:
    engine = kind(FakeSettings.model_validate({"text": TEXT, "tokens_per_second": 5000} | settings), EMBEDDED)
    await engine.start()
    return engine


def _attempts(routing: RoutingSettings, **groups: Replicas) -> Attempts:
    view = FleetView(groups, 60)
    for name, group in groups.items():
        for replica, engine in group.engines.items():
            report = ReplicaReport(group=name, replica_id=replica, phase=Phase.READY, info=engine.info)
            view.record(report, time.monotonic())
    return Attempts(routing, groups, lambda: view.snapshot(time.monotonic()), IngressMetrics())


def _generation(request: TokenRequest, candidates: tuple[str, ...], record: RequestRecord, affinity: str = "") -> Generation:
    choice = PreparedChoice(
        prompt=RawText(text="x"),
        request=request,
        text=TextStream(TOKENIZER),
        tools=(),
        schema="",
        echo="",
        with_tokens=False,
    )
    return Generation(choice=choice, candidates=candidates, record=record, deadline=time.monotonic() + 5, affinity=affinity)


async def _run(
    attempts: Attempts, *candidates: str, affinity: str = "", constraint: Constraint | None = None
) -> tuple[list[int], RequestRecord]:
    record = RequestRecord(request_id="r", reason="preferred")
    request = TokenRequest(request_id="r", prompt=(5,), sampling=Sampling(temperature=0), constraint=constraint)
    generation = _generation(request, candidates, record, affinity)
    ids: list[int] = []
    async for event in attempts.run(generation):
        if isinstance(event, TokenDelta):
            ids += event.ids
        else:
            assert isinstance(event, Finished)
            assert (event.usage.prompt_tokens, event.usage.completion_tokens) == (1, len(ids) + 1)
    return ids, record


async def test_another_replica_comes_before_another_group() -> None:
    dying, good, far = await _engine(fault="die_midway", fault_at=3), await _engine(), await _engine()
    near, other = Replicas(a=dying, b=good), Replicas(c=far)
    attempts = _attempts(RoutingSettings(), near=near, other=other)
    expected, _ = await _run(attempts, "other")
    for _ in range(20):
        ids, record = await _run(attempts, "near", "other")
        assert ids == expected
        assert (record.group, record.reason) == ("near", "preferred")
    assert other.chosen == ["c"]
    assert dying.requests, "the dying one had its turns"


async def test_a_replica_that_always_fails_is_soon_not_asked() -> None:
    near = Replicas(a=await _engine(fault="fail_first"), b=await _engine())
    attempts = _attempts(RoutingSettings(), near=near)
    for _ in range(60):
        await _run(attempts, "near")
    assert near.chosen.count("a") == 5
    assert near.chosen.count("b") == 60


async def test_when_all_replicas_fail_the_next_group_answers() -> None:
    near = Replicas(a=await _engine(fault="fail_first"), b=await _engine(fault="fail_first"))
    attempts = _attempts(RoutingSettings(), near=near, other=Replicas(c=await _engine()))
    _, record = await _run(attempts, "near", "other")
    assert (record.group, record.reason, record.attempts) == ("other", "failover", 3)
    assert sorted(near.chosen) == ["a", "b"]


class Inexact(FakeEngine):
    """Tells text in tokens that it did not draw, as llama.cpp does with files of others."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, capabilities=super().info.capabilities - {Capability.EXACT_IDS})


async def test_a_failure_before_the_first_token_moves_an_answer_without_exact_ids() -> None:
    near = Replicas(a=await _engine(Inexact, fault="die_midway", fault_at=0))
    attempts = _attempts(RoutingSettings(), near=near, other=Replicas(c=await _engine()))
    _, record = await _run(attempts, "near", "other")
    assert record.group == "other"


async def test_only_tokens_that_were_drawn_are_gone_on_from() -> None:
    near = Replicas(a=await _engine(Inexact, fault="die_midway", fault_at=3))
    attempts = _attempts(RoutingSettings(), near=near, other=Replicas(c=await _engine()))
    with pytest.raises(EngineDead, match="not the tokens that it drew"):
        await _run(attempts, "near", "other")


class _Loser(FakeEngine):
    """Cannot keep answers within constraints."""

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        if request.constraint is not None:
            raise ConstraintLost("the constraint was left by the engine; make it simpler", param="constraint")
        async for event in super().generate(request):
            yield event


async def test_a_constraint_that_is_lost_moves_on_and_says_nothing_of_the_engine() -> None:
    """However often one client asks for it, others are served there; where nobody can keep it, it is the request's fault."""
    loser, other = Replicas(x=await _engine(_Loser)), Replicas(y=await _engine())
    attempts = _attempts(RoutingSettings(), a=loser, b=other)
    for _ in range(20):
        _, record = await _run(attempts, "a", "b", constraint=OneOf(("x",)))
        assert (record.group, record.reason) == ("b", "failover")
    _, record = await _run(attempts, "a", "b")
    assert (record.group, record.attempts) == ("a", 1)
    with pytest.raises(ConstraintLost) as lost:
        await _run(attempts, "a", constraint=OneOf(("x",)))
    assert lost.value.status == 400
    _, record = await _run(attempts, "a")
    assert record.group == "a"


async def test_a_conversation_stays_with_its_replica() -> None:
    near = Replicas(a=await _engine(), b=await _engine(), c=await _engine())
    attempts = _attempts(RoutingSettings(), near=near)
    for _ in range(10):
        await _run(attempts, "near", affinity="talk")
    assert len(set(near.chosen)) == 1


async def test_without_budget_the_first_failure_is_the_answer() -> None:
    near = Replicas(a=await _engine(fault="die_midway"), b=await _engine(fault="die_midway"))
    attempts = _attempts(RoutingSettings(retry_reserve=0, retry_ratio=0), near=near)
    failures: list[ServeError] = []
    try:
        await _run(attempts, "near")
    except ServeError as error:
        failures.append(error)
    assert [type(error) for error in failures] == [EngineDead]
    assert len(near.chosen) == 1


async def test_what_no_breaker_lets_through_is_refused_for_a_while() -> None:
    near = Replicas(a=await _engine(fault="fail_first"))
    attempts = _attempts(RoutingSettings(), near=near)
    failures: list[ServeError] = []
    for _ in range(6):
        try:
            await _run(attempts, "near")
        except ServeError as error:
            failures.append(error)
    assert type(failures[-1]) is NoEngine
    assert failures[-1].retry_after_s
    assert len(near.chosen) == 5


@pytest.mark.parametrize(("optional", "able"), [(True, True), (True, False), (False, True)])
async def test_an_optional_constraint_goes_only_where_it_can_be_followed(*, optional: bool, able: bool) -> None:
    class Following(FakeEngine):
        @property
        def info(self) -> EngineInfo:
            return replace(super().info, capabilities=frozenset(Capability))

    engine = await _engine(Following if able else FakeEngine)
    constraint = Grammar('start: "a"', optional=optional)
    request = TokenRequest(request_id="r", prompt=(5,), sampling=Sampling(temperature=0), constraint=constraint)
    generation = _generation(request, ("a",), RequestRecord(request_id="r"))
    async for _ in _attempts(RoutingSettings(), a=Replicas(x=engine)).run(generation):
        pass
    assert engine.requests[0].constraint == (constraint if able else None)
