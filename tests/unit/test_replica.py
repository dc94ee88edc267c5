"""A replica without Ray: its phases, its batches, its errors."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace

import pytest

from deployments.replica import EngineReplica, NamedModel, coalesce, merge
from serve_app.config import ModelSettings
from serve_app.engine_config import FakeSettings
from serve_app.engines.fake import FakeEngine
from serve_app.errors import EngineDead, ModelUnusable, ServeError
from serve_app.files.cache import Progress
from serve_app.reports import ReplicaReport
from serve_app.types import Finished, FinishReason, Phase, Sampling, TokenDelta, TokenEvent, TokenLogprob, TokenRequest, Usage

END = Finished(reason=FinishReason.STOP, usage=Usage(prompt_tokens=1, completion_tokens=3))


async def _replica(settings: FakeSettings, reports: list[ReplicaReport]) -> EngineReplica:
    replica = EngineReplica.__new__(EngineReplica)

    async def send(report: ReplicaReport) -> bool:
        reports.append(report)
        return True

    await replica.__init__("a", settings, NamedModel("phi", ModelSettings()), lambda: ("r1", send))  # type: ignore[misc,func-returns-value]
    return replica


def _request() -> TokenRequest:
    return TokenRequest(request_id="r", prompt=(5,), sampling=Sampling(temperature=0.0))


async def test_phases_are_told_in_order_and_ready_follows_a_token() -> None:
    reports: list[ReplicaReport] = []
    replica = await _replica(FakeSettings(load_s=0.05, tokens_per_second=20), reports)
    await asyncio.sleep(0.05)
    assert list(dict.fromkeys(report.phase for report in reports)) == [Phase.LOADING, Phase.WARMING, Phase.READY]
    assert reports[-1].info is not None
    await replica.close()


async def test_an_export_is_told_in_percent_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.replica.REPORT_EVERY_S", 0.1)

    def derive(model_dir: Path, settings: FakeSettings, progress: Progress) -> Path:
        progress("waiting for another replica's export", 0.0)
        time.sleep(0.1)
        for percent in range(100):
            progress("exporting int4", percent / 100)
            time.sleep(0.01)
        return model_dir

    monkeypatch.setattr("deployments.replica.derive", derive)
    reports: list[ReplicaReport] = []
    replica = await _replica(FakeSettings(load_s=0.2), reports)
    reasons = list(dict.fromkeys(report.reason for report in reports if report.phase is Phase.LOADING))
    assert reasons[:3] == ["", "waiting for another replica's export", "exporting int4"]
    percents = [int(found[1]) for reason in reasons if (found := re.fullmatch(r"exporting int4: (\d+) %", reason))]
    assert percents == sorted(percents)
    assert 2 <= len(percents) <= 12
    assert [report.reason for report in reports if report.phase is Phase.LOADING][-1] == ""
    await replica.close()


async def test_an_unhealthy_replica_says_so_refuses_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[ReplicaReport] = []
    replica = await _replica(FakeSettings(), reports)

    async def hang() -> None:
        raise EngineDead("the core has not answered")

    with monkeypatch.context() as patch:
        patch.setattr(replica._engine, "check_health", hang)
        with pytest.raises(EngineDead):
            await replica.check_health()
    await asyncio.sleep(0.05)
    assert (reports[-1].phase, reports[-1].reason) == (Phase.FAILED, "the core has not answered")
    items = [item async for batch in replica.generate(_request()) for item in batch]
    assert [type(item) for item in items] == [EngineDead]
    await replica.check_health()
    await asyncio.sleep(0.05)
    assert reports[-1].phase is Phase.READY
    await replica.close()


async def test_a_failed_start_is_told_with_its_reason_and_tried_again_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.replica.REPORT_EVERY_S", 0.01)
    monkeypatch.setattr("deployments.replica._RETRY_S", 0.05)
    monkeypatch.setattr("deployments.replica.gc", SimpleNamespace(collect=lambda: 0))  # a second in the tests' own process
    attempts = 0

    def derive(model_dir: Path, settings: FakeSettings, progress: Progress) -> Path:
        nonlocal attempts
        attempts += 1
        if attempts < 6:  # more often than Serve would start a replica
            raise ModelUnusable(f"no file, attempt {attempts}")
        return model_dir

    monkeypatch.setattr("deployments.replica.derive", derive)
    reports: list[ReplicaReport] = []
    replica = await _replica(FakeSettings(), reports)
    await asyncio.sleep(0.05)
    assert reports[-1].phase is Phase.READY
    told = [report.reason for report in reports if report.phase is Phase.FAILED]
    assert list(dict.fromkeys(told)) == [f"no file, attempt {number}" for number in range(1, 6)]
    assert told.count("no file, attempt 5") > 2  # again and again while it waits, so that an ingress that came later hears it
    await replica.close()


@pytest.mark.parametrize(("fault", "reason"), [("fail_start", "configured to fail at start"), ("fail_first", "fail")])
async def test_an_engine_that_does_not_start_or_generates_nothing_is_closed_and_not_ready(
    fault: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = 0

    async def close(engine: FakeEngine) -> None:
        nonlocal closed
        closed += 1

    monkeypatch.setattr("deployments.replica._RETRY_S", 0.01)
    monkeypatch.setattr("deployments.replica.gc", SimpleNamespace(collect=lambda: 0))
    monkeypatch.setattr(FakeEngine, "close", close)
    reports: list[ReplicaReport] = []
    starting = asyncio.ensure_future(_replica(FakeSettings.model_validate({"fault": fault}), reports))
    async with asyncio.timeout(10):
        while closed < 4:
            await asyncio.sleep(0.01)
    starting.cancel()
    failed = [report for report in reports if report.phase is Phase.FAILED]
    assert failed
    assert all(reason in report.reason for report in failed)
    assert Phase.READY not in {report.phase for report in reports}


async def test_the_first_batch_is_acceptance_and_the_last_ends_with_finished() -> None:
    replica = await _replica(FakeSettings(text="one two three"), [])
    batches = [batch async for batch in replica.generate(_request())]
    assert batches[0] == ()
    assert isinstance(batches[-1][-1], Finished)
    await replica.close()


async def test_an_error_is_the_last_item_after_what_was_generated() -> None:
    replica = await _replica(FakeSettings(text="one two three four", fault="die_midway"), [])
    items = [item async for batch in replica.generate(_request()) for item in batch]
    assert sum(len(item.ids) for item in items if isinstance(item, TokenDelta)) == 2
    assert isinstance(items[-1], ServeError)
    await replica.close()


async def test_closing_a_stream_frees_the_slot() -> None:
    replica = await _replica(FakeSettings(text="one two three", tokens_per_second=20), [])
    stream = replica.generate(_request())
    assert [await anext(stream), (await anext(stream))[0].ids[0] > 0] == [(), True]  # type: ignore[union-attr]
    assert replica.load().running == 1
    await stream.aclose()
    assert replica.load().running == 0
    await replica.close()


def test_merging_keeps_every_token_and_logprob() -> None:
    one = TokenDelta((1,), (TokenLogprob(1, -0.1),))
    two = TokenDelta((2,), (TokenLogprob(2, -0.2),))
    assert merge([one, two, END]) == (TokenDelta((1, 2), one.logprobs + two.logprobs), END)


async def test_coalescing_sends_the_first_token_before_the_second_exists() -> None:
    second = asyncio.Event()

    async def engine() -> AsyncGenerator[TokenEvent, None]:
        yield TokenDelta((1,))
        await second.wait()
        yield TokenDelta((2,))
        yield TokenDelta((3,))
        yield END

    batches = coalesce(engine(), 0.02)
    assert await asyncio.wait_for(anext(batches), 5) == (TokenDelta((1,)),)
    second.set()
    rest = [batch async for batch in batches]
    assert rest == [(TokenDelta((2, 3)), END)]


async def test_coalescing_raises_after_what_came_before() -> None:
    async def engine() -> AsyncGenerator[TokenEvent, None]:
        yield TokenDelta((1,))
        raise EngineDead("gone")

    batches = coalesce(engine(), 0.02)
    assert await anext(batches) == (TokenDelta((1,)),)
    with pytest.raises(EngineDead):
        await anext(batches)


async def test_a_replica_closed_together_with_a_change_of_its_phase_ends() -> None:
    replica = await _replica(FakeSettings(), [])
    closing = asyncio.ensure_future(replica.close())
    done, _ = await asyncio.wait({closing}, timeout=5)  # wait_for would cancel, which is what may get lost
    closing.cancel()
    assert done
