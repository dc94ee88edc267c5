"""Several models behind one ingress, over fake groups: names, isolation, `auto`, and what lists and metrics show."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from serve_app.accounting import REQUEST_LOG
from serve_app.config import RoutingSettings
from serve_app.errors import ModelUnusable
from serve_app.models.catalog import Catalog
from tests.unit.app import App, running, served_models

CHAT = "/v1/chat/completions"
MODELS = {"phi": {"aliases": ["p"]}, "smol": {"think_tags": ["<think>", "</think>"]}}
CODE = "Write a Python function that reverses a linked list, with type hints and a docstring."
STORY = "Good morning! Tell me a story about a friendly dragon who loves the sea."
AUTO = {"auto": {"coding": "smol", "general": "phi"}}


def _two(extra: Mapping[str, Any] = MappingProxyType({}), a: Mapping[str, Any] = {}, b: Mapping[str, Any] = {}, **more: Any) -> Any:
    """Groups a and c serve phi, group b serves smol."""
    engines = {"a": dict(a), "b": {"model": "smol", "text": "from smol"} | dict(b), "c": {"max_model_len": 512}}
    return running({"models": MODELS, **extra}, **more, **engines)


async def _ask(app: App, model: str | None, text: str = "hi", path: str = CHAT, **more: Any) -> Any:
    headers = more.pop("headers", {})
    body = {"messages": [{"role": "user", "content": text}], "prompt": text, **more} | ({"model": model} if model else {})
    return await app.client.post(path, json=body, headers=headers)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/reasoning", "/api/chat", "/api/generate"])
@pytest.mark.parametrize("stream", [False, True])
async def test_each_name_is_answered_by_its_own_models_groups(path: str, stream: bool) -> None:
    async with _two() as app:
        for name, groups, model in (("phi", "ac", "phi"), ("P:latest", "ac", "phi"), ("smol", "b", "smol")):
            answer = await _ask(app, name, path=path, stream=stream)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-engine"] in groups
            assert answer.headers["x-model"] == model
        missing = await _ask(app, "other", path=path)
        assert missing.status_code == 404
        assert missing.headers["x-model"] == "none"


async def test_no_name_means_the_first_model_or_that_of_the_named_group() -> None:
    async with _two() as app:
        first, of_group = await _ask(app, None), await _ask(app, None, headers={"x-engine": "b"})
    assert (first.headers["x-model"], first.json()["model"]) == ("phi", "phi")
    assert (of_group.headers["x-model"], of_group.json()["model"]) == ("smol", "smol")


async def test_a_group_of_another_model_is_refused_with_the_models_own_groups() -> None:
    async with _two() as app:
        wrong = await _ask(app, "phi", headers={"x-engine": "b"})
        unknown = await _ask(app, "phi", headers={"x-engine": "z"})
    assert (wrong.status_code, unknown.status_code) == (400, 400)
    assert "'b' serves the model 'smol', not 'phi', whose groups are: a, c" in wrong.json()["error"]["message"]
    assert "no engine group 'z'" in unknown.json()["error"]["message"]


async def test_an_answer_never_comes_from_another_model() -> None:
    async with _two(b={"fault": "fail_first"}) as app:
        failed = await _ask(app, "smol")
        assert failed.status_code == 500
        assert not app.engines["a"].requests
        assert not app.engines["c"].requests
        assert (await _ask(app, "phi")).status_code == 200
        states = [line for line in (await app.client.get("/metrics")).text.splitlines() if line.startswith("phi_serve_breaker{")]
    assert not [line for line in states if 'state="open"' in line and 'group="b"' not in line]


async def test_a_full_model_leaves_the_others_their_room() -> None:
    async with _two() as app:
        app.gateway.active_by_model["smol"] = 256
        assert (await _ask(app, "smol")).status_code == 503
        assert (await _ask(app, "phi")).status_code == 200


async def test_the_failures_of_a_model_leave_the_others_their_retries() -> None:
    routing = {"retry_reserve": 1, "retry_ratio": 0.0, "breaker": {"failures": 100, "min_requests": 100}}
    async with _two(routing=routing, b={"fault": "fail_first"}, a={"fault": "fail_first"}) as app:
        for _ in range(4):
            assert (await _ask(app, "smol")).status_code == 500
        answer = await _ask(app, "phi")
    assert (answer.status_code, answer.headers["x-engine"], answer.headers["x-attempts"]) == (200, "c", "2")


async def test_contexts_are_those_of_the_models_own_groups() -> None:
    long = "word " * 3000
    async with _two({}, b={"max_model_len": 100}) as app:
        listed = {model["id"]: model["max_model_len"] for model in (await app.client.get("/v1/models")).json()["data"]}
        fits, not_here = await _ask(app, "phi", long), await _ask(app, "smol", long)
        counted = (await app.client.post("/tokenize", json={"model": "smol", "prompt": "hi"})).json()
    assert listed == {"phi": 4096, "p": 4096, "smol": 100}
    assert (fits.status_code, not_here.status_code) == (200, 400)
    assert "maximum context length is 100 tokens" in not_here.json()["error"]["message"]
    assert counted["max_model_len"] == 100


async def test_ollama_lists_and_shows_each_model() -> None:
    async with _two({"variants": {"tutor": {"from": "smol", "system": "S"}}}) as app:
        names = [model["name"] for model in (await app.client.get("/api/tags")).json()["models"]]
        loaded = {
            model["name"]: [group["name"] for group in model["groups"]]
            for model in (await app.client.get("/api/ps")).json()["models"]
        }
        shown = {name: (await app.client.post("/api/show", json={"model": name})).json() for name in ("phi", "smol", "tutor")}
        answer = await _ask(app, "tutor")
    assert names == ["phi:latest", "p:latest", "smol:latest", "tutor:latest"]
    assert loaded == {"phi:latest": ["a", "c"], "smol:latest": ["b"]}
    assert [("thinking" in shown[name]["capabilities"]) for name in ("phi", "smol", "tutor")] == [False, True, True]
    assert shown["tutor"]["details"]["parent_model"] == "smol:latest"
    assert (answer.headers["x-model"], answer.json()["model"]) == ("smol", "tutor")


async def test_created_models_derive_from_any_and_stay_with_their_model(tmp_path: Any) -> None:
    stored = {"models_dir": str(tmp_path)}
    async with _two(stored) as app:
        for name, parent in (("mine", "smol"), ("child", "mine"), ("other", "p")):
            created = await app.client.post("/api/create", json={"model": name, "from": parent, "system": "S", "stream": False})
            assert created.status_code == 200, created.text
        await app.client.request("DELETE", "/api/delete", json={"model": "mine"})
        answers = [(await _ask(app, name)).headers["x-model"] for name in ("child", "other")]
    assert answers == ["smol", "phi"]
    async with running({"models": {"phi": MODELS["phi"]}, **stored}, a={}) as app:  # smol is taken out
        gone, kept = await _ask(app, "child"), await _ask(app, "other")
        names = [model["id"] for model in (await app.client.get("/v1/models")).json()["data"]]
        deleted = await app.client.request("DELETE", "/api/delete", json={"model": "child"})
    assert (gone.status_code, kept.status_code, deleted.status_code) == (404, 200, 200)
    assert "derives from 'smol', which is not served any more" in gone.json()["error"]["message"]
    assert names == ["phi", "p", "other"]


async def test_the_log_and_the_metrics_carry_the_model(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, REQUEST_LOG.name):
        async with _two() as app:
            for name in ("smol", "p", "nothing"):
                await _ask(app, name)
            metrics = (await app.client.get("/metrics")).text
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == REQUEST_LOG.name]
    assert [(line["model"], line["outcome"]) for line in lines] == [("smol", "ok"), ("phi", "ok"), ("none", "model_not_found")]
    for model, engine in (("smol", "b"), ("phi", "a")):
        assert f'phi_serve_requests_total{{engine="{engine}",ingress="",model="{model}",outcome="ok"' in metrics


async def test_a_model_that_cannot_be_loaded_leaves_the_others_alone() -> None:
    async with _two({"variants": {"tutor": {"from": "smol", "system": "S"}}}, routing=AUTO | {"auto_fallback": ["phi"]}) as app:
        settings = app.gateway.settings
        fault = ModelUnusable("tokenizer.json is missing; fetch the model again")
        catalog = Catalog(settings, served_models(settings)[:1], created=1, faults={"smol": fault})
        app.gateway.use(catalog)
        fine, broken, derived = await _ask(app, "phi"), await _ask(app, "smol"), await _ask(app, "tutor")
        instead = await _ask(app, "auto", CODE)
        names = [model["id"] for model in (await app.client.get("/v1/models")).json()["data"]]
        state = await app.client.get("/health")
        health = state.json()["models"]
        loaded = (await app.client.get("/api/ps")).json()["models"]
    assert [answer.status_code for answer in (fine, broken, derived)] == [200, 503, 503]
    assert broken.json()["error"]["message"] == derived.json()["error"]["message"] == fault.message
    assert (instead.headers["x-model"], instead.headers["x-route-reason"]) == ("phi", "auto-fallback")
    assert names == ["phi", "p", "auto"]
    assert (state.status_code, state.json()["status"]) == (503, "degraded")
    assert health["phi"] == {"status": "healthy", "groups": ["a", "c"]}
    assert health["smol"] == {"status": "failed", "groups": ["b"], "reason": fault.message}
    assert [model["name"] for model in loaded] == ["phi:latest"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/reasoning", "/api/chat", "/api/generate"])
@pytest.mark.parametrize("stream", [False, True])
async def test_auto_names_the_model_that_answers(path: str, stream: bool) -> None:
    async with _two(routing=AUTO) as app:
        for text, task, model in ((CODE, "coding", "smol"), (STORY, "reasoning", "phi")):
            answer = await _ask(
                app, "auto", text, path=path, stream=stream, **({"task_type": task} if path == "/reasoning" else {})
            )
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-model"] == model
            assert f'"model":"{model}"' in answer.text.replace('": "', '":"')
        explicit = await _ask(app, "auto", STORY, path=path, stream=stream, headers={"x-task": "coding"})
        by_group = await _ask(app, "auto", STORY, path=path, stream=stream, headers={"x-engine": "b"})
    assert explicit.headers["x-model"] == by_group.headers["x-model"] == "smol"


async def test_without_a_configuration_there_is_no_auto() -> None:
    async with _two() as app:
        assert (await _ask(app, "auto")).status_code == 404
        assert "auto" not in (await app.client.get("/v1/models")).text


async def test_no_name_means_auto_where_configured() -> None:
    async with _two(routing=AUTO | {"auto_unnamed": True}) as app:
        assert [(await _ask(app, None, text)).json()["model"] for text in (CODE, STORY)] == ["smol", "phi"]


async def test_the_preview_explains_auto() -> None:
    async with _two(routing=AUTO) as app:
        turns = [{"role": "user", "content": CODE}, {"role": "assistant", "content": "def f(): ..."}]
        later = [*turns, {"role": "user", "content": "Thank you very much, that was really helpful!"}]
        shown = [
            (await app.client.post("/v1/route", json=body)).json()
            for body in ({"messages": turns[:1], "model": "auto"}, {"messages": later, "model": "auto"}, {"text": CODE})
        ]
        debug = await _ask(app, "auto", CODE, headers={"x-debug-route": "true"})
    assert [(each["model"], each["model_reason"], each["candidates"]) for each in shown] == [
        ("smol", "task", ["b"]), ("smol", "conversation", ["b"]), ("phi", "default", ["a", "c"]),
    ]  # fmt: skip
    assert [candidate["group"] for candidate in json.loads(debug.headers["x-route-candidates"])] == ["b"]


@pytest.mark.parametrize("fault", ["fail_first", "absent"])
@pytest.mark.parametrize("stream", [False, True])
async def test_another_model_answers_only_where_that_is_allowed(fault: str, stream: bool) -> None:
    broken = {"absent": True} if fault == "absent" else {"fault": fault}
    async with _two(routing=AUTO, b=broken) as app:
        refused = await _ask(app, "auto", CODE, stream=stream)
    async with _two(routing=AUTO | {"auto_fallback": ["phi"]}, b=broken) as app:
        answer = await _ask(app, "auto", CODE, stream=stream)
        wrong = await _ask(app, "auto", CODE, stream=stream, temperature=9)
        named = await _ask(app, "smol", CODE, stream=stream)
    assert refused.status_code == named.status_code == (503 if fault == "absent" else 500)
    assert (answer.status_code, answer.headers["x-model"], answer.headers["x-route-reason"]) == (200, "phi", "auto-fallback")
    assert '"model":"phi"' in answer.text
    assert wrong.status_code == 400


async def test_a_model_that_stands_in_and_refuses_does_not_make_the_request_a_faulty_one() -> None:
    routing = {"auto": {"coding": "smol", "general": "phi"}, "auto_fallback": ["phi"]}
    async with _two(routing=routing, b={"absent": True}) as app:
        thinking = await _ask(app, "auto", CODE, path="/api/chat", think=True, stream=False)
        too_long = await _ask(app, "auto", CODE * 60)
        own = await _ask(app, "phi", path="/api/chat", think=True, stream=False)
    assert [answer.status_code for answer in (thinking, own)] == [503, 400]
    assert "b is starting" in thinking.json()["error"]
    assert too_long.status_code == 200
    models = {"phi": {}, "smol": {"think_tags": ["<think>", "</think>"]}, "third": {"think_tags": ["<think>", "</think>"]}}
    more = {"c": {"model": "third"}}
    settings = {"models": models, "routing": routing | {"auto_fallback": ["phi", "third"]}}
    async with running(settings, a={}, b={"model": "smol", "absent": True}, **more) as app:
        answer = await _ask(app, "auto", CODE, path="/api/chat", think=True, stream=False)
    assert (answer.status_code, answer.headers["x-model"], answer.headers["x-engine"]) == (200, "third", "c")


@pytest.mark.parametrize("stream", [False, True])
async def test_all_models_together_have_the_time_of_one_request(stream: bool) -> None:
    routing = AUTO | {"auto_fallback": ["phi"]}
    slow = {"tokens_per_second": 0.2}
    async with _two(routing=routing, a=slow, b=slow) as app:
        answer = await _ask(app, "auto", CODE, headers={"x-timeout-s": "0.5"}, stream=stream)
        assert (answer.status_code, answer.headers["x-model"]) == (504, "smol")
        assert not app.engines["a"].requests


async def test_a_model_under_another_of_its_names_does_not_stand_in_for_itself() -> None:
    routing = {"auto": {"coding": "smol", "general": "phi"}, "auto_fallback": ["SMOL:latest", "tutor"]}
    variants = {"tutor": {"from": "smol", "system": "S"}}
    async with _two({"variants": variants}, routing=routing, b={"fault": "fail_first"}) as app:
        named = await _ask(app, "smol", CODE)
        requests = len(app.engines["b"].requests)
        answer = await _ask(app, "auto", CODE)
        assert len(app.engines["b"].requests) <= 2 * requests
    assert (named.status_code, answer.status_code) == (500, 500)


async def test_auto_is_listed_as_a_model_in_every_api() -> None:
    async with _two(routing=AUTO, b={"max_model_len": 100}) as app:
        listed = (await app.client.get("/v1/models")).json()["data"][-1]
        found = (await app.client.get("/v1/models/auto")).json()
        tags = (await app.client.get("/api/tags")).json()["models"][-1]
        shown = await app.client.post("/api/show", json={"model": "auto"})
        counted = await app.client.post("/tokenize", json={"model": "auto", "prompt": "hi"})
        derived = await app.client.post("/api/create", json={"model": "x", "from": "auto"})
        removed = await app.client.request("DELETE", "/api/delete", json={"model": "auto"})
        load = await app.client.post("/api/generate", json={"model": "auto"})
    assert (listed["id"], listed["max_model_len"]) == (found["id"], found["max_model_len"]) == ("auto", 100)
    assert tags["name"] == "auto:latest"
    assert shown.status_code == counted.status_code == load.status_code == 200
    assert (derived.status_code, removed.status_code) == (400, 400)


async def test_a_model_called_auto_that_was_made_before_is_hidden_and_can_be_deleted(tmp_path: Path) -> None:
    async with _two({"models_dir": str(tmp_path)}) as app:
        assert (await app.client.post("/api/create", json={"model": "auto", "from": "smol"})).status_code == 200
        app.gateway.configure(RoutingSettings.model_validate(AUTO))
        names = [model["id"] for model in (await app.client.get("/v1/models")).json()["data"]]
        chosen = await _ask(app, "auto", STORY)
        removed = [(await app.client.request("DELETE", "/api/delete", json={"model": "auto"})).status_code for _ in range(2)]
    assert names == ["phi", "p", "smol", "auto"]
    assert chosen.headers["x-model"] == "phi"
    assert removed == [200, 400]
    assert not list(tmp_path.glob("*.json"))


async def test_a_clients_model_is_no_parent_of_a_configured_one(tmp_path: Path) -> None:
    """Else a client could write system prompts into the operator's variants, or keep the ingress from starting again."""
    variants = {"base": {"from": "smol", "system": "Mine."}, "tutor": {"from": "base", "parameters": {"num_ctx": 100}}}
    settings = {"models_dir": str(tmp_path), "variants": variants}
    async with _two(settings) as app:
        hiding = await app.client.post("/api/create", json={"model": "base", "from": "phi", "system": "word " * 200})
        assert hiding.status_code == 200
    async with _two(settings) as app:
        tutor = app.gateway.catalog.resolve("tutor")
    assert (tutor.model.name, tutor.variant.settings.system) == ("smol", "Mine.")


async def test_the_preview_names_the_model_that_stands_in() -> None:
    async with _two(routing=AUTO | {"auto_fallback": ["phi"]}, b={"absent": True}) as app:
        shown = (await app.client.post("/v1/route", json={"messages": [{"role": "user", "content": CODE}], "model": "auto"})).json()
    async with _two(routing=AUTO, b={"absent": True}) as app:
        alone = (await app.client.post("/v1/route", json={"messages": [{"role": "user", "content": CODE}], "model": "auto"})).json()
    assert (shown["model"], shown["model_reason"], shown["candidates"]) == ("phi", "auto-fallback", ["a", "c"])
    assert (alone["model"], alone["model_reason"], alone["candidates"], alone["reason"]) == ("smol", "task", [], "no_engine_ready")


async def test_a_clients_model_does_not_change_what_auto_means(tmp_path: Any) -> None:
    settings = {"models_dir": str(tmp_path), "variants": {"coder": {"from": "smol", "system": "S"}}}
    async with _two(settings, routing={"auto": {"coding": "coder", "general": "phi"}}) as app:
        hidden = await app.client.post("/api/create", json={"model": "coder", "from": "phi", "system": "Mine", "stream": False})
        assert hidden.status_code == 200, hidden.text
        auto, named = await _ask(app, "auto", CODE), await _ask(app, "coder", CODE)
    assert (auto.headers["x-model"], named.headers["x-model"]) == ("smol", "phi")


async def test_an_unknown_model_is_answered_with_some_names() -> None:
    variants = {f"v{at}": {"from": "phi"} for at in range(30)}
    async with _two({"variants": variants}) as app:
        message = (await _ask(app, "other")).json()["error"]["message"]
    assert message.endswith("v16 and 13 more.")
