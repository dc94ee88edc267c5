"""The contract of encoders, over the ONNX engine and tiny models of every kind that the export knows, against transformers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

from serve_app.encoding import EncodeRequest, Vectors
from serve_app.engine_config import OnnxEncoderSettings
from serve_app.engines.encoder.engine import OnnxEncoder
from serve_app.engines.encoder.graph import EncoderGraph
from serve_app.errors import ContextOverflow, EngineDead, EngineError, InvalidRequest, Overloaded
from serve_app.models.export import derive
from serve_app.types import InvalidValue
from tests.encoders import CONFIG, write_files

DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "activation": "gelu"}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {},
    "bert relu": {"hidden_act": "relu"},
    "bert gelu_new": {"hidden_act": "gelu_new"},
    "roberta": {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": {"model_type": "xlm-roberta", "pad_token_id": 1, "type_vocab_size": 1},
    "distilbert": {"model_type": "distilbert", **DISTILBERT},
    "mpnet": {"model_type": "mpnet", "pad_token_id": 1, "relative_attention_num_buckets": 32},
}


def write_model(folder: Path, *, prefix: str = "", **changes: Any) -> Path:
    """Write a tiny model with random weights large enough that every one of them matters."""
    pooling, normalized = changes.pop("pooling", "mean_tokens"), changes.pop("normalized", True)
    write_files(folder, pooling=pooling, normalized=normalized, **changes)
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder, attn_implementation="eager"))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.copy_(torch.randn_like(weights) * 0.3 + (1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0))
    save_file(
        {f"{prefix}{name}": weights.contiguous() for name, weights in model.state_dict().items()}, folder / "model.safetensors"
    )
    return folder


def compute_reference(folder: Path, inputs: list[tuple[int, ...]], *, pooling: str = "mean", normalized: bool = True) -> Vectors:
    """Return transformers' vectors, one input at a time, pooled as sentence-transformers does."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    found = []
    with torch.no_grad():
        for ids in inputs:
            tokens = model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).last_hidden_state[0]
            found.append(tokens[0] if pooling == "cls" else tokens.mean(0))
    vectors = torch.stack(found)
    result: Vectors = (torch.nn.functional.normalize(vectors) if normalized else vectors).numpy()
    return result


def draw_inputs(count: int, longest: int, low: int = 5, high: int = CONFIG["vocab_size"], seed: int = 0) -> list[tuple[int, ...]]:
    chance = np.random.default_rng(seed)
    return [tuple(map(int, chance.integers(low, high, chance.integers(1, longest + 1)))) for _ in range(count)]


def ask(*inputs: tuple[int, ...], **fields: Any) -> EncodeRequest:
    return EncodeRequest(request_id="r", inputs=inputs, **fields)


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[OnnxEncoder]:
    """Start an encoder over a model's folder, exported into the cache."""
    chosen = OnnxEncoderSettings(**settings)
    engine = OnnxEncoder(chosen, derive(folder, chosen))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PHI_SERVE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "bert")


class Gate:
    """Lets the encoder's batches through one at a time, and notes them."""

    def __init__(self, run: Callable[..., Vectors]) -> None:
        self._run = run
        self._open = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.fault: BaseException | None = None
        self.spoil: int | None = None
        """The length of the inputs whose vectors become NaN."""

    def __call__(self, graph: EncoderGraph, inputs: list[tuple[int, ...]]) -> Vectors:
        self.batches.append(sorted(map(len, inputs)))
        self._open.acquire()
        if self.fault is not None:
            raise self.fault
        vectors = self._run(graph, inputs)
        for at, ids in enumerate(inputs):
            if len(ids) == self.spoil:
                vectors[at, 3] = np.nan
        return vectors

    def let(self, batches: int) -> None:
        self._open.release(batches)

    async def await_batches(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.batches) < count:
                await asyncio.sleep(0.001)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate(EncoderGraph.run)
    monkeypatch.setattr(EncoderGraph, "run", lambda graph, inputs: found(graph, inputs))
    yield found
    found.let(1000)


@pytest.mark.parametrize("kind", KINDS)
async def test_vectors_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", **KINDS[kind])
    inputs = draw_inputs(40, 40)
    async with running(folder, max_batch_tokens=256) as engine:
        found = (await engine.encode(ask(*inputs))).vectors
    np.testing.assert_allclose(found, compute_reference(folder, inputs), atol=1e-5)


@pytest.mark.parametrize(("pooling", "normalized"), [("cls", True), ("cls", False), ("mean", False)])
async def test_pooling_and_normalization_are_the_folders(pooling: str, normalized: bool, tmp_path: Path) -> None:
    mode = {"cls": "cls_token", "mean": "mean_tokens"}[pooling]
    folder = write_model(tmp_path / "model", pooling=mode, normalized=normalized, prefix="bert.")
    inputs = draw_inputs(5, 20)
    expected = compute_reference(folder, inputs, pooling=pooling, normalized=normalized)
    other = {"cls": "mean", "mean": "cls"}[pooling]
    async with running(folder) as engine, running(folder, pooling=other, normalize=not normalized) as changed:
        np.testing.assert_allclose((await engine.encode(ask(*inputs))).vectors, expected, atol=1e-5)
        reversed_expectation = compute_reference(folder, inputs, pooling=other, normalized=not normalized)
        np.testing.assert_allclose((await changed.encode(ask(*inputs))).vectors, reversed_expectation, atol=1e-5)
        scaled = (await engine.encode(ask(*inputs, normalized=True, dimensions=5))).vectors
    cut = expected[:, :5]
    np.testing.assert_allclose(scaled, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-5)


async def test_an_input_has_the_same_vector_in_its_place_whatever_is_computed_beside_it(bert: Path) -> None:
    inputs = draw_inputs(120, 48, seed=1)
    async with running(bert, max_batch_tokens=512) as engine:
        alone = np.concatenate([(await engine.encode(ask(ids))).vectors for ids in inputs])
        together = (await engine.encode(ask(*inputs))).vectors
        answers = await asyncio.gather(*(engine.encode(ask(*inputs[at::7])) for at in range(7)))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    for at, answer in enumerate(answers):
        np.testing.assert_allclose(answer.vectors, alone[at::7], atol=1e-5)


async def test_a_request_without_inputs_has_no_vectors(bert: Path) -> None:
    async with running(bert) as engine:
        assert (await engine.encode(ask())).vectors.shape == (0, 16)
        assert (await engine.encode(ask(dimensions=4))).vectors.shape == (0, 4)


async def test_a_wrong_input_fails_its_own_request_only(bert: Path) -> None:
    async with running(bert) as engine:
        wrong: list[tuple[type[Exception], dict[str, Any]]] = [
            (ContextOverflow, {"inputs": ((5,) * 49,)}),
            (InvalidRequest, {"inputs": ((5,), (57,))}),
            (InvalidRequest, {"inputs": ((5,),), "dimensions": 17}),
            (InvalidRequest, {"inputs": ((5,),), "dimensions": 0}),
        ]
        good = [engine.encode(ask(*draw_inputs(8, 20))) for _ in wrong]
        bad = [engine.encode(EncodeRequest(request_id="r", **fields)) for _, fields in wrong]
        results = await asyncio.gather(*good, *bad, return_exceptions=True)
        assert [type(each) for each in results[len(good) :]] == [error for error, _ in wrong]
        assert not [each for each in results[: len(good)] if isinstance(each, BaseException)]
        await engine.check_health()
    for ids in ((), (-1,), (True,), (1.0,)):
        with pytest.raises(InvalidValue):
            ask(ids)  # type: ignore[arg-type]


async def test_a_cancelled_request_leaves_the_queue(bert: Path, gate: Gate) -> None:
    async with running(bert, max_batch_tokens=16) as engine:
        first = asyncio.ensure_future(engine.encode(ask((5,) * 16)))
        await gate.await_batches(1)
        second = asyncio.ensure_future(engine.encode(ask(*[(6,) * 15] * 5)))
        await asyncio.sleep(0)
        assert (engine.load().running, engine.load().waiting, engine.load().waiting_tokens) == (1, 5, 75)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert (engine.load().waiting, engine.load().waiting_tokens) == (0, 0)
        gate.let(1)
        await first
        assert gate.batches == [[16]]


async def test_a_full_queue_refuses_but_takes_any_request_when_it_is_empty(bert: Path, gate: Gate) -> None:
    async with running(bert, max_batch_tokens=16, max_waiting=3) as engine:
        first = asyncio.ensure_future(engine.encode(ask((5,) * 16)))
        await gate.await_batches(1)
        large = asyncio.ensure_future(engine.encode(ask(*[(5,) * 16] * 10)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await engine.encode(ask((5,)))
        gate.let(100)
        assert (await large).vectors.shape == (10, 16)
        await first
        assert (await engine.encode(ask((5,)))).vectors.shape == (1, 16)


async def test_a_short_request_overtakes_the_rest_of_a_long_one(bert: Path, gate: Gate) -> None:
    async with running(bert, max_batch_tokens=16) as engine:
        long = asyncio.ensure_future(engine.encode(ask(*[(5,) * 16] * 20)))
        await gate.await_batches(1)
        short = asyncio.ensure_future(engine.encode(ask((6,) * 3)))
        await asyncio.sleep(0)  # it joins the queue, else five batches of the long one may be all that is let through
        gate.let(5)
        await asyncio.wait_for(short, 20)
        assert not long.done()
        gate.let(100)
        assert (await long).vectors.shape == (20, 16)


async def test_a_failing_batch_and_a_vector_that_is_not_finite_fail_their_requests_only(bert: Path, gate: Gate) -> None:
    async with running(bert, max_batch_tokens=64) as engine:
        gate.fault = RuntimeError("onnxruntime: /secret/path")
        failing = asyncio.ensure_future(engine.encode(ask((5,) * 30)))
        await gate.await_batches(1)
        gate.let(1)
        with pytest.raises(EngineError) as caught:
            await failing
        assert "secret" not in caught.value.message
        gate.fault, gate.spoil = None, 9
        gate.let(100)
        results = await asyncio.gather(engine.encode(ask((5,) * 9)), engine.encode(ask((5,) * 8)), return_exceptions=True)
        assert [type(each).__name__ for each in results] == ["EngineError", "Encoded"]
        await engine.check_health()


async def test_a_dead_thread_fails_every_request(bert: Path, gate: Gate) -> None:
    async with running(bert, max_batch_tokens=16) as engine:
        first, second = (asyncio.ensure_future(engine.encode(ask((5,) * 16))) for _ in range(2))
        await gate.await_batches(1)
        gate.fault = SystemExit()
        gate.let(1)
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(each) for each in results] == [EngineDead, EngineDead]
        with pytest.raises(EngineDead):
            await engine.check_health()
        with pytest.raises(EngineDead):
            await engine.encode(ask((5,)))


async def test_a_batch_that_hangs_is_unhealthy_and_closing_fails_what_waits(bert: Path, gate: Gate) -> None:
    async with running(bert, max_batch_tokens=16, step_timeout_s=0.05) as engine:
        hung, waiting = (asyncio.ensure_future(engine.encode(ask((5,) * 16))) for _ in range(2))
        await gate.await_batches(1)
        await engine.check_health()
        await asyncio.sleep(0.1)
        with pytest.raises(EngineDead):
            await engine.check_health()
        closing = asyncio.ensure_future(engine.close())
        await asyncio.sleep(0)
        gate.let(1)
        await closing
        results = await asyncio.gather(hung, waiting, return_exceptions=True)
        assert isinstance(results[1], EngineDead)
