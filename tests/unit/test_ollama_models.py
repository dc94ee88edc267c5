"""Ollama's verbs about models, and the variants they make in every dialect."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest
import yaml

from serve_app.config import AppSettings
from serve_app.engine_config import LlamaCppSettings, OnnxSettings, VllmSettings, count_gpu_layers
from serve_app.models.locate import EMBEDDED
from serve_app.models.weights import Weights
from serve_app.types import InvalidValue, Task
from tests.unit.app import App, running
from tests.unit.test_ollama import _client, _prompt

REASONING = '''FROM phi4-mini
PARAMETER temperature 0.3
PARAMETER top_p 0.8
SYSTEM """You are an expert.
Think step by step."""
'''
HI = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def _served(folder: Path, **more: object) -> AsyncIterator[App]:
    async with running({"models_dir": str(folder / "models")} | more, a={"text": "Yes."}) as app:
        yield app


async def _names(app: App) -> set[str]:
    tags = (await app.client.get("/api/tags")).json()["models"]
    ids = (await app.client.get("/v1/models")).json()["data"]
    assert {tag["name"].removesuffix(":latest") for tag in tags} == {entry["id"] for entry in ids}
    return {entry["id"] for entry in ids}


async def test_a_modelfile_as_text_or_in_parts_makes_the_same_model(tmp_path: Path) -> None:
    system = "You are an expert.\nThink step by step."
    async with _served(tmp_path) as app:
        text = await app.client.post("/api/create", json={"name": "old", "modelfile": REASONING})
        client = _client(app)
        parts = [
            part.status
            async for part in await client.create(
                model="new", from_="phi4-mini", system=system, parameters={"temperature": 0.3, "top_p": 0.8}, stream=True
            )
        ]
        assert text.headers["content-type"] == "application/x-ndjson"
        assert json.loads(text.text.splitlines()[-1]) == {"status": "success"} == {"status": parts[-1]}
        old, new = [await client.show(name) for name in ("old", "new")]
        tags = {model.model: model for model in (await client.list()).models}
        assert tags["old:latest"].digest == tags["new:latest"].digest != tags["phi4-mini:latest"].digest
        assert {"old", "new"} <= await _names(app)
        generated = await client.generate(model="old", prompt="hi")
        assert generated.response == "Yes."
        assert _prompt(app) == f"<|system|>{system}<|end|><|user|>hi<|end|><|assistant|>"
    for shown in (old, new):
        assert shown.details is not None
        assert (shown.details.parent_model, shown.details.family) == ("phi4-mini:latest", "phi3")
        assert (shown.parameters or "").split() == ["temperature", "0.3", "top_p", "0.8"]
    assert old.modelfile == (new.modelfile or "").replace("new:latest", "old:latest")


async def test_a_shown_modelfile_makes_the_model_anew(tmp_path: Path) -> None:
    source = (
        REASONING
        + 'PARAMETER stop "  User:"\nPARAMETER stop <|x|>\nMESSAGE user """a\nb"""\nMESSAGE assistant c\nPARAMETER task math\n'
    )
    source += 'TEMPLATE """{{ .System }}|{{ .Prompt }}|"""\n'
    async with _served(tmp_path) as app:
        assert (await app.client.post("/api/create", json={"model": "one", "modelfile": source})).status_code == 200
        text = (await app.client.post("/api/show", json={"model": "one"})).json()["modelfile"]
        assert (await app.client.post("/api/create", json={"model": "two", "modelfile": text})).status_code == 200
        one, two = (app.gateway.catalog.resolve(name).variant for name in ("one", "two"))
        default = (await app.client.post("/api/show", json={"model": "phi4-mini"})).json()["template"]
        again = {"model": "three", "from": "phi4-mini", "template": default}
        assert (await app.client.post("/api/create", json=again)).status_code == 200
        assert app.gateway.catalog.resolve("three").variant.settings.template == ""
    assert one.settings == two.settings
    assert one.settings.task is Task.MATH
    assert one.settings.parameters["stop"] == ["  User:", "<|x|>"]


async def test_a_variant_counts_in_every_dialect_and_the_request_wins(tmp_path: Path) -> None:
    created = {
        "model": "pirate",
        "from": "phi4-mini",
        "system": "Arr.",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "parameters": {"temperature": 0.25, "num_predict": 7, "stop": ["."], "task": "coding"},
    }
    async with _served(tmp_path) as app:
        await app.client.post("/api/create", json=created)
        chat = await app.client.post("/v1/chat/completions", json={"model": "pirate", "messages": HI})
        assert chat.json()["model"] == "pirate"
        assert chat.json()["choices"][0]["message"]["content"] == "Yes"
        assert chat.headers["x-task"] == "coding"
        whole = "<|system|>Arr.<|end|><|user|>q<|end|><|assistant|>a<|end|><|user|>hi<|end|><|assistant|>"
        assert _prompt(app) == whole
        rendered = await app.client.post("/v1/chat/completions/render", json={"model": "pirate:latest", "messages": HI})
        assert rendered.json()["prompt"] == whole
        asked = {"model": "PIRATE", "messages": [{"role": "system", "content": "S"}, *HI], "temperature": 1.5, "stop": ["!"]}
        own = await app.client.post("/v1/chat/completions", json=asked | {"max_completion_tokens": 20})
        assert own.json()["choices"][0]["message"]["content"] == "Yes."
        assert _prompt(app).startswith("<|system|>S<|end|><|user|>q<|end|>")
        await app.client.post("/v1/completions", json={"model": "pirate", "prompt": "raw"})
        assert _prompt(app) == "raw"
        await app.client.post("/api/generate", json={"model": "pirate", "prompt": "hi", "options": {"num_predict": -1}})
        first, second, third, fourth = (request.sampling for request in app.engines["a"].requests)
    assert (first.temperature, first.max_tokens) == (0.25, 7)
    assert (second.temperature, second.max_tokens) == (1.5, 20)
    assert (third.temperature, third.max_tokens) == (0.25, 7)
    assert (fourth.temperature, fourth.max_tokens, fourth.top_k) == (0.25, None, 40)


async def test_variants_of_variants_keep_what_they_do_not_change(tmp_path: Path) -> None:
    async with _served(tmp_path) as app:
        await app.client.post(
            "/api/create", json={"model": "a/one:v1", "from": "phi4-mini", "system": "S", "parameters": {"seed": 1}}
        )
        await app.client.post("/api/create", json={"model": "two", "from": "a/one:v1", "parameters": {"top_k": 3}})
        two = app.gateway.catalog.resolve("two").variant.settings
    assert (two.system, two.parameters) == ("S", {"seed": 1, "top_k": 3})


async def test_copy_and_delete(tmp_path: Path) -> None:
    async with _served(tmp_path) as app:
        client = _client(app)
        await client.create(model="one", from_="phi4-mini", system="S")
        assert (await client.copy("one", "two")).status == "success"
        assert (await client.delete("one")).status == "success"
        assert (await _names(app)) & {"one", "two"} == {"two"}
        assert (await client.show("two")).modelfile
        for missing in (client.delete("one"), client.show("one"), client.copy("one", "x")):
            with pytest.raises(ollama.ResponseError, match="model 'one' not found") as caught:
                await missing
            assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="part of the configuration"):
            await client.delete("phi4-mini")
        with pytest.raises(ollama.ResponseError, match="served model's own name"):
            await client.create(model="phi4-mini", from_="phi4-mini")


async def test_created_models_hide_configured_ones_until_deleted(tmp_path: Path) -> None:
    variants = {"coder": {"from": "phi4-mini", "system": "configured", "task": "coding"}, "child": {"from": "coder"}}
    async with _served(tmp_path, variants=variants) as app:
        client = _client(app)
        assert app.gateway.catalog.resolve("child").variant.settings.system == "configured"
        await client.create(model="coder", from_="coder", system="created")
        assert app.gateway.catalog.resolve("coder").variant.settings.system == "created"
        await client.delete("coder")
        assert app.gateway.catalog.resolve("coder").variant.settings.system == "configured"
        with pytest.raises(ollama.ResponseError, match="part of the configuration"):
            await client.delete("coder")


async def test_pull_push_and_embeddings_tell_the_truth(tmp_path: Path) -> None:
    async with _served(tmp_path) as app:
        client = _client(app)
        steps = [step async for step in await client.pull("phi4-mini", stream=True)]
        assert [step.status for step in steps][0::4] == ["pulling manifest", "success"]
        assert steps[1].completed == steps[1].total
        assert steps[1].total
        assert (await client.pull("phi4-mini")).status == "success"
        for call, status, text in (
            (client.pull("llama3"), 404, "pull model manifest: file does not exist"),
            (client.push("phi4-mini"), 400, "not authorized to push"),
            (client.push("nope"), 404, "model 'nope' not found"),
            (client.embed("phi4-mini", "x"), 400, "'phi4-mini' generates text and makes no embeddings"),
            (client.embeddings("phi4-mini", "x"), 400, "'phi4-mini' generates text and makes no embeddings"),
        ):
            with pytest.raises(ollama.ResponseError, match=text) as caught:
                await call
            assert caught.value.status_code == status


async def test_ps_tells_which_groups_hold_the_model() -> None:
    async with running(a={"max_model_len": 512}, b={}, c={"absent": True}) as app:
        (entry,) = (await app.client.get("/api/ps")).json()["models"]
        assert (await _client(app).ps()).models[0].context_length == 4096
    assert [(group["name"], group["engine"], group["replicas"]) for group in entry["groups"]] == [
        ("a", "fake", 1),
        ("b", "fake", 1),
    ]
    assert entry["expires_at"] > "2260"  # as Ollama shows what is kept for good
    assert entry["size_vram"] == 0


def test_what_is_on_gpus_is_what_the_configuration_puts_there() -> None:
    weights = Weights.read(EMBEDDED)
    whole = {each: weights.loaded_bytes(each) for each in ("float32", "q8_0")}
    for settings, precision, share in (
        (VllmSettings(), "float32", 0.0),
        (VllmSettings(device="cuda"), "float32", 1.0),
        (OnnxSettings(provider="cuda"), "float32", 1.0),
        (LlamaCppSettings(), "q8_0", 0.0),
        (LlamaCppSettings(gpu_layers=-1), "q8_0", 1.0),
        (LlamaCppSettings(gpu_layers=7), "q8_0", 1.0),  # six layers, and the output
    ):
        assert weights.gpu_bytes(precision, count_gpu_layers(settings)) == whole[precision] * share
    some, all_layers = (weights.gpu_bytes("q8_0", layers) for layers in (3, 6))
    assert 2 * some == all_layers < whole["q8_0"]
    assert whole["q8_0"] - all_layers == int((2048 * 256 + 256) * 34 / 32)  # embeddings and the last norm


def test_mixed_weights_are_those_of_their_matrices() -> None:
    weights = Weights.read(EMBEDDED)
    finer = 6 * 512 * 256 + 2048 * 256  # down_proj of each layer, and the head
    assert weights.loaded_bytes("int4_mixed") == weights.loaded_bytes("int4") + finer // 2


async def test_weights_are_counted_exactly() -> None:
    async with running(a={}) as app:
        info = (await app.client.post("/api/show", json={"model": "phi4-mini"})).json()["model_info"]
    raw = Path("serve_app/models/embedded/model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    counted = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        counted += size
    assert info["general.parameter_count"] == counted
    assert info["phi3.context_length"] == 4096  # the group's; the weights could have 131072


HOSTILE = {
    "an absolute path": ({"from": "/etc/passwd"}, "FROM takes the name"),
    "a parent folder": ({"from": "../../model.gguf"}, "FROM takes the name"),
    "a parent within": ({"from": "a/../../b"}, "FROM takes the name"),
    "an address": ({"from": "https://host/model"}, "FROM takes the name"),
    "a digest": ({"from": "sha256:" + "0" * 64}, "FROM takes the name"),
    "a file": ({"from": "model.gguf"}, "FROM takes the name"),
    "nothing": ({}, "from is required"),
    "an unknown model": ({"from": "llama3"}, "model 'llama3' not found"),
    "files": ({"files": {"m.gguf": "sha256:" + "0" * 64}}, "files is not served"),
    "adapters": ({"from": "phi4-mini", "adapters": {"a": "sha256:0"}}, "adapters is not served"),
    "an adapter's path": ({"modelfile": "FROM phi4-mini\nADAPTER ../../x"}, "Modelfile line 2: ADAPTER"),
    "a path in FROM": ({"modelfile": "FROM ./../x.bin"}, "FROM takes the name"),
    "another number format": ({"from": "phi4-mini", "quantize": "q4_0"}, "quantize is not served"),
    "a server's path": ({"path": "/etc/Modelfile"}, "path is not served"),
    "an unknown parameter": ({"from": "phi4-mini", "parameters": {"x": 1}}, 'parameter "x"'),
    "a parameter's type": ({"from": "phi4-mini", "parameters": {"seed": "x"}}, 'parameter "seed" must be of type integer'),
    "an unknown task": ({"from": "phi4-mini", "parameters": {"task": "x"}}, 'parameter "task" must be one of'),
    "a template's call": ({"from": "phi4-mini", "template": "{{ printf .X }}"}, "template line 1"),
    "a lost surrogate": ({"from": "phi4-mini", "system": "\ud800"}, ""),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_creations_leave_nothing(case: str, tmp_path: Path) -> None:
    body, text = HOSTILE[case]
    async with _served(tmp_path) as app:
        response = await app.client.post("/api/create", content=json.dumps({"model": "bad"} | body))
        assert "bad" not in await _names(app)
    assert 400 <= response.status_code < 500
    assert text in response.json()["error"]
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "name",
    ["../up", "/etc/x", "a//b", "a/../b", ".hidden", "a b", "", "a:b:c", "x" * 300, "a\x00b", "a\nb", "ü", "a/b/c/d", "C:\\x"],
)
async def test_hostile_names(name: str, tmp_path: Path) -> None:
    async with _served(tmp_path) as app:
        created = await app.client.post("/api/create", json={"model": name, "from": "phi4-mini"})
        copied = await app.client.post("/api/copy", json={"source": "phi4-mini", "destination": name})
    assert (created.status_code, copied.status_code) == (400, 400)
    assert not list(tmp_path.rglob("*"))


async def test_a_modelfile_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1600):
            sent += 1 << 16
            yield b"#" * (1 << 16)

    async with _served(tmp_path) as app:
        response = await app.client.post("/api/create", content=body())
    assert response.status_code == 413
    assert set(response.json()) == {"error"}
    assert sent < 1 << 20


async def test_blobs_are_what_their_digest_says(tmp_path: Path) -> None:
    raw = b"some file"
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    file = tmp_path / "file"
    file.write_bytes(raw)
    async with _served(tmp_path) as app:
        assert (await app.client.head(f"/api/blobs/{digest}")).status_code == 404
        assert await _client(app).create_blob(file) == digest
        assert (await app.client.head(f"/api/blobs/{digest}")).status_code == 200
        wrong = await app.client.post(f"/api/blobs/{digest}", content=b"other")
        assert (wrong.status_code, "not the content's SHA-256" in wrong.json()["error"]) == (400, True)
        for bad in ("sha256:..%2f..%2fx", "sha256:0", "..%2f..%2fetc%2fpasswd", "sha512:" + "0" * 64, "sha256:" + "A" * 64):
            for method in ("HEAD", "POST"):
                response = await app.client.request(method, f"/api/blobs/{bad}", content=raw)
                assert response.status_code in (400, 404)
        assert (await app.client.get(f"/api/blobs/{digest}")).status_code == 405
    kept = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(map(str, kept)) == ["file", f"models/blobs/{digest.replace(':', '-')}"]


async def test_without_a_folder_nothing_can_be_made() -> None:
    async with running(a={}) as app:
        response = await app.client.post("/api/create", json={"model": "x", "from": "phi4-mini"})
    assert response.status_code == 400
    assert "models_dir" in response.json()["error"]


async def test_a_configured_template_that_cannot_be_run_stops_the_start() -> None:
    with pytest.raises(InvalidValue, match="template line 1"):
        async with running({"variants": {"x": {"template": "{{ printf }}"}}}, a={}):
            pass


def test_the_shipped_configuration_has_the_tutorials_variants() -> None:

    config: Any = yaml.safe_load(Path("serve_config.yaml").read_text())
    variants = AppSettings.model_validate(config["applications"][0]["args"]).variants
    reasoning, coder = variants["phi4-mini-reasoning"], variants["phi4-mini-coder"]
    assert reasoning.parameters == {"temperature": 0.3, "top_p": 0.8}
    assert coder.parameters == {"temperature": 0.5, "top_p": 0.9}
    assert "step by step" in reasoning.system
    assert "coding assistant" in coder.system
    assert (reasoning.task, coder.task) == (Task.REASONING, Task.CODING)
