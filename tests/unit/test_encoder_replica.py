"""A replica whose engine is an encoder, without Ray: its phases, its counts, its errors."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deployments.replica import EngineReplica, NamedModel
from serve_app.config import ModelSettings
from serve_app.encoding import Encoded, EncodeRequest
from serve_app.engine_config import OnnxEncoderSettings
from serve_app.errors import EngineDead, Overloaded
from serve_app.reports import ReplicaReport
from serve_app.types import EngineKind, Phase
from tests.encoders import FakeEncoder, write_files


@pytest.fixture
async def replica(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    folder = write_files(tmp_path / "model")
    (folder / "model.onnx").write_bytes(b"a graph")
    monkeypatch.setattr("deployments.replica.build_engine", lambda settings, model_dir: FakeEncoder())
    made = EngineReplica.__new__(EngineReplica)
    made.reports = []  # type: ignore[attr-defined]

    async def send(report: ReplicaReport) -> bool:
        made.reports.append(report)  # type: ignore[attr-defined]
        return True

    settings, model = OnnxEncoderSettings(), NamedModel("mini", ModelSettings(path=str(folder)))
    await made.__init__("e", settings, model, lambda: ("r1", send))  # type: ignore[misc,func-returns-value]
    yield made
    await made.close()


async def _ask(replica: Any, *inputs: tuple[int, ...]) -> list[Any]:
    request = EncodeRequest(request_id="r", inputs=inputs)
    return [item async for batch in replica.encode(request) for item in batch]


async def test_it_warms_up_reports_and_counts(replica: Any) -> None:
    await asyncio.sleep(0.01)
    assert (replica.reports[-1].phase, replica.reports[-1].info.kind) == (Phase.READY, EngineKind.ONNX_ENCODER)
    assert [len(request.inputs) for request in replica._engine.requests] == [1]  # the warm-up
    (encoded,) = await _ask(replica, (5, 6), (7,))
    assert isinstance(encoded, Encoded)
    assert encoded.vectors.shape == (2, 16)
    counts = replica.report().requests
    assert (counts.model, counts.counters["prompt_tokens"], counts.counters["generation_tokens"]) == ("mini", 3, 0)
    assert dict(counts.ends) == {"stop": 1}
    assert replica.load().drain_rate > 0


async def test_failures_are_values_and_count_as_aborted(replica: Any) -> None:
    replica._engine.faults = [Overloaded("full")]
    (failure,) = await _ask(replica, (5,))
    assert isinstance(failure, Overloaded)
    assert dict(replica.report().requests.ends) == {"abort": 1}
    replica._phase = Phase.FAILED
    (refused,) = await _ask(replica, (5,))
    assert isinstance(refused, EngineDead)


async def test_closing_the_call_cancels_it_in_the_encoder(replica: Any) -> None:
    replica._engine.hangs = True
    call = replica.encode(EncodeRequest(request_id="r", inputs=((5,),)))
    assert await anext(call) == ()
    pending = asyncio.ensure_future(anext(call))
    while not replica._engine.requests[1:]:
        await asyncio.sleep(0.001)
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)
    await call.aclose()
    assert replica._engine.cancelled == 1
