"""Embeddings over HTTP, without Ray: official clients, both dialects, wrong requests, limits, retries, accounts."""

import base64
import json
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import langchain_openai
import numpy as np
import ollama
import openai
import pytest

from serve_app.accounting import REQUEST_LOG
from serve_app.errors import EngineDead, EngineError, InvalidRequest, ModelUnusable, Overloaded
from serve_app.models.catalog import Catalog
from tests.unit.app import App, running, served_models

EMBEDDINGS = "/v1/embeddings"
MODELS: dict[str, Any] = {"models": {"phi": {}, "mini": {"aliases": ["small"]}}}
ENCODER: dict[str, Any] = {"kind": "onnx_encoder", "model": "mini"}


@asynccontextmanager
async def _serving(extra: dict[str, Any] | None = None, **more: Any) -> AsyncIterator[App]:
    """Serve a model that generates, and an embedding model with two groups."""
    groups = {"a": {}, "e": dict(ENCODER), "f": dict(ENCODER)}
    async with running(MODELS | (extra or {}), **more, **groups) as app:
        yield app


def _sdk(app: App) -> openai.AsyncOpenAI:
    http = httpx.AsyncClient(transport=app.asgi, base_url="http://test")
    return openai.AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=http, max_retries=0)


async def _post(app: App, path: str = EMBEDDINGS, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return await app.client.post(path, json={"model": "mini"} | body, headers=headers)


async def test_the_official_client_gets_the_same_numbers_in_both_forms() -> None:
    async with _serving() as app:
        by_default = await _sdk(app).embeddings.create(model="mini", input=["ab", "a b", "ab"])  # asks for base64
        as_floats = await _sdk(app).embeddings.create(model="small", input=["ab", "a b", "ab"], encoding_format="float")
    assert [each.index for each in by_default.data] == [0, 1, 2]
    assert [each.embedding for each in by_default.data] == [each.embedding for each in as_floats.data]
    assert by_default.data[0].embedding == by_default.data[2].embedding != by_default.data[1].embedding
    assert math.isclose(float(np.linalg.norm(by_default.data[0].embedding)), 1, abs_tol=1e-6)
    assert (by_default.usage.prompt_tokens, by_default.usage.total_tokens) == (12, 12)
    assert (by_default.model, as_floats.model) == ("mini", "small")


async def test_langchain_embeds_documents_and_queries() -> None:
    async with _serving() as app:
        http = httpx.AsyncClient(transport=app.asgi, base_url="http://test")
        langchain = langchain_openai.OpenAIEmbeddings(
            model="mini", base_url="http://test/v1", api_key="x", http_async_client=http, check_embedding_ctx_length=False
        )
        documents = await langchain.aembed_documents(["one", "two"])
        assert documents[1] == await langchain.aembed_query("two")


async def test_ollamas_client_embeds_a_text_and_a_list() -> None:
    async with _serving() as app:
        client = ollama.AsyncClient(host="http://test", transport=app.asgi)
        one, two = await client.embed(model="mini", input="ab"), await client.embed(model="mini", input=["ab", "c"])
        legacy = await client.embeddings(model="mini", prompt="ab")
    assert list(one.embeddings[0]) == list(two.embeddings[0])
    assert (one.prompt_eval_count, two.prompt_eval_count, two.load_duration) == (4, 7, 0)
    assert one.total_duration is not None
    assert len(legacy.embedding) == 16


async def test_texts_ids_and_lists_of_ids_are_the_same_inputs() -> None:
    async with _serving() as app:
        text = (await _post(app, input="ab")).json()["data"][0]["embedding"]
        ids = app.encoders["e"].requests[-1].inputs[0]
        assert ids == (2, 5, 32, 3)  # the special tokens are the tokenizer's
        assert (await _post(app, input=list(ids))).json()["data"][0]["embedding"] == text
        several = (await _post(app, input=[list(ids), list(ids[1:-1]), [5]])).json()
        assert app.encoders["e"].requests[-1].inputs == (ids, ids, (2, 5, 3))  # special tokens are added where there are none
    assert [each["embedding"] == text for each in several["data"]] == [True, True, False]
    assert several["usage"] == {"prompt_tokens": 11, "total_tokens": 11}


async def test_a_special_token_that_a_text_spells_is_ordinary_text() -> None:
    async with _serving() as app:
        assert (await _post(app, input="[SEP] a [CLS]")).status_code == 200
        ids = app.encoders["e"].requests[-1].inputs[0]
    assert (ids[0], ids[-1]) == (2, 3)
    assert not {2, 3} & set(ids[1:-1])


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ({}, "input", "Field required"),
        ({"input": None}, "input", "must be a string"),
        ({"input": ""}, "input", "must not be an empty string"),
        ({"input": []}, "input", "must not be an empty list"),
        ({"input": ["a", ""]}, "input.1", "must not be an empty string"),
        ({"input": ["a", 5]}, "input.1", "must be a string"),
        ({"input": ["a", None]}, "input.1", "must be a string"),
        ({"input": [5, "a"]}, "input.1", "token id"),
        ({"input": [5, -1]}, "input.1", "token id"),
        ({"input": [5, 6.0]}, "input.1", "token id"),
        ({"input": [5, True]}, "input.1", "token id"),
        ({"input": [[5], []]}, "input.1", "at least one token id"),
        ({"input": [[5], "a"]}, "input.1", "at least one token id"),
        ({"input": [[[5]]]}, "input.0.0", "token id"),
        ({"input": {"text": "a"}}, "input", "must be a string"),
        ({"input": 7}, "input", "must be a string"),
        ({"input": [5, 57]}, "input", "input 0 has the token id 57; this model's ids are 0 to 56"),
        ({"input": [[5], [10**30]]}, "input", "input 1 has the token id of a large number"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "dimensions": 17}, "dimensions", "between 1 and 16"),
        ({"input": "a", "dimensions": True}, "dimensions", "integer"),
        ({"input": "a", "encoding_format": "BASE64"}, "encoding_format", "base64"),
        ({"input": "a", "encoding_format": 1}, "encoding_format", "base64"),
        ({"input": "a " * 47}, "input", "maximum input length is 48 tokens, but input 0 has 49 tokens"),
        ({"input": ["a", "b" * 47]}, "input", "but input 1 has 49 tokens"),
        ({"input": ["a"] * 6}, "input", "at most 5 inputs at once, got 6"),
        ({"input": "a", "model": "phi"}, "model", "'phi' generates text and makes no embeddings; embedding models are: mini"),
        ({"input": "a", "model": 5}, "model", "string"),
    ],
)
async def test_a_wrong_request_is_told_where_and_why(fields: dict[str, Any], where: str, said: str) -> None:
    async with _serving({"limits": {"max_embedding_inputs": 5}}) as app:
        refused = await _post(app, **fields)
        assert not app.encoders["e"].requests
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["param"]) == (400, "invalid_request_error", where)
    assert said in error["message"]


async def test_bodies_that_are_no_json_or_nested_without_end() -> None:
    async with _serving() as app:
        for raw in (b"", b"{", b'{"input": NaN}', b'{"input": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", b'{"input": "\\ud800"}'):
            assert (await app.client.post(EMBEDDINGS, content=raw)).status_code == 400, raw[:40]
        assert (await app.client.post(EMBEDDINGS, content=b'{"input":[' + b"1," * 60_000 + b"1]}")).status_code == 413
        ids = await app.client.post(EMBEDDINGS, content=b'{"input":[' + b"1," * 40_000 + b"1]}")
    assert "input 0 has 40003 tokens" in ids.json()["error"]["message"]


async def test_dimensions_cut_and_scale_again() -> None:
    async with _serving() as app:
        whole = np.asarray((await _post(app, input="abc")).json()["data"][0]["embedding"])
        cut = (await _post(app, input="abc", dimensions=4, encoding_format="base64")).json()["data"][0]["embedding"]
    found = np.frombuffer(base64.b64decode(cut), "<f4")
    np.testing.assert_allclose(found, whole[:4] / np.linalg.norm(whole[:4]), atol=1e-6)


async def test_ollama_cuts_unless_told_not_to_and_answers_no_input_with_no_vectors() -> None:
    async with _serving() as app:
        long = "a " * 60
        assert (await _post(app, "/api/embed", input=long)).json()["prompt_eval_count"] == 48
        ids = app.encoders["e"].requests[-1].inputs[0]
        assert (ids[0], ids[-1], len(ids)) == (2, 3, 48)
        for path, body in (("/api/embed", {"input": long, "truncate": False}), ("/api/embeddings", {"prompt": long})):
            refused = await _post(app, path, **body)
            assert (refused.status_code, "62 tokens" in refused.json()["error"]) == (400, True)
        for given in ("", [], None):
            assert (await _post(app, "/api/embed", input=given)).json() == {"model": "mini", "embeddings": []}
        assert (await _post(app, "/api/embeddings", prompt="")).json() == {"embedding": []}
        cut = (await _post(app, "/api/embed", input="a", dimensions=4)).json()["embeddings"][0]
        assert (len(cut), math.isclose(float(np.linalg.norm(cut)), 1, abs_tol=1e-6)) == (4, True)
        normalized = [request.normalized for request in app.encoders["e"].requests]
        assert set(normalized) == {True}
        await _post(app, "/api/embeddings", prompt="a")
        assert app.encoders["e"].requests[-1].normalized is None  # as the model's own files say
        for wrong in ({"input": 5}, {"input": [5]}, {"input": {}}, {"keep_alive": "soon"}, {"model": ""}, {"model": "phi"}):
            assert (await _post(app, "/api/embed", **({"input": "a"} | wrong))).status_code == 400


async def test_the_first_embedding_model_answers_requests_without_a_name() -> None:
    extra = {"models": {"mini": {}, "phi": {}, "other": {}}}
    groups: dict[str, Any] = {"a": {"model": "phi"}, "e": {"kind": "onnx_encoder"}, "g": {"kind": "onnx_encoder", "model": "other"}}
    async with running(extra, **groups) as app:
        unnamed = await app.client.post(EMBEDDINGS, json={"input": "a"})
        by_group = await app.client.post(EMBEDDINGS, json={"input": "a"}, headers={"x-engine": "g"})
        chat = await app.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
        wrong = await _post(app, headers={"x-engine": "g"}, input="a")
    assert (unnamed.json()["model"], unnamed.headers["x-model"], unnamed.headers["x-engine"]) == ("mini", "mini", "e")
    assert by_group.json()["model"] == "other"
    assert chat.headers["x-model"] == "phi"
    assert (wrong.status_code, "serves the model 'other', not 'mini'" in wrong.text) == (400, True)


async def test_each_kind_of_model_names_the_endpoints_of_the_other() -> None:
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "input": "hi", "max_tokens": 5}
    text = {"prompt": "hi"}
    paths = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate")
    async with _serving() as app:
        for path in (*paths, "/tokenize", "/v1/route"):
            body = text if path in ("/v1/completions", "/api/generate", "/tokenize") else chat
            refused = await app.client.post(path, json=body | {"model": "mini"})
            assert refused.status_code == 400, (path, refused.text)
            assert "'mini' is an embedding model" in refused.text
            assert "POST /v1/embeddings and POST /api/embed" in refused.text
        unknown = await _post(app, input="a", model="none")
        assert (unknown.status_code, "Served here: phi, mini, small" in unknown.text) == (404, True)
    async with running({"models": {"phi": {}}}, a={}) as app:
        for path, name in (
            (EMBEDDINGS, "phi"),
            (EMBEDDINGS, "text-embedding-3-small"),
            ("/api/embed", "phi"),
            ("/api/embeddings", "x"),
        ):
            refused = await app.client.post(path, json={"model": name, "input": "a", "prompt": "a"})
            assert (refused.status_code, "`kind: onnx_encoder`" in refused.text) == (400, True), refused.text
        assert "`kind: onnx_encoder`" in (await app.client.post(EMBEDDINGS, json={"input": "a"})).text


async def test_lists_and_descriptions_show_the_model() -> None:
    async with _serving({"routing": {"auto": {"general": "phi"}}}) as app:
        listed = (await app.client.get("/v1/models")).json()["data"]
        assert {"phi", "mini", "small", "auto"} <= {each["id"] for each in listed}
        shown = (await app.client.post("/api/show", json={"model": "mini"})).json()
        assert (shown["capabilities"], shown["model_info"]["bert.embedding_length"]) == (["embedding"], 16)
        tags = (await app.client.get("/api/tags")).json()["models"]
        assert next(each for each in tags if each["name"] == "mini:latest")["details"]["family"] == "bert"
        loaded = (await app.client.get("/api/ps")).json()["models"]
        assert {each["name"] for each in loaded} == {"phi:latest", "mini:latest"}
        health = (await app.client.get("/health")).json()
        assert (health["model"], health["groups"]["e"]["model"]) == ("phi", "mini")
        assert {each["name"] for each in (await app.client.get("/v1/cluster")).json()["groups"]} == {"a", "e", "f"}


async def test_names_of_an_embedding_model_can_be_copied_but_not_prompted(tmp_path: Any) -> None:
    async with _serving({"models_dir": str(tmp_path)}) as app:
        assert (await app.client.post("/api/copy", json={"source": "mini", "destination": "copied"})).status_code == 200
        assert (await _post(app, model="copied", input="a")).json()["model"] == "copied"
        refused = await app.client.post("/api/create", json={"model": "new", "from": "mini", "system": "Be brief."})
    assert (refused.status_code, "is an embedding model" in refused.text) == (400, True)


async def test_a_failed_or_full_group_is_noticed_only_in_the_headers() -> None:
    for fault in (EngineDead("gone"), EngineError("failed"), Overloaded("full")):
        async with _serving() as app:
            app.encoders["e"].faults = [fault]
            answer = await _post(app, input="a")
            assert (answer.status_code, answer.headers["x-engine"], answer.headers["x-attempts"]) == (200, "f", "2"), fault
            assert answer.headers["x-route-reason"] == "failover"


async def test_a_fault_of_the_request_is_no_fault_of_the_engine() -> None:
    async with _serving() as app:
        app.encoders["e"].faults = [InvalidRequest("wrong", param="input") for _ in range(20)]
        statuses = {(await _post(app, input="a")).status_code for _ in range(20)}
        metrics = (await app.client.get("/metrics")).text
    assert statuses == {400}
    assert 'group="e",ingress="",replica="",state="open"' not in metrics
    assert not app.encoders["f"].requests


async def test_a_request_waits_no_longer_than_the_client_allows() -> None:
    async with _serving() as app:
        app.encoders["e"].hangs = True
        late = await _post(app, input="a", headers={"x-timeout-s": "0.2"})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert app.encoders["e"].cancelled == 1
        assert app.gateway.active == 0


async def test_the_log_and_the_metrics_count_the_tokens(caplog: pytest.LogCaptureFixture) -> None:
    async with _serving() as app:
        with caplog.at_level(logging.INFO, REQUEST_LOG.name):
            await _post(app, input=["abc", "d"])
            await _post(app, input=[])
            await _post(app, input="a", model="none")
        lines = [json.loads(entry.message) for entry in caplog.records if entry.name == REQUEST_LOG.name]
        metrics = (await app.client.get("/metrics")).text
    fields = [(each["model"], each["engine"], each["outcome"], each["prompt_tokens"], each["completion_tokens"]) for each in lines]
    assert fields == [("mini", "e", "ok", 8, 0), ("none", "none", "model_not_found", 0, 0)]
    assert 'phi_serve_tokens_total{engine="e",ingress="",kind="prompt",model="mini",task="none"} 8.0' in metrics


async def test_an_input_goes_to_a_group_that_takes_its_length() -> None:
    groups: dict[str, Any] = {"a": {}, "short": ENCODER | {"max_model_len": 16}, "long": dict(ENCODER)}
    async with running(MODELS, **groups) as app:
        for length, group in ((14, "short"), (15, "long"), (46, "long")):
            answer = await _post(app, input="a" * length)
            assert (answer.status_code, answer.headers["x-engine"]) == (200, group), length
        refused = await _post(app, input="a" * 15, headers={"x-engine": "short"})
        assert (refused.status_code, "maximum input length is 16 tokens" in refused.text) == (400, True)
        cut = await _post(app, "/api/embed", input="a" * 100, headers={"x-engine": "short"})
        assert (cut.json()["prompt_eval_count"], cut.headers["x-engine"]) == (16, "short")
        unknown = await _post(app, input="a", headers={"x-engine": "none"})
        assert (unknown.status_code, "no engine group 'none'; configured are: short, long" in unknown.text) == (400, True)


async def test_a_name_can_be_demanded() -> None:
    async with _serving(routing={"require_model": True}) as app:
        refused = await _post(app, input="a", model=None)
        assert (refused.status_code, "name the embedding model; served here: mini" in refused.text) == (400, True)
        assert (await _post(app, input="a", model=None, headers={"x-engine": "f"})).status_code == 200


async def test_names_may_be_kept_to_groups() -> None:
    async with _serving(routing={"models": {"small": ["f"]}}) as app:
        assert (await _post(app, input="a", model="small")).headers["x-engine"] == "f"
        assert not app.encoders["e"].requests


async def test_a_group_that_is_not_ready_is_a_503() -> None:
    async with running(MODELS, a={}, e=ENCODER | {"absent": True}) as app:
        for path, fields in ((EMBEDDINGS, {"input": "a"}), ("/api/embed", {"input": "a " * 100}), ("/api/embed", {"input": ""})):
            refused = await _post(app, path, **fields)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5"), refused.text


async def test_a_model_that_cannot_be_served_says_why() -> None:
    async with _serving() as app:
        served = [model for model in served_models(app.gateway.settings) if model.name != "mini"]
        faults = {"mini": ModelUnusable("tokenizer.json is missing")}
        app.gateway.use(Catalog(app.gateway.settings, served, created=1, faults=faults))
        for body in ({"input": "a"}, {"input": "a", "model": None}):
            refused = await _post(app, **body)
            assert (refused.status_code, refused.json()["error"]["message"]) == (503, "tokenizer.json is missing")
        assert "mini" not in (await app.client.get("/api/tags")).text
        assert (await app.client.get("/health")).status_code == 503
        assert (await _post(app, input="a", model="phi")).status_code == 400


async def test_a_large_answer_and_a_large_body_are_as_small_ones() -> None:
    async with _serving({"limits": {"max_embedding_inputs": 10_000}}) as app:
        small, large = await _post(app, input="ab"), await _post(app, input=["ab"] * 8000)
        long = await _post(app, "/api/embed", input="ab " * 80_000)
    expected = small.json()["data"][0]["embedding"]
    assert [each["embedding"] for each in large.json()["data"]] == [expected] * 8000
    assert long.json()["prompt_eval_count"] == 48
