"""Quotas and usage over HTTP: what clients see when a quota is used up, and what counts when they leave."""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serve_app.access.keys import Key, KeyList, hash_key
from serve_app.caller import Caller, Priority, Scope
from serve_app.conversation import GenerateRequest, RawText, TextDelta
from serve_app.engines.fake import FakeEngine
from serve_app.errors import EngineDead, InvalidRequest
from serve_app.record import RequestRecord
from serve_app.types import TokenDelta, TokenEvent, TokenRequest
from tests.access.test_limits import tend
from tests.unit.app import App, running

HI = {"messages": [{"role": "user", "content": "hi"}], "model": "phi", "max_tokens": 4}
PATHS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", HI),
    ("/v1/completions", {"prompt": "x", "max_tokens": 4}),
    ("/api/chat", HI),
    ("/api/generate", {"prompt": "x", "model": "phi"}),
    ("/reasoning", {"prompt": "x"}),
]


@asynccontextmanager
async def _limited(folder: Path, engine: dict[str, object] | None = None, **access: Any) -> AsyncIterator[App]:
    """Serve a fake group to the keys `op`, `rpm` (2 requests), `tpm` (200 tokens), `one` (at once), `batch`; a key is its name."""
    limits: dict[str, dict[str, Any]] = {
        "op": {"scopes": (Scope.USE, Scope.OPERATE), "priority": Priority.HIGH},
        "rpm": {"requests_per_minute": 2},
        "tpm": {"tokens_per_minute": 200},
        "one": {"concurrent": 1},
        "batch": {"priority": Priority.BATCH},
        "free": {},
    }
    keys = tuple(Key(name=name, sha256=hash_key(name), **fields) for name, fields in limits.items())
    (folder / "keys.json").write_text(KeyList(keys=keys).model_dump_json())
    settings = {
        "models": {"phi": {}},
        "access": {"keys_file": str(folder / "keys.json"), "journal_dir": None} | access,
        "limits": {"max_concurrent_generations": 4, "request_timeout_s": 30},
    }
    async with running(settings, a=engine or {}) as app:
        yield app


def _as(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), PATHS, ids=[path for path, _ in PATHS])
async def test_a_used_up_quota_is_a_429_in_every_dialect(tmp_path: Path, path: str, body: dict[str, Any], stream: bool) -> None:
    async with _limited(tmp_path) as app:
        for left in (1, 0):
            answer = await app.client.post(path, json=body | {"stream": stream}, headers=_as("rpm"))
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
            assert re.fullmatch(r"\d+(\.\d+)?s|\d+ms", answer.headers["x-ratelimit-reset-requests"])
        for _ in range(2):
            refused = await app.client.post(path, json=body | {"stream": stream}, headers=_as("rpm"))
            assert refused.status_code == 429
            assert "2 requests per minute" in refused.text
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await app.client.post(path, json=body, headers=_as("free"))).status_code == 200
        assert "x-ratelimit-limit-requests" not in (await app.client.post(path, json=body, headers=_as("free"))).headers
        assert (await app.client.get("/v1/models", headers=_as("rpm"))).status_code == 200  # generates nothing


async def test_openais_client_raises_its_rate_limit_error(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="rpm", http_client=app.client, max_retries=0)
        for _ in range(2):
            await client.chat.completions.create(**HI)  # type: ignore[call-overload]
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(**HI)  # type: ignore[call-overload]
        assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")


async def test_a_wrong_request_costs_no_quota(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        for wrong in ({"messages": []}, HI | {"max_tokens": -1}, HI | {"model": "none"}, HI | {"n": 99}):
            assert (await app.client.post("/v1/chat/completions", json=wrong, headers=_as("rpm"))).status_code in (400, 404)
        for status in (200, 200, 429):
            assert (await app.client.post("/v1/chat/completions", json=HI, headers=_as("rpm"))).status_code == status


async def test_tokens_are_counted_as_the_answers_say(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        used = 0
        while True:
            answer = await app.client.post("/v1/chat/completions", json=HI, headers=_as("tpm"))
            if answer.status_code == 429:
                break
            used += answer.json()["usage"]["total_tokens"]
            assert int(answer.headers["x-ratelimit-remaining-tokens"]) <= 200 - used
        assert 150 < used <= 200
        long = HI | {"messages": [{"role": "user", "content": "x " * 900}]}
        refused = await app.client.post("/v1/chat/completions", json=long, headers=_as("tpm"))
        assert (refused.status_code, refused.headers.get("x-should-retry")) == (429, "false")
        assert "retry-after" not in refused.headers


async def test_one_request_at_a_time(tmp_path: Path) -> None:
    async with _limited(tmp_path, {"tokens_per_second": 50}) as app:
        slow = asyncio.ensure_future(app.client.post("/v1/chat/completions", json=HI | {"max_tokens": 40}, headers=_as("one")))
        await asyncio.sleep(0.1)
        refused = await app.client.post("/v1/chat/completions", json=HI, headers=_as("one"))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await slow).status_code == 200
        await tend(app.gateway.accounts.limiter)
        assert (await app.client.post("/v1/chat/completions", json=HI, headers=_as("one"))).status_code == 200


async def test_batch_keys_are_refused_first(tmp_path: Path) -> None:
    async with _limited(tmp_path, {"tokens_per_second": 50}) as app:
        slow = [
            asyncio.ensure_future(app.client.post("/v1/chat/completions", json=HI | {"max_tokens": 30}, headers=_as("op")))
            for _ in range(2)
        ]
        await asyncio.sleep(0.1)
        statuses = [
            (await app.client.post("/v1/chat/completions", json=HI | {"max_tokens": 1}, headers=_as(key))).status_code
            for key in ("batch", "free")
        ]
        assert statuses == [503, 200]
        assert {answer.status_code for answer in await asyncio.gather(*slow)} == {200}


async def _usage(app: App, key: str = "op", **query: str) -> dict[str, dict[str, Any]]:
    answer = await app.client.get("/v1/usage", params=query, headers=_as(key))
    assert answer.status_code == 200
    return {row["key"]: row for row in answer.json()["data"]}


async def test_usage_is_the_sum_of_the_answers(tmp_path: Path) -> None:
    async with _limited(tmp_path) as app:
        sums = {"free": [0, 0, 0], "batch": [0, 0, 0]}
        for at in range(12):
            key = ("free", "batch")[at % 2]
            body = HI | {"max_tokens": at + 1, "n": at % 3 + 1}
            usage = (await app.client.post("/v1/chat/completions", json=body, headers=_as(key))).json()["usage"]
            sums[key] = [a + b for a, b in zip(sums[key], (1, usage["prompt_tokens"], usage["completion_tokens"]), strict=True)]
        shown = await _usage(app)
        for key, expected in sums.items():
            row = shown[key]
            assert [row[name] for name in ("requests", "prompt_tokens", "completion_tokens")] == expected
            assert row["engine_seconds"] > 0
        assert set(await _usage(app, "batch")) == {"batch"}
        assert await _usage(app, since="2999-01-01") == {}
        assert (await app.client.get("/v1/usage?since=x", headers=_as("op"))).status_code == 400
        metrics = (await app.client.get("/metrics", headers=_as("op"))).text
        labels, counted = 'ingress="",key="batch",kind="completion",model="phi"', float(sums["batch"][2])
        assert f"phi_serve_key_tokens_total{{{labels}}} {counted}" in metrics


@pytest.mark.parametrize("choices", [1, 3])
async def test_a_client_that_leaves_pays_for_what_was_generated(tmp_path: Path, choices: int) -> None:
    async with _limited(tmp_path, {"tokens_per_second": 200, "text": "word " * 500}) as app:
        request = GenerateRequest(request_id="r", prompts=(RawText(text="a prompt"),), n=choices)
        record = RequestRecord(request_id="r", caller=Caller(name="free", scopes=frozenset({Scope.USE})))
        delivered = 0
        async with aclosing(app.gateway.generate(request, record)) as events:
            async for event in events:
                delivered += isinstance(event, TextDelta)
                if delivered == 9:
                    break
        row = (await _usage(app))["free"]
        assert (row["requests"], row["errors"]) == (1, 0)
        assert row["prompt_tokens"] == len(app.gateway.catalog.resolve(None).model.tokenizer.encode("a prompt", special=False))
        assert 9 <= row["completion_tokens"] <= 9 + 2 * choices


async def test_an_answer_that_breaks_off_counts_what_was_delivered(tmp_path: Path) -> None:
    async with _limited(tmp_path, {"fault": "truncate", "fault_at": 3, "text": "one two three four five six"}) as app:
        answer = await app.client.post("/v1/chat/completions", json=HI | {"max_tokens": 50}, headers=_as("free"))
        assert answer.status_code >= 500
        row = (await _usage(app))["free"]
        assert (row["requests"], row["errors"]) == (1, 1)
        assert row["completion_tokens"] >= 3


async def test_the_quota_is_free_again_after_an_engines_failure(tmp_path: Path) -> None:
    async with _limited(tmp_path, {"absent": True}) as app:
        for _ in range(4):
            answer: httpx.Response = await app.client.post("/v1/chat/completions", json=HI, headers=_as("rpm"))
            assert answer.status_code == 503


class _Counting:
    """An engine that counts the tokens that left it."""

    def __init__(self, engine: FakeEngine, fails: random.Random | None = None) -> None:
        self.engine, self.tokens, self._chance = engine, 0, fails

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        fails_at = self._chance.randint(0, 12) if self._chance else 10**9
        sent = 0
        async with aclosing(self.engine.generate(request)) as events:
            async for event in events:
                if sent >= fails_at:
                    raise EngineDead("the engine of this test died")
                if isinstance(event, TokenDelta):
                    sent += len(event.ids)
                    self.tokens += len(event.ids)
                yield event


async def test_usage_and_the_engines_agree_to_the_token_under_faults(tmp_path: Path) -> None:
    routing = {"prefer": {"general": ["a", "b"]}, "breaker": {"failures": 10**6, "failure_ratio": 1, "min_requests": 10**6}}
    (tmp_path / "keys.json").write_text(KeyList(keys=(Key(name="free", sha256=hash_key("free")),)).model_dump_json())
    access = {"keys_file": str(tmp_path / "keys.json"), "journal_dir": None}
    text = "one two three four five six seven eight nine ten " * 4
    async with running({"access": access}, routing=routing | {"retry_reserve": 1000}, a={"text": text}, b={"text": text}) as app:
        engines = {"a": _Counting(app.engines["a"], random.Random(5)), "b": _Counting(app.engines["b"])}
        app.gateway._attempts._generators = engines
        told = Counter[str]()
        for at in range(60):
            body = HI | {"max_tokens": at % 20 + 1, "ignore_eos": True, "n": at % 3 + 1, "model": None, "stream": at % 2 == 1}
            body |= {"stream_options": {"include_usage": True}} if body["stream"] else {}
            answer = await app.client.post("/v1/chat/completions", json=body, headers=_as("free"))
            assert answer.status_code == 200, answer.text
            told["failovers"] += answer.headers["x-engine"] == "b" or int(answer.headers["x-attempts"]) > 1
            shown = answer.json() if not body["stream"] else json.loads(answer.text.split("data: ")[-2])
            told.update({name: shown["usage"][name] for name in ("prompt_tokens", "completion_tokens")})
        row = (await _usage(app, "free"))["free"]
        assert told["failovers"] > 5
        assert engines["a"].tokens > 0 < engines["b"].tokens
        assert engines["a"].tokens + engines["b"].tokens == told["completion_tokens"] == row["completion_tokens"]
        assert row["prompt_tokens"] == told["prompt_tokens"]


@pytest.mark.parametrize("n", [1, 2])
async def test_a_failure_before_the_first_token_costs_no_prompt(tmp_path: Path, n: int) -> None:
    async with _limited(tmp_path, {"fault": "fail_first"}) as app:
        answer = await app.client.post("/v1/chat/completions", json=HI | {"n": n}, headers=_as("free"))
        assert answer.status_code == 500
        row = (await _usage(app))["free"]
        assert (row["requests"], row["errors"], row["prompt_tokens"]) == (1, 1, 0)


@pytest.mark.parametrize("error", [InvalidRequest("a grammar that cannot be followed"), RuntimeError("unforeseen")])
async def test_what_an_engine_refuses_costs_no_quota(tmp_path: Path, error: Exception) -> None:
    class _Refuses:
        async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
            raise error
            yield  # makes it a generator

    async with _limited(tmp_path) as app:
        app.gateway._attempts._generators = {"a": _Refuses()}
        statuses = {(await app.client.post("/v1/chat/completions", json=HI, headers=_as("rpm"))).status_code for _ in range(4)}
        assert 429 not in statuses
