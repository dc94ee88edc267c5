"""The check of every request's caller, over every endpoint of the application."""

import base64
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import ollama
import openai
import pytest

from serve_app.access.keys import FormerKey, Key, KeyList, hash_key, make_key, now
from serve_app.accounting import REQUEST_LOG
from serve_app.caller import Scope
from serve_app.http.access import AUDIT_LOG
from tests.unit.app import App, running
from tests.unit.test_openapi import CASES, HI

TWO = {
    "models": {"phi": {"aliases": ["phi4-mini"]}, "other": {}},
    "routing": {"auto": {"coding": "phi", "general": "other"}},
    "variants": {"coder": {"from": "phi"}},
}
SECRETS = {
    name: make_key() for name in ("user", "operator", "phi", "coder", "revoked", "expired", "rotated", "before", "long_before")
}


def list_keys() -> KeyList:
    entries: dict[str, dict[str, Any]] = {
        "user": {},
        "operator": {"scopes": (Scope.USE, Scope.OPERATE)},
        "phi": {"models": ("PHI4-mini:latest",)},
        "coder": {"models": ("coder",)},
        "revoked": {"revoked": now()},
        "expired": {"expires": now() - timedelta(seconds=1)},
        "rotated": {"former": [FormerKey(sha256=hash_key(SECRETS["before"]), expires=now() + timedelta(hours=1))]},
        "stale": {"former": [FormerKey(sha256=hash_key(SECRETS["long_before"]), expires=now() - timedelta(hours=1))]},
    }
    secrets = SECRETS | {"stale": make_key()}
    return KeyList(keys=tuple(Key(name=name, sha256=hash_key(secrets[name]), **fields) for name, fields in entries.items()))


@dataclass
class Guarded:
    """An application that asks for keys."""

    app: App
    file: Path

    async def ask(self, method: str, path: str, key: str | None, body: Any = None, **headers: str) -> httpx.Response:
        """Send a request with the key of a name, a literal key or none."""
        if key is not None:
            headers["authorization"] = f"Bearer {SECRETS.get(key, key)}"
        sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        return await self.app.client.request(method, path, headers=headers, **sent)


@asynccontextmanager
async def _guarded(folder: Path, **extra: Any) -> AsyncIterator[Guarded]:
    file = folder / "keys.json"
    file.write_text(list_keys().model_dump_json())
    settings = TWO | {"models_dir": str(folder / "models"), "access": {"keys_file": str(file), "journal_dir": None} | extra}
    async with running(settings, a={"model": "phi"}, b={"model": "other"}) as app:
        yield Guarded(app, file)


OPEN = {("GET", "/livez"), ("GET", "/health")}
ODD = [
    ("GET", "/nowhere", None, {}),
    ("POST", "/v1/nowhere", HI, {}),
    ("GET", "/api/nowhere", None, {}),
    ("PUT", "/v1/chat/completions", None, {}),
    ("OPTIONS", "/v1/chat/completions", None, {}),
    ("TRACE", "/health", None, {}),
    ("GET", "/v1//models", None, {}),
    ("GET", "/livez/", None, {}),
    ("GET", "//livez", None, {}),
    ("GET", "/health/..", None, {}),
    ("GET", "/openapi.json", None, {}),
    ("GET", "/docs/x", None, {}),
    ("POST", "/ui", HI, {}),
    ("GET", "/pages/ui/nowhere.js", None, {}),
    ("GET", "/pages/../__init__.py", None, {}),
    ("HEAD", "/", None, {}),
    ("HEAD", "/api/tags", None, {}),
]
WRONG = {
    None: "asks for an API key",
    "sk-wrong": "Incorrect API key",
    "revoked": "was revoked",
    "expired": "expired",
    "long_before": "expired",
    "": "asks for an API key",
    "x" * 5000: "Incorrect API key",
    "' OR 1=1 --": "Incorrect API key",
}


@pytest.mark.parametrize("key", list(WRONG), ids=lambda key: repr(key)[:20])
async def test_without_a_valid_key_nothing_answers(tmp_path: Path, key: str | None) -> None:
    asked = [case for case in [*CASES, *ODD] if (case[0], case[1]) not in OPEN and "origin" not in case[3]]
    assert {path for _, path, _, _ in asked} >= {
        "/metrics",
        "/v1/cluster",
        "/v1/usage",
        "/openapi.json",
        "/api/create",
        "/reasoning",
    }
    async with _guarded(tmp_path) as guarded:
        for method, path, body, headers in asked:
            if headers.get("host") == "evil.example":
                headers = {}
            answer = await guarded.ask(method, path, key, body, **headers)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert method == "HEAD" or WRONG[key] in answer.text, (path, answer.text)
            assert not key or SECRETS.get(key, key * 9) not in answer.text
        assert not any(engine.load().running for engine in guarded.app.engines.values())


async def test_every_mounted_route_asks(tmp_path: Path) -> None:
    from starlette.routing import Route

    async with _guarded(tmp_path) as guarded:
        routes = [route for route in guarded.app.routes if isinstance(route, Route)]
        assert len(routes) > 30
        for route in routes:
            path = re.sub(r"\{[^}]*\}", "x", route.path)
            for method in route.methods or ():
                answer = await guarded.ask(method, path, None)
                is_open = path in ("/livez", "/health") or (path == "/v1/operations/session" and method != "POST")
                assert answer.status_code == (200 if is_open else 401), (method, path)


async def test_health_shows_strangers_only_phases(tmp_path: Path) -> None:
    async with _guarded(tmp_path) as guarded:
        for key in (None, "sk-wrong", "revoked"):
            assert (await guarded.ask("GET", "/health", key)).json() == {
                "status": "healthy",
                "groups": {"a": {"phase": "ready"}, "b": {"phase": "ready"}},
            }
        assert set((await guarded.ask("GET", "/health", "user")).json()) > {"status", "groups", "models", "active_requests"}
        assert (await guarded.ask("GET", "/livez", None)).json() == {"status": "ok"}


async def test_a_key_that_uses_may_not_operate(tmp_path: Path) -> None:
    new = {"model": "new", "from": "phi"}
    operating = [
        ("GET", "/metrics", None),
        ("GET", "/v1/cluster", None),
        ("GET", "/v1/usage?key=operator", None),
        ("HEAD", "/v1/operations", None),
        ("GET", "/v1/operations/state", None),
        ("POST", "/v1/operations/groups/a/drain", {}),
        ("POST", "/api/create", new),
        ("POST", "/api/copy", {"source": "new", "destination": "newer"}),
        ("DELETE", "/api/delete", {"model": "new"}),
        ("HEAD", "/api/blobs/sha256:abc", None),
        ("POST", "/api/blobs/sha256:abc", b"abc"),
    ]
    async with _guarded(tmp_path) as guarded:
        for method, path, body in operating:
            answer = await guarded.ask(method, path, "user", body)
            assert answer.status_code == 403, path
            assert method == "HEAD" or "operate" in answer.text
            assert (await guarded.ask(method, path, "operator", body)).status_code not in (401, 403), path
        assert (await guarded.ask("GET", "/v1/usage", "user")).status_code == 200


GENERATING = [
    ("/v1/chat/completions", HI),
    ("/v1/completions", {"prompt": "x"}),
    ("/api/chat", HI),
    ("/api/generate", {"prompt": "x"}),
    ("/reasoning", {"prompt": "x"}),
]
NAMING = [
    ("POST", "/v1/chat/completions/render", HI),
    ("POST", "/tokenize", {"prompt": "x"}),
    ("POST", "/detokenize", {"tokens": [5]}),
    ("POST", "/v1/route", HI),
    ("POST", "/api/show", {}),
    ("POST", "/api/pull", {}),
    ("POST", "/api/push", {}),
    ("POST", "/api/embed", {}),
    ("POST", "/api/embeddings", {}),
]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_of_another_model(tmp_path: Path, stream: bool) -> None:
    async with _guarded(tmp_path) as guarded:
        for path, body in GENERATING:
            refused = await guarded.ask("POST", path, "phi", body | {"model": "other", "stream": stream})
            assert refused.status_code == 403, path
            assert "may not use the model 'other'" in refused.text
            for name in ("phi", "phi4-mini", "coder"):
                assert (await guarded.ask("POST", path, "phi", body | {"model": name, "stream": stream})).status_code == 200, path
            assert (await guarded.ask("POST", path, "coder", body | {"model": "coder", "stream": stream})).status_code == 200
            assert (await guarded.ask("POST", path, "coder", body | {"model": "phi", "stream": stream})).status_code == 403
            by_group = await guarded.ask("POST", path, "phi", body | {"model": "phi", "stream": stream}, **{"x-engine": "b"})
            assert by_group.status_code == 400
        unnamed = await guarded.ask("POST", "/v1/chat/completions", "phi", HI | {"stream": stream}, **{"x-engine": "b"})
        assert unnamed.status_code == 403
    async with _guarded(tmp_path) as guarded:
        for method, path, body in NAMING:
            refused = await guarded.ask(method, path, "phi", body | {"model": "other"})
            assert refused.status_code == 403, (path, refused.text)
            assert (await guarded.ask(method, path, "phi", body | {"model": "phi"})).status_code != 403
        assert (await guarded.ask("GET", "/v1/models/other", "phi")).status_code == 403
        assert (await guarded.ask("GET", "/v1/models/other", "user")).status_code == 200


async def test_lists_show_a_key_its_own_models(tmp_path: Path) -> None:
    async with _guarded(tmp_path) as guarded:
        for key, names in (("phi", {"phi", "phi4-mini", "coder", "auto"}), ("coder", {"coder"})):
            listed = (await guarded.ask("GET", "/v1/models", key)).json()["data"]
            assert {model["id"] for model in listed} == names
            tags = (await guarded.ask("GET", "/api/tags", key)).json()["models"]
            assert {model["name"].removesuffix(":latest") for model in tags} == names
        loaded = (await guarded.ask("GET", "/api/ps", "phi")).json()["models"]
        assert [model["name"] for model in loaded] == ["phi:latest"]


async def test_auto_chooses_among_a_keys_own_models(tmp_path: Path) -> None:
    async with _guarded(tmp_path) as guarded:
        general = HI | {"model": "auto"}
        assert (await guarded.ask("POST", "/v1/chat/completions", "user", general)).headers["x-model"] == "other"
        assert (await guarded.ask("POST", "/v1/chat/completions", "phi", general)).headers["x-model"] == "phi"
        assert (await guarded.ask("POST", "/v1/chat/completions", "coder", general)).status_code == 403


async def test_the_ways_of_sending_a_key(tmp_path: Path) -> None:
    key = SECRETS["user"]
    basic = base64.b64encode(f"me:{key}".encode()).decode()
    good = [
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer   {key} "},
        {"authorization": key},
        {"x-api-key": key},
        {"api-key": key},
        {"authorization": f"Basic {basic}"},
        {"authorization": "Bearer sk-wrong", "x-api-key": key},
    ]
    bad = [
        {"authorization": "Bearer"},
        {"authorization": "Basic !!!"},
        {"authorization": f"Digest {key}"},
        {"x-api-key": f"Bearer {key}"},
        {"cookie": key},
        {"x-api-key": hash_key(key)},
    ]
    async with _guarded(tmp_path) as guarded:
        for headers in good:
            assert (await guarded.app.client.get("/v1/models", headers=headers)).status_code == 200, headers
        for headers in bad:
            assert (await guarded.app.client.get("/v1/models", headers=headers)).status_code == 401, headers
        assert (await guarded.app.client.get(f"/v1/models?api_key={key}")).status_code == 401
        for former, status in (("rotated", 200), ("before", 200), ("long_before", 401)):
            assert (await guarded.ask("GET", "/v1/models", former)).status_code == status


async def test_the_sdks_show_their_own_errors(tmp_path: Path) -> None:
    async with _guarded(tmp_path) as guarded:
        http = guarded.app.client
        transport = httpx2.ASGITransport(guarded.app.asgi.app)
        for key, error in (("sk-wrong", openai.AuthenticationError), (SECRETS["phi"], openai.PermissionDeniedError)):
            client = openai.AsyncOpenAI(base_url="http://test/v1", api_key=key, http_client=http, max_retries=0)
            with pytest.raises(error) as raised:
                await client.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
            assert isinstance(raised.value, openai.APIStatusError)
            assert raised.value.code == ("invalid_api_key" if key == "sk-wrong" else "forbidden")
        claude = anthropic.AsyncAnthropic(
            base_url="http://test", api_key="sk-wrong", http_client=httpx2.AsyncClient(transport=transport), max_retries=0
        )
        with pytest.raises(anthropic.AuthenticationError):
            await claude.messages.create(model="phi", max_tokens=5, messages=[{"role": "user", "content": "x"}])
        tagged = ollama.AsyncClient(host="http://test", headers={"authorization": "Bearer sk-wrong"})
        tagged._client = httpx.AsyncClient(transport=guarded.app.asgi, base_url="http://test", headers=tagged._client.headers)
        for asked in (tagged.list(), tagged.chat(model="phi", messages=[{"role": "user", "content": "x"}])):
            with pytest.raises(ollama.ResponseError) as refused:
                await asked
            assert (refused.value.status_code, "Incorrect API key" in refused.value.error) == (401, True)


async def test_a_preflight_needs_no_key_and_a_page_may_send_one(tmp_path: Path) -> None:
    asked = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    async with _guarded(tmp_path) as guarded:
        answer = await guarded.ask(
            "OPTIONS", "/v1/models", None, **asked, **{"access-control-request-headers": "authorization,x-api-key"}
        )
        assert (answer.status_code, answer.headers["access-control-allow-headers"]) == (204, "authorization,x-api-key")


async def test_host_names_are_checked_only_while_there_are_no_keys(tmp_path: Path) -> None:
    async with _guarded(tmp_path) as guarded:
        assert (await guarded.ask("GET", "/v1/models", "user", host="evil.example")).status_code == 200
        assert (await guarded.ask("GET", "/v1/models", None, host="evil.example")).status_code == 401
    keyless = TWO | {"access": {"keys_file": str(tmp_path / "none.json")}}
    async with running(keyless, a={"model": "phi"}, b={"model": "other"}) as app:
        assert (await app.client.get("/v1/models", headers={"host": "evil.example"})).status_code == 403
        assert (await app.client.get("/v1/models")).status_code == 200


async def test_each_request_leaves_one_line_that_says_who_did_what_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with _guarded(tmp_path) as guarded:
        with caplog.at_level(logging.INFO):
            body = {"messages": [{"role": "user", "content": "a secret text"}], "model": "phi", "max_tokens": 3}
            for stream in (False, True):
                await guarded.ask("POST", "/v1/chat/completions?q=hidden", "user", body | {"stream": stream})
            await guarded.ask("POST", "/v1/chat/completions", "sk-wrong", body)
            await guarded.ask("POST", "/v1/chat/completions", "user", body | {"max_tokens": "many"})
            await guarded.ask("POST", "/api/create", "operator", {"model": "new", "from": "phi"})
            await guarded.ask("POST", "/api/create", "user", {"model": "newer", "from": "phi"})
            for path in ("/livez", "/health", "/metrics"):
                await guarded.ask("GET", path, "operator")
    written = [record.getMessage() for record in caplog.records if record.name in (AUDIT_LOG.name, REQUEST_LOG.name)]
    lines = [json.loads(each) for each in written]
    assert [(line["key"], line.get("path"), line.get("status", line.get("outcome"))) for line in lines] == [
        ("user", None, "ok"),
        ("user", None, "ok"),
        ("none", "/v1/chat/completions", 401),
        ("user", "/v1/chat/completions", 400),
        ("operator", "/api/create", 200),
        ("user", "/api/create", 403),
    ]
    assert [(line["model"], line["completion_tokens"]) for line in lines[:2]] == [("phi", 3), ("phi", 3)]
    assert not any(each in " ".join(written) for each in ("secret text", "hidden", *SECRETS.values()))
