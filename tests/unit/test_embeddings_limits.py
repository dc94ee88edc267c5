"""Keys, quotas and usage of embeddings, and clients that leave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.access.keys import Key, KeyList, hash_key
from serve_app.caller import ANONYMOUS, Scope
from serve_app.embeddings import embed
from serve_app.encoding import EmbedRequest, Encoded
from serve_app.errors import EngineDead
from serve_app.record import RequestRecord
from tests.unit.app import App, running

PATHS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"input": "abc"}),
    ("/api/embed", {"input": "abc"}),
    ("/api/embeddings", {"prompt": "abc"}),
]


@asynccontextmanager
async def _limited(folder: Path) -> AsyncIterator[App]:
    """Serve two embedding models to keys that are their names: `rpm` (2 requests), `tpm` (20 tokens), `one`, `chat` and `other`."""
    fields: dict[str, dict[str, Any]] = {
        "op": {"scopes": (Scope.USE, Scope.OPERATE)},
        "rpm": {"requests_per_minute": 2},
        "tpm": {"tokens_per_minute": 20},
        "one": {"concurrent": 1},
        "chat": {"models": ("phi",)},
        "other": {"models": ("other",)},
    }
    keys = tuple(Key(name=name, sha256=hash_key(name), **each) for name, each in fields.items())
    (folder / "keys.json").write_text(KeyList(keys=keys).model_dump_json())
    settings = {
        "models": {"phi": {}, "mini": {}, "other": {}},
        "access": {"keys_file": str(folder / "keys.json"), "journal_dir": None},
    }
    groups: dict[str, Any] = {"e": {"kind": "onnx_encoder", "model": "mini"}, "o": {"kind": "onnx_encoder", "model": "other"}}
    async with running(settings, a={}, **groups) as app:
        yield app


async def _post(app: App, key: str, path: str = "/v1/embeddings", **body: Any) -> Any:
    given = {"model": "mini", "input": "abc"} | body
    return await app.client.post(path, json=given, headers={"authorization": f"Bearer {key}"})


@pytest.mark.parametrize(("path", "body"), PATHS, ids=[path for path, _ in PATHS])
async def test_a_used_up_quota_is_a_429_in_every_dialect(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    async with _limited(tmp_path) as app:
        for left in ("1", "0"):
            answer = await _post(app, "rpm", path, **body)
            assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, left)
        refused = await _post(app, "rpm", path, **body)
        assert (refused.status_code, "2 requests per minute" in refused.text) == (429, True)
        assert int(refused.headers["retry-after"]) >= 1


async def test_tokens_are_reserved_exactly_and_a_larger_request_is_futile(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        for left in ("15", "10", "5", "0"):
            assert (await _post(app, "tpm")).headers["x-ratelimit-remaining-tokens"] == left
        assert (await _post(app, "tpm")).status_code == 429
    (tmp_path / "again").mkdir()
    async with _limited(tmp_path / "again") as app:
        beyond = await _post(app, "tpm", input=["abc"] * 5)
        assert (beyond.status_code, beyond.headers["x-should-retry"]) == (429, "false")
        assert (await _post(app, "tpm", input="a" * 60)).status_code == 400  # wrong requests cost nothing
        app.encoders["e"].faults = [EngineDead("gone") for _ in range(3)]
        failed = await _post(app, "tpm")
        assert (failed.status_code, failed.headers["x-ratelimit-remaining-tokens"]) == (503, "15")
        await app.gateway.accounts.limiter.settle()
        last = await _post(app, "tpm", input=["abc"] * 4)  # failures cost nothing either
        assert last.status_code == 200, last.text


async def test_one_request_at_a_time_and_a_client_that_leaves_gives_its_place_back(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        app.encoders["e"].hangs = True
        first = asyncio.ensure_future(_post(app, "one"))
        while not app.encoders["e"].requests:
            await asyncio.sleep(0.001)
        assert (await _post(app, "one")).status_code == 429
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        app.encoders["e"].hangs = False
        assert (await _post(app, "one")).status_code == 200


async def test_usage_counts_what_was_computed_by_key_and_model(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        await _post(app, "one", input=["abc", "d"])
        await _post(app, "one", input=[])
        await _post(app, "one", "/api/embed", input="abc")
        await _post(app, "other", model="other")
        rows = (await app.client.get("/v1/usage", headers={"authorization": "Bearer op"})).json()["data"]
    found = {
        (row["key"], row["model"]): (row["requests"], row["errors"], row["prompt_tokens"], row["completion_tokens"]) for row in rows
    }
    assert found == {("one", "mini"): (2, 0, 13, 0), ("other", "other"): (1, 0, 5, 0)}


async def test_a_key_uses_its_own_models_only(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        for path, body in PATHS:
            refused = await _post(app, "other", path, **body)
            assert (refused.status_code, "may not use the model 'mini'" in refused.text) == (403, True)
            assert (await _post(app, "chat", path, **body)).status_code == 403
        unnamed = await _post(app, "other", model=None)
        assert (unnamed.status_code, unnamed.json()["model"]) == (200, "other")
        assert (await _post(app, "chat", model=None)).status_code == 403
        assert "mini" not in (await _post(app, "other", model="phi")).text
        listed = (await app.client.get("/v1/models", headers={"authorization": "Bearer other"})).json()["data"]
        assert [each["id"] for each in listed] == ["other"]


async def test_what_a_client_did_not_wait_for_is_counted(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        app.encoders["e"].hangs = True
        record = RequestRecord(request_id="r", caller=ANONYMOUS)
        request = EmbedRequest(request_id="r", inputs=("abc",), model="mini")
        asked = asyncio.ensure_future(embed(app.gateway, request, record))
        while not app.encoders["e"].requests:
            await asyncio.sleep(0.001)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    assert (record.outcome, record.consumed.prompt_tokens, app.encoders["e"].cancelled) == ("cancelled", 5, 1)


async def test_a_full_model_refuses_and_leaves_the_others_their_room(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        app.gateway.active_by_model["mini"] = 256
        refused = await _post(app, "op")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await _post(app, "op", model="other")).status_code == 200


ODD_VECTORS: dict[str, Any] = {
    "too few": np.ones((1, 16), np.float32),
    "too many": np.ones((3, 16), np.float32),
    "too short": np.ones((2, 4), np.float32),
    "flat": np.ones(32, np.float32),
    "not finite": np.full((2, 16), np.nan, np.float32),
    "none": None,
}


@pytest.mark.parametrize("odd", ODD_VECTORS.values(), ids=ODD_VECTORS)
async def test_odd_vectors_of_an_engine_never_leave(odd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: dict[str, Any] = {name: {"kind": "onnx_encoder", "model": "mini"} for name in ("e", "f")}
    async with running({"models": {"phi": {}, "mini": {}}}, a={}, **groups) as app:

        async def encode(*_: Any) -> Encoded:
            return Encoded(vectors=odd)

        monkeypatch.setattr(app.encoders["e"], "encode", encode)
        for path in ("/v1/embeddings", "/api/embed"):
            answer = await app.client.post(path, json={"model": "mini", "input": ["a", "b"]})
            assert (answer.status_code, answer.headers["x-engine"], answer.headers["x-attempts"]) == (200, "f", "2")
        monkeypatch.setattr(app.encoders["f"], "encode", encode)
        refused = await app.client.post("/v1/embeddings", json={"model": "mini", "input": ["a", "b"]})
        assert (refused.status_code, "shape" in refused.text) == (500, True)
