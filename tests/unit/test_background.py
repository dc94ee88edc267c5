"""Responses that are made in the background, driven by OpenAI's SDK over the whole application in-process."""

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from serve_app import archive, background
from serve_app.access.keys import Key, KeyList, hash_key
from serve_app.background import BackgroundWork
from serve_app.errors import StoreUnavailable
from serve_app.store.memory import MemoryStore
from serve_app.store_config import ResponsesSettings
from tests.unit.responses import read_prompt, sdk

SLOW = {"text": "one two three four five six seven eight nine ten " * 50, "tokens_per_second": 20}


async def _wait(client: openai.AsyncOpenAI, response_id: str) -> Any:
    give_up = time.monotonic() + 20
    while (response := await client.responses.retrieve(response_id)).status == "in_progress":
        assert time.monotonic() < give_up
        await asyncio.sleep(0.05)
    return response


async def test_it_is_fetched_later_and_continued() -> None:
    async with sdk(tokens_per_second=50) as (client, app):
        begun = await client.responses.create(model="phi", input="My name is Ada.", background=True)
        assert (begun.status, begun.background, begun.output, begun.usage) == ("in_progress", True, [], None)
        assert app.gateway.background.active == 1
        done = await _wait(client, begun.id)
        assert (done.status, done.output_text, done.id) == ("completed", "Noted.", begun.id)
        assert done.usage is not None
        assert done.usage.total_tokens > 0
        await asyncio.sleep(0.05)
        assert app.gateway.background.active == 0
        await client.responses.create(model="phi", input="Who am I?", previous_response_id=begun.id)
        assert "Ada" in read_prompt(app)
        again = await client.responses.cancel(begun.id)
        assert again.status == "completed"


async def test_it_is_cancelled() -> None:
    async with sdk(**SLOW) as (client, app):
        begun = await client.responses.create(model="phi", input="hi", background=True)
        cancelled = await client.responses.cancel(begun.id)
        assert (cancelled.status, cancelled.output) == ("cancelled", [])
        assert (await client.responses.retrieve(begun.id)).status == "cancelled"
        assert app.gateway.active == 0
        waited = await client.responses.create(model="phi", input="hi", max_output_tokens=3)
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.cancel(waited.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.cancel("resp_none")


async def test_a_deleted_one_ends_and_does_not_come_back() -> None:
    async with sdk(**SLOW) as (client, app):
        begun = await client.responses.create(model="phi", input="hi", background=True)
        await client.responses.delete(begun.id)
        give_up = time.monotonic() + 10
        while app.gateway.background.active:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.05)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(begun.id)


async def test_what_an_ended_process_made_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "ALIVE_S", 0.3)
    async with sdk(**SLOW) as (client, app):
        begun = await client.responses.create(model="phi", input="hi", background=True)

        async def mark_nothing(*_: Any) -> None:
            pass

        monkeypatch.setattr(archive.OwnArchive, "mark_alive", mark_nothing)
        give_up = time.monotonic() + 5
        while (response := await client.responses.retrieve(begun.id)).status == "in_progress":
            assert time.monotonic() < give_up
            await asyncio.sleep(0.05)
        assert response.status == "failed"
        assert response.error is not None
        assert (await client.responses.cancel(begun.id)).status == "failed"
        await app.gateway.background.close()


async def test_an_ordered_end_breaks_it_off() -> None:
    async with sdk(**SLOW) as (client, app):
        begun = await client.responses.create(model="phi", input="hi", background=True)
        await app.gateway.background.close()
        assert (await client.responses.retrieve(begun.id)).status == "failed"
        assert app.gateway.active == 0


async def test_only_so_many_go_on_at_once() -> None:
    async with sdk({"limits": {"max_concurrent_generations": 2}}, **SLOW) as (client, app):
        for _ in range(2):
            await client.responses.create(model="phi", input="hi", background=True)
        with pytest.raises(openai.InternalServerError) as refused:
            await client.responses.create(model="phi", input="hi", background=True)
        assert refused.value.response.status_code == 503
        await app.gateway.background.close()
        assert app.gateway.background.active == 0


@pytest.mark.parametrize("change", [{"model": "none"}, {"input": "word " * 5000}, {"temperature": 9}, {"tool_choice": "required"}])
async def test_a_wrong_request_is_refused_at_once(change: dict[str, Any]) -> None:
    async with sdk() as (_, app):
        answer = await app.client.post("/v1/responses", json={"model": "phi", "input": "hi", "background": True} | change)
        assert answer.status_code in (400, 404)
        assert app.gateway.background.active == 0


async def test_a_failure_is_told_when_fetched() -> None:
    async with sdk(fault="fail_first") as (client, _):
        begun = await client.responses.create(model="phi", input="hi", background=True)
        failed = await _wait(client, begun.id)
        assert (failed.status, failed.error.code) == ("failed", "server_error")


async def test_an_unforeseen_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    background = BackgroundWork()
    mine = archive.Archive(MemoryStore(), ResponsesSettings()).belonging_to("alice")

    async def fail() -> None:
        raise RuntimeError("a defect")

    async def settle() -> None:
        raise AssertionError("nobody asked for its end")

    key = await mine.reserve()
    await background.start(key, mine, fail(), settle)
    while background.active:
        await asyncio.sleep(0.01)
    assert "a defect" in caplog.text
    assert not await mine.is_alive(key)


async def test_nothing_begins_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sdk() as (_, app):

        async def fail(*args: Any, **kwargs: Any) -> Any:
            raise StoreUnavailable("the store is away; try again", reason="away", retry_after_s=1.0)

        monkeypatch.setattr(app.gateway.accounts.store, "put", fail)
        body = {"model": "phi", "input": "hi", "background": True}
        assert (await app.client.post("/v1/responses", json=body)).status_code == 503
        monkeypatch.setattr(app.gateway.accounts.store, "add", fail)
        assert (await app.client.post("/v1/responses", json=body)).status_code == 503
        assert app.gateway.background.active == 0


async def test_nothing_of_a_deleted_one_stays() -> None:
    async with sdk() as (client, app):
        begun = await client.responses.create(model="phi", input="SECRET", background=True)
        await _wait(client, begun.id)
        await client.responses.delete(begun.id)
        await asyncio.sleep(0.1)
        assert (await app.gateway.accounts.store.scan("responses/")).items == ()


async def test_one_that_is_deleted_while_its_answer_is_kept_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sdk() as (client, app):
        store = app.gateway.accounts.store
        put, deleted = store.put, []

        async def delete_before(key: str, value: bytes, **kwargs: Any) -> None:
            if b'"status":"completed","background":true' in value and not deleted:
                deleted.append(key)
                await client.responses.delete(begun.id)
            await put(key, value, **kwargs)

        monkeypatch.setattr(store, "put", delete_before)
        begun = await client.responses.create(model="phi", input="hi", background=True)
        give_up = time.monotonic() + 10
        while app.gateway.background.active:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.05)
        assert deleted
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(begun.id)
        assert (await store.scan("responses/")).items == ()


async def test_one_under_way_is_not_continued() -> None:
    async with sdk(**SLOW) as (client, app):
        begun = await client.responses.create(model="phi", input="hi", background=True)
        with pytest.raises(openai.BadRequestError, match="still being made"):
            await client.responses.create(model="phi", input="And?", previous_response_id=begun.id)
        await app.gateway.background.close()
        await client.responses.create(model="phi", input="And?", previous_response_id=begun.id, max_output_tokens=2)


async def test_one_that_ends_while_it_is_cancelled_keeps_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sdk(tokens_per_second=100) as (client, app):
        asked = asyncio.Event()

        async def ask_slowly(*_: Any) -> bool:
            asked.set()
            await asyncio.sleep(0.5)  # meanwhile the work ends
            return True

        monkeypatch.setattr(background, "_LOOK_EVERY_S", 0.01)
        monkeypatch.setattr(background, "_is_asked_to_end", ask_slowly)
        begun = await client.responses.create(model="phi", input="hi", background=True)
        await asked.wait()
        give_up = time.monotonic() + 10
        while app.gateway.background.active:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.05)
        assert (await client.responses.retrieve(begun.id)).status == "completed"


@pytest.mark.parametrize("limit", [{"requests_per_minute": 1}, {"tokens_per_minute": 70}, {"concurrent": 1}])
async def test_one_beyond_a_quota_is_refused_and_not_kept(tmp_path: Path, limit: dict[str, Any]) -> None:
    file = tmp_path / "keys.json"
    file.write_text(KeyList(keys=(Key.model_validate({"name": "k", "sha256": hash_key("k")} | limit),)).model_dump_json())
    async with sdk({"access": {"keys_file": str(file), "journal_dir": None}}, **SLOW) as (_, app):
        body = {"model": "phi", "input": "hi", "background": True, "max_output_tokens": 50}
        headers = {"authorization": "Bearer k"}
        begun = await app.client.post("/v1/responses", json=body, headers=headers)
        assert begun.status_code == 200, begun.text
        await asyncio.sleep(0.2)
        kept = len((await app.gateway.accounts.store.scan("responses/head/")).items)
        for _ in range(3):
            refused = await app.client.post("/v1/responses", json=body, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded"), refused.text
            assert int(refused.headers["retry-after"]) >= 1
        assert len((await app.gateway.accounts.store.scan("responses/head/")).items) == kept
        assert app.gateway.background.active == 1
        await app.gateway.background.close()


async def test_nothing_begins_while_no_group_is_ready() -> None:
    async with sdk(absent=True) as (_, app):
        answer = await app.client.post("/v1/responses", json={"model": "phi", "input": "hi", "background": True})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert (await app.gateway.accounts.store.scan("responses/")).items == ()
