"""What clients with restricted keys, odd headers and bad timing try over HTTP: what a hostile review found."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.access.accounts import Accounts
from serve_app.access.keys import Key, KeyList, hash_key
from serve_app.access_config import AccessSettings
from serve_app.caller import Scope
from serve_app.store.memory import MemoryStore
from tests.unit.app import running
from tests.unit.test_quotas import HI, _as, _limited, _usage

OPERATE = (Scope.USE, Scope.OPERATE)


def _write(folder: Path, **keys: dict[str, Any]) -> dict[str, Any]:
    entries = tuple(Key(name=name, sha256=hash_key(name), **fields) for name, fields in keys.items())
    (folder / "keys.json").write_text(KeyList(keys=entries).model_dump_json())
    return {"access": {"keys_file": str(folder / "keys.json"), "journal_dir": None}}


def _two(folder: Path, **keys: dict[str, Any]) -> dict[str, Any]:
    return {
        "models": {"phi": {}, "secret-model": {}},
        "models_dir": str(folder / "models"),
        "variants": {"coder": {"from": "phi"}, "hidden-variant": {"from": "secret-model", "system": "THE SECRET PROMPT"}},
        "routing": {"auto": {"general": "hidden-variant"}},
    } | _write(folder, **keys)


TWO = {"a": {"model": "phi"}, "b": {"model": "secret-model"}}


async def test_basic_with_a_byte_beyond_ascii_is_401_not_500(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        answer = await app.client.get("/v1/models", headers=[(b"authorization", b"Basic \xe9\xe9")])
        assert answer.status_code == 401, answer.text


LEAKS = [
    ("POST", "/v1/chat/completions", HI | {"model": "nope"}, {}),
    ("GET", "/health", None, {}),
    ("POST", "/v1/chat/completions", HI, {"x-engine": "b"}),
    ("POST", "/v1/chat/completions", HI, {"x-engine": "zzz"}),
    ("POST", "/v1/chat/completions", {"messages": HI["messages"]}, {"x-engine": "b"}),
    ("GET", "/v1/models", None, {}),
    ("GET", "/v1/models/auto", None, {}),
    ("POST", "/api/show", {"model": "auto"}, {}),
    ("POST", "/v1/route", HI | {"model": "auto"}, {}),
    ("GET", "/", None, {}),
    ("GET", "/api/tags", None, {}),
    ("GET", "/openapi.json", None, {}),
    ("POST", "/api/chat", HI | {"model": "nope"}, {}),
]


@pytest.mark.parametrize(("method", "path", "body", "headers"), LEAKS, ids=[f"{e[1]} {e[3]}" for e in LEAKS])
async def test_a_restricted_key_learns_nothing_of_other_models(
    tmp_path: Path, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    async with running(_two(tmp_path, phi={"models": ("phi",)}), **{k: dict(v) for k, v in TWO.items()}) as app:
        answer = await app.client.request(method, path, json=body, headers=_as("phi") | headers)
        for secret in ("secret-model", "hidden-variant", "THE SECRET PROMPT"):
            assert secret not in answer.text, answer.text[:300]


async def test_a_restricted_operator_cannot_take_the_name_of_anothers_variant(tmp_path: Path) -> None:
    keys = {"op": {"scopes": OPERATE}, "few": {"scopes": OPERATE, "models": ("phi",)}}
    async with running(_two(tmp_path, **keys), **{k: dict(v) for k, v in TWO.items()}) as app:
        made = await app.client.post(
            "/api/create", json={"model": "helper", "from": "secret-model", "stream": False}, headers=_as("op")
        )
        assert made.status_code == 200, made.text
        assert (await app.client.request("DELETE", "/api/delete", json={"model": "helper"}, headers=_as("few"))).status_code == 403
        taken = await app.client.post("/api/create", json={"model": "helper", "from": "phi", "stream": False}, headers=_as("few"))
        root = app.gateway.catalog.resolve("helper").model.name
        assert (taken.status_code, root) == (403, "secret-model")


async def test_copy_over_anothers_variant(tmp_path: Path) -> None:
    keys = {"op": {"scopes": OPERATE}, "few": {"scopes": OPERATE, "models": ("phi",)}}
    async with running(_two(tmp_path, **keys), **{k: dict(v) for k, v in TWO.items()}) as app:
        await app.client.post("/api/create", json={"model": "helper", "from": "secret-model", "stream": False}, headers=_as("op"))
        await app.client.post("/api/copy", json={"source": "phi", "destination": "helper"}, headers=_as("few"))
        assert app.gateway.catalog.resolve("helper").model.name == "secret-model"


async def test_a_refused_creation_creates_nothing(tmp_path: Path) -> None:
    keys = {"few": {"scopes": OPERATE, "models": ("coder",)}}
    async with running(_two(tmp_path, **keys), **{k: dict(v) for k, v in TWO.items()}) as app:
        made = await app.client.post("/api/create", json={"model": "coder2", "from": "coder", "stream": False}, headers=_as("few"))
        exists = any(each.name == "coder2" for each in app.gateway.catalog.variants)
        assert (made.status_code == 200) == exists, (made.status_code, made.text)


async def test_a_timeout_before_the_first_token_costs_a_request(tmp_path: Path) -> None:
    """An engine read the whole prompt ten times; a quota of 2 requests a minute bounds nothing."""
    async with _limited(tmp_path, {"fault": "hang", "fault_at": 0}) as app:
        statuses = [
            (await app.client.post("/v1/chat/completions", json=HI, headers=_as("rpm") | {"x-timeout-s": "0.05"})).status_code
            for _ in range(6)
        ]
        assert len(app.engines["a"].requests) <= 2, statuses


async def test_a_client_that_leaves_before_the_first_token_pays_for_the_prompt(tmp_path: Path) -> None:
    from serve_app.caller import Caller, Limits
    from serve_app.conversation import GenerateRequest, RawText
    from serve_app.record import RequestRecord

    async with _limited(tmp_path, {"fault": "hang", "fault_at": 0}) as app:
        caller = Caller(name="tpm", scopes=frozenset({Scope.USE}), limits=Limits(tokens_per_minute=200))
        for _ in range(5):
            request = GenerateRequest(request_id="r", prompts=(RawText(text="word " * 150),))
            task = asyncio.ensure_future(anext(app.gateway.generate(request, RequestRecord(request_id="r", caller=caller))))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        sent = sum(len(each.prompt) for each in app.engines["a"].requests)
        assert sent <= 200 + 170, sent
        assert (await _usage(app))["tpm"]["prompt_tokens"] > 0


async def test_a_fallback_after_held_back_text_counts_the_answer_that_was_sent(tmp_path: Path) -> None:
    settings = {
        "models": {"phi": {}, "other": {}},
        "routing": {"auto": {"general": "phi"}, "auto_fallback": ["other"], "max_attempts": 1},
    } | _write(tmp_path, free={"requests_per_minute": 100, "tokens_per_minute": 100_000}, op={"scopes": OPERATE})
    a = {"model": "phi", "text": "STOP HERE NOW please", "fault": "die_midway", "fault_at": 2}
    b = {"model": "other", "text": "one two three four five six seven eight nine ten " * 3}
    async with running(settings, a=a, b=b) as app:
        body = HI | {"model": "auto", "max_tokens": 30, "stop": ["STOP HERE NOW please and for ever"]}
        answer = await app.client.post("/v1/chat/completions", json=body, headers=_as("free"))
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model"] == "other"
        said = answer.json()["usage"]["completion_tokens"]
        counted = (await _usage(app))["free"]["completion_tokens"]
        assert counted >= said, (counted, said)


def test_a_huge_limit_is_refused_when_the_key_is_made() -> None:
    with pytest.raises(ValueError, match="less than"):
        Key(name="big", sha256="0" * 64, tokens_per_minute=10**18)
    Key(name="big", sha256="0" * 64, tokens_per_minute=2**50)


async def test_the_reset_of_a_too_long_request_is_a_duration(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        long = HI | {"messages": [{"role": "user", "content": "x " * 900}]}
        refused = await app.client.post("/v1/chat/completions", json=long, headers=_as("tpm"))
        assert refused.headers["x-ratelimit-reset-tokens"] != "infs"


@pytest.mark.parametrize("fault", [OSError(95, "Operation not supported"), BlockingIOError(11, "busy")])
async def test_a_journal_that_cannot_be_locked_costs_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    """NFS without locks, FUSE, or another ingress that adopts the file between its creation and its lock."""

    def refuse(file: int, how: int) -> None:
        raise fault

    async with _limited(tmp_path) as app:
        app.gateway.accounts = Accounts.build(AccessSettings(journal_dir=str(tmp_path / "j")), MemoryStore(), share=0.0)
        monkeypatch.setattr("serve_app.access.journal.fcntl.flock", refuse)
        answer: httpx.Response = await app.client.post("/v1/chat/completions", json=HI, headers=_as("free"))
        assert answer.status_code == 200, answer.text


async def test_the_audit_line_of_an_internal_error_has_its_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import logging

    async with _limited(tmp_path) as app:
        with caplog.at_level(logging.INFO, "serve_app.audit"):
            await app.client.get("/v1/models", headers=[(b"authorization", b"Basic \xe9\xe9")])
        (line,) = [each.getMessage() for each in caplog.records if each.name == "serve_app.audit"]
        assert '"status": 0' not in line
