"""A replica without Ray: its phases, its batches, its errors."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from deployments.replica import EngineReplica, coalesce, merge
from serve_app.config import FakeSettings, ModelSettings
from serve_app.errors import EngineDead, GenerationFailed, ServeError
from serve_app.types import (
    Finished,
    FinishReason,
    Phase,
    ReplicaReport,
    Sampling,
    TokenDelta,
    TokenEvent,
    TokenLogprob,
    TokenRequest,
    Usage,
)

END = Finished(reason=FinishReason.STOP, usage=Usage(prompt_tokens=1, completion_tokens=3))


async def _replica(settings: FakeSettings, reports: list[ReplicaReport]) -> EngineReplica:
    replica = EngineReplica.__new__(EngineReplica)
    await replica.__init__("a", settings, ModelSettings(), lambda: ("r1", reports.append))  # type: ignore[misc,func-returns-value]
    return replica


def _request() -> TokenRequest:
    return TokenRequest(request_id="r", prompt=(5,), sampling=Sampling(temperature=0.0))


async def test_phases_are_told_in_order_and_ready_follows_a_token() -> None:
    reports: list[ReplicaReport] = []
    replica = await _replica(FakeSettings(), reports)
    phases = list(dict.fromkeys(report.phase for report in reports))
    assert phases == [Phase.LOADING, Phase.WARMING, Phase.READY]
    assert reports[-1].info is not None
    await replica.close()


async def test_a_failed_start_is_told_with_its_reason() -> None:
    reports: list[ReplicaReport] = []
    with pytest.raises(EngineDead):
        await _replica(FakeSettings(fault="fail_start"), reports)
    assert reports[-1].phase is Phase.FAILED
    assert "told to fail at start" in reports[-1].reason


async def test_an_engine_that_generates_nothing_is_not_ready() -> None:
    reports: list[ReplicaReport] = []
    with pytest.raises(GenerationFailed):
        await _replica(FakeSettings(fault="fail_first"), reports)
    assert reports[-1].phase is Phase.FAILED


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


def test_the_unit_suite_never_imports_ray() -> None:
    import subprocess
    import sys

    modules = "deployments.replica, serve_app.http, serve_app.gateway, serve_app.engines.registry"
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in ('ray', 'vllm', 'onnxruntime')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
