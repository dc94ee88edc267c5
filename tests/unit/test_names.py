"""Names of one model, written in different ways, in every API and verb."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.app import running
from tests.unit.test_ollama_models import HI, _names, _served

SAME = [
    "phi4-mini",
    "library/phi4-mini",
    "Library/Phi4-Mini:LATEST",
    "registry.ollama.ai/library/phi4-mini:latest",
    "PHI4-MINI:Latest",
]
OTHER = [
    "library/phi4-mini:7b",
    "registry.ollama.ai/phi4-mini",
    "other/phi4-mini",
    "host/library/phi4-mini",
    "library/library/phi4-mini",
]


@pytest.mark.parametrize("name", [*SAME, *OTHER])
async def test_names_written_out_are_the_same_model(name: str) -> None:
    async with running(a={}) as app:
        turn = {"messages": HI}
        answers = [
            await app.client.post("/api/chat", json={"model": name} | turn),
            await app.client.post("/api/generate", json={"model": name, "prompt": "hi"}),
            await app.client.post("/api/show", json={"model": name}),
            await app.client.post("/api/pull", json={"model": name}),
            await app.client.post("/v1/chat/completions", json={"model": name} | turn),
            await app.client.post("/v1/completions", json={"model": name, "prompt": "hi"}),
            await app.client.post("/v1/chat/completions/render", json={"model": name} | turn),
            await app.client.post("/tokenize", json={"model": name, "prompt": "hi"}),
            await app.client.post("/v1/route", json={"model": name} | turn),
            await app.client.get(f"/v1/models/{name}"),
        ]
    assert [answer.status_code for answer in answers] == [200 if name in SAME else 404] * len(answers)
    assert answers[4].json().get("model", name) == name, "an answer carries the name that was asked for"


async def test_the_verbs_take_names_written_out(tmp_path: Path) -> None:
    full = "registry.ollama.ai/library/{}:latest".format
    variants = {"library/Kept": {"from": full("phi4-mini"), "system": "K"}}
    async with _served(tmp_path, variants=variants) as app:
        post = app.client.post
        assert "Kept" in await _names(app)
        assert (await post("/api/create", json={"model": full("Mine"), "from": full("kept")})).status_code == 200
        assert "Mine" in await _names(app)
        assert (await post("/api/show", json={"model": "library/mine"})).json()["details"]["parent_model"] == "Kept:latest"
        assert (await post("/api/copy", json={"source": full("mine"), "destination": "library/other"})).status_code == 200
        assert {"Mine", "other"} <= await _names(app)
        assert (await post("/api/create", json={"model": full("mine"), "from": "phi4-mini", "system": "new"})).status_code == 200
        assert (await post("/api/show", json={"model": "mine"})).json()["system"] == "new"
        for taken in ("library/phi4-mini", full("PHI4-mini")):
            refused = await post("/api/create", json={"model": taken, "from": "phi4-mini"})
            assert (refused.status_code, "is a served model's own name" in refused.json()["error"]) == (400, True)
        for name in (full("mine"), "Library/Other:LATEST"):
            assert (await app.client.request("DELETE", "/api/delete", json={"model": name})).status_code == 200
        assert not {"Mine", "mine", "other"} & await _names(app)
    with pytest.raises(ValueError, match=r"variants\.library/x: 'X' is the same name"):
        async with _served(tmp_path, variants={"X": {}, "library/x": {}}):
            pass


async def test_a_models_groups_hold_for_all_its_names(tmp_path: Path) -> None:
    models = {"Phi-4-mini-Instruct:latest": ["b"], "library/CODER": ["c"], "phi4-mini": ["a"]}
    groups: dict[str, dict[str, object]] = {name: {} for name in "abc"}
    extra = {"models_dir": str(tmp_path), "variants": {"coder": {}}}
    async with running(extra, routing={"models": models}, **groups) as app:
        for path, text in (("/v1/chat/completions", {"messages": HI}), ("/api/chat", {"messages": HI})):
            for name, group in (
                ("phi-4-mini-instruct", "b"),
                ("Phi-4-Mini-Instruct", "b"),
                ("microsoft/phi-4-mini-instruct:latest", "b"),  # an alias that is not listed itself
                ("phi-4-mini", "b"),
                (None, "b"),
                ("registry.ollama.ai/library/phi4-mini", "a"),  # one that is
                ("coder", "c"),
                ("Coder:latest", "c"),
            ):
                if name is None and path == "/api/chat":
                    continue
                body = text | ({} if name is None else {"model": name})
                response = await app.client.post(path, json=body)
                assert (response.headers["x-engine"], name) == (group, name)
                if path == "/v1/chat/completions":
                    assert (await app.client.post("/v1/route", json=body)).json()["candidates"] == [group]
        assert (await app.client.post("/api/create", json={"model": "mine", "from": "coder"})).status_code == 200
        free = await app.client.post("/api/chat", json={"model": "mine", "messages": HI})
        assert free.headers["x-engine"] == "a"


UNNAMED = [
    ("/v1/chat/completions", {"messages": HI}, 400),
    ("/v1/completions", {"prompt": "x"}, 400),
    ("/v1/messages", {"messages": HI, "max_tokens": 4}, 400),
    ("/v1/responses", {"input": "x"}, 400),
    ("/reasoning", {"prompt": "x"}, 200),
]


@pytest.mark.parametrize(("path", "body", "status"), UNNAMED)
async def test_a_model_must_be_named_where_that_is_configured(path: str, body: dict[str, Any], status: int) -> None:
    async with running(a={}, routing={"require_model": True}) as app:
        answer = await app.client.post(path, json=body)
        assert answer.status_code == status
        if status == 400:
            assert answer.json()["error"]["message"].startswith("model: ")
        grouped = await app.client.post(path, json=body, headers={"x-engine": "a"})
        assert grouped.status_code == status
        auto = {"require_model": True, "auto": {"general": "phi-4-mini-instruct"}, "auto_unnamed": True}
    async with running(a={}, routing=auto) as app:
        assert (await app.client.post(path, json=body)).status_code == (400 if path == "/v1/responses" else 200)
