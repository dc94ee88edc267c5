"""Whatever comes out of a Ray handle leaves `RemoteEngine` as one of our errors. A scripted handle, no cluster."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError, TaskCancelledError
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.remote import RemoteEngine
from serve_app.encoding import Encoded, EncodeRequest
from serve_app.errors import EngineDead, GenerationFailed, InvalidRequest, NoEngine, ServeError
from serve_app.types import Sampling, TokenDelta, TokenRequest

DELTA = TokenDelta((1,))
REQUEST = TokenRequest(request_id="r", prompt=(1,), sampling=Sampling())


class Handle:
    """Plays one stream of batches, exceptions among them; `None` hangs."""

    def __init__(self, script: list[Any]) -> None:
        self.script = script
        self.cancelled = False

    def options(self, **_: Any) -> "Handle":
        return self

    def remote(self, _: TokenRequest) -> "Handle":
        self._items = self._play()
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def __aiter__(self) -> "Handle":
        return self

    async def __anext__(self) -> Any:
        return await anext(self._items)

    async def _play(self) -> AsyncIterator[Any]:
        for item in self.script:
            if item is None:
                await asyncio.Event().wait()
            if isinstance(item, BaseException):
                raise item
            yield item


def _rpc_error(code: grpc.StatusCode) -> Exception:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


async def _run(script: list[Any]) -> tuple[list[Any], Handle]:
    handle = Handle(script)
    stream = RemoteEngine("onnx", handle, accept_timeout_s=0.1).generate(REQUEST)  # type: ignore[arg-type]
    events = []
    try:
        async for event in stream:
            events.append(event)
    except ServeError as error:
        events.append(error)
    return events, handle


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (ActorUnavailableError("gone", b"0" * 16), EngineDead),
        (_rpc_error(grpc.StatusCode.INTERNAL), EngineDead),
        (_rpc_error(grpc.StatusCode.CANCELLED), EngineDead),
        (TaskCancelledError(), EngineDead),
        (asyncio.CancelledError(), EngineDead),
        (DeploymentUnavailableError.__new__(DeploymentUnavailableError), NoEngine),
        (TimeoutError(), GenerationFailed),
        (ValueError("secret"), GenerationFailed),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.__name__,
)
async def test_every_fault_midway_is_one_of_ours(fault: BaseException, expected: type[ServeError]) -> None:
    events, handle = await _run([(), (DELTA,), fault])
    assert events[0] == DELTA
    assert type(events[1]) is expected
    assert "secret" not in events[1].message
    assert handle.cancelled


async def test_an_error_sent_as_a_value_is_raised_as_it_is() -> None:
    events, _ = await _run([(), (DELTA, InvalidRequest("bad", param="n"))])
    assert (type(events[1]), events[1].message, events[1].param) == (InvalidRequest, "bad", "n")


async def test_a_replica_that_never_accepts_is_given_up() -> None:
    events, handle = await _run([None])
    assert type(events[0]) is NoEngine
    assert handle.cancelled


async def test_a_stream_that_ends_before_it_begins_is_a_dead_engine() -> None:
    assert [type(event) for event in (await _run([]))[0]] == [EngineDead]


async def test_our_own_cancellation_stays_a_cancellation() -> None:
    handle = Handle([(), None])
    stream = RemoteEngine("onnx", handle, accept_timeout_s=1).generate(REQUEST)  # type: ignore[arg-type]
    task = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.cancelled


ENCODED = Encoded(vectors=np.ones((1, 2), np.float32))


async def _encode(script: list[Any]) -> tuple[Any, Handle]:
    handle = Handle(script)
    request = EncodeRequest(request_id="r", inputs=((1,),))
    try:
        return await RemoteEngine("e", handle, accept_timeout_s=0.1).encode(request), handle  # type: ignore[arg-type]
    except ServeError as error:
        return error, handle


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([(), (InvalidRequest("bad"),)], InvalidRequest),
        ([(), ActorUnavailableError("gone", b"0" * 16)], EngineDead),
        ([(), ValueError("secret")], GenerationFailed),
        ([()], EngineDead),
        ([], EngineDead),
        ([None], NoEngine),
    ],
)
async def test_an_encoding_is_its_vectors_or_one_of_our_errors(script: list[Any], expected: type[ServeError]) -> None:
    found, handle = await _encode([(), (ENCODED,)])
    assert (found, handle.cancelled) == (ENCODED, True)
    failure, handle = await _encode(script)
    assert (type(failure), handle.cancelled) == (expected, True)
    assert "secret" not in failure.message
