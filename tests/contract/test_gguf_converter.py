"""Files by llama.cpp's own converter and quantizer (`make quantizer`), of the real model's stand-in, against our own export."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import stand_in
from serve_app.access.check import Access
from serve_app.chat.tokenizer import Tokenizer
from serve_app.config import AppSettings
from serve_app.dialects import openai
from serve_app.engine_config import LlamaCppSettings
from serve_app.engines.llama_cpp.engine import LlamaCppEngine
from serve_app.errors import EngineDead
from serve_app.files.gguf_header import read_header
from serve_app.gateway import Gateway
from serve_app.http.app import create_app
from serve_app.models import export
from serve_app.models.catalog import Catalog
from serve_app.models.served import ServedModel
from serve_app.reports import ReplicaReport
from serve_app.routing.fleet import FleetView
from serve_app.types import Phase, TokenDelta, TokenEvent, TokenRequest
from tests.contract.converter import convert
from tests.contract.play import ask, play, prompt
from tests.contract.quantizer import CONVERTER, QUANTIZER
from tests.contract.test_gguf_respelling import TEXT, require_everything, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not QUANTIZER.exists(), reason="llama.cpp's quantizer is not built; run `make quantizer`"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="module", autouse=True)
def _cache(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHI_SERVE_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def whole_dir(real_dir: Path, folder: Path) -> Path:
    """The stand-in with all tokens in `model.vocab`: else newer versions of `tokenizers` give the converter wrong ids."""
    model = folder / "Phi-4-mini-instruct"
    shutil.copytree(real_dir, model)
    stand_in.write_tokenizer(model, stand_in.Form(added_in_vocab=True))
    return model


def _converted(model: Path, file: Path, kind: str) -> Path:
    command = [sys.executable, str(CONVERTER), str(model), "--outfile", str(file), "--outtype", kind]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return file


@pytest.fixture(scope="module")
def q8_0(whole_dir: Path, folder: Path) -> Path:
    return _converted(whole_dir, folder / "Phi-4-mini-instruct.Q8_0.gguf", "q8_0")


@pytest.fixture(scope="module")
def q4_k_m(whole_dir: Path, folder: Path) -> Path:
    whole = _converted(whole_dir, folder / "whole.gguf", "f16")
    target = folder / "Phi-4-mini-instruct-Q4_K_M.gguf"
    subprocess.run([str(QUANTIZER), str(whole), str(target), "Q4_K_M", "2"], capture_output=True, check=True)
    return target


def test_the_tests_own_converter_writes_what_llama_cpps_does(q8_0: Path, real_dir: Path, folder: Path) -> None:
    own = export.derive(real_dir, LlamaCppSettings(precision="q8_0")) / "model.gguf"
    ours, theirs = read_header(convert(own, real_dir, folder / "ours.gguf")), read_header(q8_0)
    names = [f"tokenizer.ggml.{name}" for name in ("model", "pre", "tokens", "token_type", "merges", "eot_token_id")]
    assert {name: ours.keys.get(name) for name in names} == {name: theirs.keys.get(name) for name in names}
    assert {name: (each.shape, each.type) for name, each in ours.tensors.items()} == {
        name: (each.shape, each.type) for name, each in theirs.tensors.items()
    }


async def test_q8_0_answers_as_our_own_export(q8_0: Path, real_dir: Path, real_tokenizer: Tokenizer) -> None:
    theirs, own = await started(real_dir, gguf=str(q8_0)), await started(real_dir, precision="q8_0")
    for seed in range(6):
        request = ask(prompt(25, seed), temperature=1.5 if seed else 0.0, seed=seed, max_tokens=80, logprobs=3)
        answers = [await play(engine, request) for engine in (theirs, own)]
        assert (answers[0][0], answers[0][2]) == (answers[1][0], answers[1][2])
    whole = (await play(own, ask(prompt(30), max_tokens=40)))[0]
    assert (await play(theirs, ask((*prompt(30), *whole[:15]), max_tokens=25)))[0] == whole[15:]
    await own.close()
    await require_everything(theirs, real_tokenizer)
    await theirs.close()


async def test_q4_k_m_has_every_capability(q4_k_m: Path, real_dir: Path, real_tokenizer: Tokenizer) -> None:
    header = read_header(q4_k_m)
    assert header.keys["general.file_type"] == 15  # mostly Q4_K_M
    assert {"Q4_K", "Q6_K"} <= {tensor.type for tensor in header.tensors.values()}
    engine = await started(real_dir, gguf=str(q4_k_m))
    await require_everything(engine, real_tokenizer)
    await engine.close()


class _Breaking:
    """An engine that dies after some tokens of its first answer."""

    def __init__(self, engine: LlamaCppEngine, tokens: int) -> None:
        self.info = engine.info
        self._engine, self._left = engine, tokens

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        async with aclosing(self._engine.generate(request)) as events:
            async for event in events:
                yield event
                self._left -= len(event.ids) if isinstance(event, TokenDelta) else 0
                if self._left <= 0:
                    raise EngineDead("the core has died")


def _app(model: Path, groups: Mapping[str, Any]) -> httpx.AsyncClient:
    """Return a client of the application over engines that run already; the first group is asked first."""
    settings = AppSettings.model_validate(
        {
            "models": {"phi": {"path": str(model)}},
            "engines": {name: {"kind": "llama_cpp", "max_model_len": 512} for name in groups},
            "models_dir": None,
            "access": "open",
        }
    )
    view = FleetView(settings.engines, 600)
    for name, engine in groups.items():
        view.record(ReplicaReport(group=name, replica_id="0", phase=Phase.READY, info=engine.info), time.monotonic())
    gateway = Gateway(
        settings=settings,
        catalog=Catalog(settings, [ServedModel.load("phi", settings.models["phi"], model)], created=1),
        generators=groups,
        fleet=lambda: view.snapshot(time.monotonic()),
    )
    transport = httpx.ASGITransport(create_app(gateway, (openai.DIALECT,), Access(settings.access)))
    return httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60)


async def test_a_chat_is_served_and_what_another_group_began_is_continued(q4_k_m: Path, q8_0: Path, real_dir: Path) -> None:
    own, q8, q4 = [await started(real_dir, **each) for each in ({"precision": "q8_0"}, {"gguf": str(q8_0)}, {"gguf": str(q4_k_m)})]
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"unit": {"enum": ["C", "°F"]}}}}}
    tool["function"]["parameters"] |= {"type": "object", "required": ["unit"]}
    schema = {"type": "object", "properties": {"said": {"const": TEXT}}, "required": ["said"]}
    body: dict[str, Any] = {"model": "phi", "messages": [{"role": "user", "content": "What is said? Grüße"}], "max_tokens": 200}
    async with _app(real_dir, {"q4": q4}) as client:
        called = await client.post("/v1/chat/completions", json=body | {"tools": [tool], "tool_choice": "required"})
        assert called.status_code == 200, called.text
        choice = called.json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])["unit"] in ("C", "°F")
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
        told = await client.post("/v1/chat/completions", json=body | {"response_format": form})
        assert told.status_code == 200, told.text
        assert json.loads(told.json()["choices"][0]["message"]["content"])["said"] == TEXT
    plain = {"model": "phi", "prompt": "Grüße aus Köln", "max_tokens": 40, "temperature": 0.0}
    async with _app(real_dir, {"own": own}) as client:
        whole = (await client.post("/v1/completions", json=plain)).json()
    async with _app(real_dir, {"own": _Breaking(own, 10), "q8": q8}) as client:
        continued = await client.post("/v1/completions", json=plain)
    assert (continued.headers["x-attempts"], continued.headers["x-engine"]) == ("2", "q8")
    assert continued.json()["choices"][0]["text"] == whole["choices"][0]["text"]
    assert continued.json()["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for engine in (own, q8, q4):
        await engine.close()
