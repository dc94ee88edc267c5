"""Models that could answer nothing are not made."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from serve_app.config import AppSettings
from tests.unit.test_ollama_models import HI, _names, _served

EXTREMES: list[tuple[str, Any]] = [
    ("temperature", 9),
    ("temperature", -0.1),
    ("top_p", 0),
    ("top_p", -1),
    ("top_p", 3),
    ("min_p", 1.5),
    ("top_k", 1 << 40),
    ("top_k", -5),
    ("seed", 1 << 63),
    ("seed", -(1 << 70)),
    ("repeat_penalty", 0),
    ("repeat_penalty", 11),
    ("repeat_last_n", -1),
    ("presence_penalty", 3),
    ("frequency_penalty", -2.5),
    ("num_predict", 1 << 50),
    ("num_predict", -2),
    ("num_ctx", 1),
    ("num_ctx", 4),
    ("num_ctx", 5),
    ("num_ctx", 1 << 50),
    ("num_ctx", -1),
    ("stop", ["x"] * 16),
]


@pytest.mark.parametrize(("name", "value"), EXTREMES)
async def test_a_created_model_answers_or_is_not_created(name: str, value: Any, tmp_path: Path) -> None:
    """As the body says it, as a Modelfile does, and as the configuration does."""
    written = value if isinstance(value, list) else [value]
    text = "FROM phi4-mini\n" + "".join(f"PARAMETER {name} {each}\n" for each in written)
    async with _served(tmp_path) as app:
        for body in ({"from": "phi4-mini", "parameters": {name: value}}, {"modelfile": text}):
            created = await app.client.post("/api/create", json={"model": "extreme", "stream": False} | body)
            if created.status_code == 400:
                assert name in created.json()["error"]
                assert "line 2" in created.json()["error"] or "modelfile" not in body
                assert "extreme" not in await _names(app)
                continue
            answers = [
                await app.client.post("/api/chat", json={"model": "extreme", "messages": HI, "stream": False}),
                await app.client.post("/api/generate", json={"model": "extreme", "prompt": "hi", "stream": False}),
                await app.client.post("/v1/chat/completions", json={"model": "extreme", "messages": HI}),
            ]
            assert [answer.status_code for answer in answers] == [200] * 3, answers[0].text
    settings = {"engines": {"a": {"kind": "fake"}}, "variants": {"x": {"parameters": {name: value}}}}
    with pytest.raises(ValueError, match=f"variants.x.parameters: {name}") if created.status_code == 400 else nullcontext():
        AppSettings.model_validate(settings)


async def test_what_a_model_takes_over_counts_when_it_is_created(tmp_path: Path) -> None:
    long = "Be brief and kind, and never guess. " * 4
    async with _served(tmp_path) as app:
        create = {"from": "phi4-mini", "system": long, "stream": False}
        for body, refused in (
            ({"parameters": {"num_ctx": 20}}, "num_ctx is 20, but with the system prompt"),
            ({"parameters": {"num_ctx": 20}, "template": "{{ .Prompt }}"}, ""),
            ({"parameters": {"num_ctx": 200}}, ""),
            ({"template": "{{/* nothing */}}"}, "template leaves the prompt empty"),
            ({"template": "{{ .System }}"}, ""),
        ):
            created = await app.client.post("/api/create", json={"model": "made"} | create | body)
            assert created.status_code == (400 if refused else 200), created.text
            assert refused in created.text
            if not refused:
                chat = await app.client.post("/api/chat", json={"model": "made", "messages": HI, "stream": False})
                assert chat.status_code == 200, chat.text
        parent = {"model": "small", "from": "phi4-mini", "parameters": {"num_ctx": 20}}
        assert (await app.client.post("/api/create", json=parent)).status_code == 200
        child = await app.client.post("/api/create", json={"model": "child", "from": "small", "system": long})
        assert (child.status_code, "child" in await _names(app)) == (400, False)


async def test_a_stored_model_that_cannot_answer_says_why_and_can_be_replaced(tmp_path: Path) -> None:
    """One that an earlier version took."""
    folder = tmp_path / "models"
    folder.mkdir()
    record = {"name": "old", "modified": 1.0, "settings": {"from": "phi4-mini", "parameters": {"temperature": 9}}}
    (folder / "old.json").write_text(json.dumps(record))
    async with _served(tmp_path) as app:
        chat = await app.client.post("/api/chat", json={"model": "old", "messages": HI})
        assert (chat.status_code, "model 'old': temperature must be" in chat.json()["error"]) == (400, True)
        derived = await app.client.post("/api/create", json={"model": "new", "from": "old"})
        assert (derived.status_code, "temperature" in derived.json()["error"]) == (400, True)
        assert (await app.client.request("DELETE", "/api/delete", json={"model": "old"})).status_code == 200
