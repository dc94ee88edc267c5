"""What attackers and unlucky requests try; `sound` in a name: it never worked."""

import asyncio
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from serve_app.access.accounts import Accounts
from serve_app.access_config import AccessSettings
from serve_app.caller import Caller, Limits, Scope
from serve_app.conversation import GenerateRequest, RawText
from serve_app.errors import ServeError
from serve_app.record import RequestRecord
from serve_app.store.memory import MemoryStore
from tests.access.test_limits import tend
from tests.unit.app import running
from tests.unit.test_access_faults import OPERATE, _write
from tests.unit.test_quotas import HI, _as, _limited, _usage


async def test_short_answers_do_not_make_long_ones_cheap(tmp_path: Path) -> None:
    """Anybody's answers of one token teach the ingress that answers are short; then many long ones fit into 200 tokens a minute."""
    async with _limited(tmp_path, {"text": "word " * 300, "slots": 50}) as app:
        object.__setattr__(app.gateway.settings.limits, "max_concurrent_generations", 100)
        for _ in range(40):
            await app.client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}, headers=_as("free"))
        accounts = Accounts.build(AccessSettings(journal_dir=None), MemoryStore(clock=lambda: 1_800_000_000.0), share=0.0)
        app.gateway.accounts = accounts  # no minute ends in between
        body = {"prompt": "x", "model": "phi", "raw": True, "stream": False}
        await asyncio.gather(*(app.client.post("/api/generate", json=body, headers=_as("tpm")) for _ in range(20)))
        row = (await _usage(app))["tpm"]
        assert row["prompt_tokens"] + row["completion_tokens"] <= 3 * 200, row


async def test_a_fallback_is_one_request(tmp_path: Path) -> None:
    settings = {
        "models": {"phi": {}, "other": {}},
        "routing": {"auto": {"general": "phi"}, "auto_fallback": ["other"], "max_attempts": 1},
    } | _write(tmp_path, free={"requests_per_minute": 100, "tokens_per_minute": 100_000}, op={"scopes": OPERATE})
    a = {"model": "phi", "text": "STOP HERE NOW please", "fault": "die_midway", "fault_at": 2}
    async with running(settings, a=a, b={"model": "other", "text": "one two three four five six seven " * 9}) as app:
        body = HI | {"model": "auto", "max_tokens": 30, "stop": ["STOP HERE NOW please and for ever"]}
        await app.client.post("/v1/chat/completions", json=body, headers=_as("free"))
        answer = await app.client.post("/v1/chat/completions", json=HI | {"model": "other"}, headers=_as("free"))
        assert answer.headers["x-ratelimit-remaining-requests"] == "98"


async def test_tools_hold_text_back_and_fall_back_too(tmp_path: Path) -> None:
    """The same fault without a stop string: a call of a tool is held back until it is whole."""
    settings = {
        "models": {"phi": {}, "other": {}},
        "routing": {"auto": {"general": "phi", "tools": "phi"}, "auto_fallback": ["other"], "max_attempts": 1},
    } | _write(tmp_path, free={}, op={"scopes": OPERATE})
    call = '<|tool_call|>[{"name": "f", "arguments": {"text": "one two three four five"}}]<|/tool_call|>'
    a = {"model": "phi", "text": call, "fault": "die_midway", "fault_at": 6}
    async with running(settings, a=a, b={"model": "other", "text": "one two three four five six seven " * 9}) as app:
        tool = {
            "type": "function",
            "function": {"name": "f", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}},
        }
        body = HI | {"model": "auto", "max_tokens": 30, "tools": [tool]}
        answer = await app.client.post("/v1/chat/completions", json=body, headers=_as("free"))
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model"] == "other"
        assert (await _usage(app))["free"]["completion_tokens"] >= answer.json()["usage"]["completion_tokens"]


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_sound_other_scopes(tmp_path: Path, kind: str) -> None:
    async with _limited(tmp_path) as app:
        sent: list[Any] = []
        messages = iter(
            [{"type": "websocket.connect"}]
            if kind == "websocket"
            else [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        )

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": kind,
            "path": "/v1/models",
            "headers": [],
            "query_string": b"",
            "subprotocols": [],
            "state": {},
            "app": None,
        }
        with suppress(StopIteration, RuntimeError):
            await app.asgi.app(scope, receive, send)
        assert not any("accept" in each["type"] or "http" in each["type"] for each in sent), sent


RAW = [
    ("GET", b"/livez%00", {}), ("GET", b"/livez%2f..%2fv1/models", {}), ("GET", b"//v1/models", {}), ("GET", b"/LIVEZ", {}),
    ("GET", b"/health/", {}), ("POST", b"/livez", {}), ("DELETE", b"/health", {}), ("FOO", b"/v1/models", {}),
    ("OPTIONS", b"*", {}),
    ("get", b"/v1/models", {}), ("HEAD", b"/v1/models", {}), ("OPTIONS", b"/v1/models", {"origin": "http://evil.example"}),
    ("GET", b"/v1/models", {"x-forwarded-prefix": "/livez"}), ("GET", b"/v1/models", {"x-original-url": "/livez"}),
]  # fmt: skip


@pytest.mark.parametrize("version", ["1.0", "1.1", "2"])
@pytest.mark.parametrize(("method", "path", "headers"), RAW)
async def test_sound_raw_requests(tmp_path: Path, version: str, method: str, path: bytes, headers: dict[str, str]) -> None:
    from urllib.parse import unquote

    async with _limited(tmp_path) as app:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": method, "path": unquote(path.decode()), "raw_path": path, "query_string": b"\xff=1",
            "headers": [(b"host", b"test"), *((k.encode(), v.encode()) for k, v in headers.items())],
            "http_version": version, "server": ("127.0.0.1", 1), "client": ("1.2.3.4", 5), "scheme": "http", "root_path": "",
        }  # fmt: skip
        await app.asgi.app(scope, receive, send)
        assert sent[0]["status"] in (401, 403), sent
        assert b"phi" not in b"".join(each.get("body", b"") for each in sent).replace(b"phi-serve", b"")


async def test_sound_cancelling_anywhere_leaks_nothing_with_a_quick_store(tmp_path: Path) -> None:
    async with _limited(tmp_path, {"tokens_per_second": 400, "text": "word " * 30}) as app:
        limits = Limits(requests_per_minute=10_000, tokens_per_minute=1_000_000, concurrent=3)
        caller = Caller(name="fuzz", scopes=frozenset({Scope.USE}), limits=limits)
        chance = random.Random(3)
        used = 0
        for _ in range(60):
            record = RequestRecord(request_id="r", caller=caller)
            request = GenerateRequest(request_id="r", prompts=(RawText(text="a b"),), n=chance.randint(1, 2))
            events = app.gateway.generate(request, record)

            async def run(events: Any = events) -> None:
                async for _ in events:
                    pass

            task = asyncio.ensure_future(run())
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.01, 0.03]))
            task.cancel()
            with suppress(asyncio.CancelledError, ServeError):
                await task
            await events.aclose()
            used += record.consumed.prompt_tokens + record.consumed.completion_tokens
            await tend(app.gateway.accounts.limiter)
        assert app.gateway.active == 0
        store = app.gateway.accounts.store
        assert isinstance(store, MemoryStore)
        assert not any(store._leases.values())
        from tests.access.test_limit_faults import _sum

        assert await _sum(store, "tokens/key/fuzz") == used


async def test_a_key_that_only_operates_reads_usage(tmp_path: Path) -> None:
    """`Scope.OPERATE`: 'read metrics, the cluster's state and everybody's usage'."""
    async with running({"models": {"phi": {}}} | _write(tmp_path, op={"scopes": (Scope.OPERATE,)}), a={}) as app:
        assert (await app.client.get("/v1/usage", headers=_as("op"))).status_code == 200


async def test_the_unusable_application_hides_models_from_restricted_keys(tmp_path: Path) -> None:
    import httpx

    from serve_app.access.check import Access
    from serve_app.dialects import ollama, openai, reasoning
    from serve_app.errors import ModelUnusable
    from serve_app.http.app import create_unusable_app
    from tests.unit.test_access_faults import TWO, _two

    async with running(_two(tmp_path, phi={"models": ("phi",)}), **{k: dict(v) for k, v in TWO.items()}) as app:
        settings, faults = (
            app.gateway.settings,
            {"secret-model": ModelUnusable("/srv/secret is missing"), "phi": ModelUnusable("x")},
        )
        dialects = (openai.DIALECT, ollama.DIALECT, reasoning.DIALECT)
        unusable = create_unusable_app(settings, app.gateway.fleet, dialects, lambda: faults, Access(settings.access))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(unusable), base_url="http://test") as client:
            assert "secret" not in (await client.get("/v1/models", headers=_as("phi"))).text
