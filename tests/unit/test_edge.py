"""Browsers, old clients and broken bytes, at every endpoint of the application."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from serve_app.access.check import Access
from serve_app.browser_config import BrowserSettings
from serve_app.config import AppSettings
from serve_app.dialects import ollama, openai, reasoning
from serve_app.errors import Forbidden, InvalidRequest, ModelUnusable
from serve_app.http.app import create_unusable_app
from serve_app.http.browsers import BrowserRules
from serve_app.routing.fleet import FleetView
from tests.unit.app import App, running

CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
PAGE = "http://localhost:5173"
LOOPBACK, LAN = ("127.0.0.1", 8000), ("192.168.1.5", 8000)


@dataclass
class Answer:
    """What came back, with the framing that a server would add left out."""

    status: int
    headers: httpx.Headers
    body: bytes
    messages: int
    """How many messages the body came in."""

    def json(self) -> Any:
        return json.loads(self.body)


async def call(
    app: Any, path: str, body: object = None, *, method: str = "POST", headers: dict[str, bytes] | None = None,
    query: bytes = b"", version: str = "1.1", server: tuple[str, int] | None = LOOPBACK,
) -> Answer:  # fmt: skip
    """Call an ASGI application with bytes that no HTTP client would send."""
    sent: list[Any] = []
    pending = [{"type": "http.request", "body": b"" if body is None else json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, object]:
        if pending:
            return pending.pop()
        await asyncio.Event().wait()
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value) for name, value in ({"host": b"localhost:8000"} | (headers or {})).items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": version, "method": method, "path": path,
        "query_string": query, "headers": raw, "server": server, "client": ("127.0.0.1", 5), "scheme": "http", "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    start, *rest = sent
    given = httpx.Headers([(name, value) for name, value in start["headers"]])
    return Answer(start["status"], given, b"".join(message.get("body", b"") for message in rest), len(rest))


def _asgi(app: App) -> Any:
    return app.asgi.app


def _operations(document: Any) -> list[tuple[str, str]]:
    return [(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs]


async def test_every_endpoint_answers_a_preflight() -> None:
    asked = {"origin": PAGE, "access-control-request-headers": "authorization, content-type,x-stainless-os"}
    async with running(a={}) as app:
        found = _operations((await app.client.get("/openapi.json")).json())
        assert len(found) > 20
        for method, path in [*found, ("POST", "/nowhere")]:
            answer = await app.client.options(path, headers=asked | {"access-control-request-method": method})
            assert (answer.status_code, answer.content) == (204, b""), path
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert method in answer.headers["access-control-allow-methods"]
            assert answer.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
            assert answer.headers["vary"] == "Origin"
        plain = await app.client.options(CHAT)
    assert (plain.status_code, plain.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, HI, 200), (CHAT, HI | {"stream": True}, 200), (CHAT, {"messages": []}, 400), (CHAT, HI | {"model": "none"}, 404),
        ("/api/chat", HI | {"model": "phi4-mini"}, 200), ("/api/chat", HI | {"model": "none"}, 404), ("/reasoning", {}, 400),
        ("/nowhere", {}, 404),
    ],
)  # fmt: skip
async def test_a_page_may_read_answers_and_errors_and_our_headers(path: str, body: dict[str, Any], status: int) -> None:
    async with running(a={}) as app:
        answer = await app.client.post(path, json=body, headers={"origin": PAGE})
        silent = await app.client.post(path, json=body)
    assert answer.status_code == silent.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert exposed >= {"x-request-id", "x-engine", "x-task", "x-route-reason", "x-attempts"}
    assert exposed == {name for name in answer.headers if name.startswith("x-")}
    assert not [name for name in silent.headers if name.startswith("access-control")]


async def test_an_ingress_that_is_busy_shows_a_page_when_to_come_back() -> None:
    async with running(a={}) as app:
        app.gateway.active_by_model["phi-4-mini-instruct"] = 256
        answer = await app.client.post(CHAT, json=HI, headers={"origin": PAGE})
    assert answer.status_code == 503
    assert "retry-after" in answer.headers["access-control-expose-headers"].split(", ")


LOCAL = [
    "http://localhost", "https://localhost:3000", "http://127.0.0.1:8080", "http://0.0.0.0:1", "http://[::1]:5173", "app://obsidian.md",
    "file://", "tauri://localhost", "http://tauri.localhost", "vscode-webview://1abc", "vscode-file://vscode-app", "HTTP://LOCALHOST:1",
]  # fmt: skip
FOREIGN = [
    "https://evil.example", "http://localhost.evil.example", "http://evil.example:3000", "null", "chrome-extension://abc", "http://[::1",
    "http://127.0.0.1.evil.example", "http://192.168.1.7:3000", "ftp://localhost", "localhost", "",
]  # fmt: skip


@pytest.mark.parametrize("origin", LOCAL)
async def test_local_origins_are_allowed(origin: str) -> None:
    async with running(a={}) as app:
        answer = await app.client.post(CHAT, json=HI, headers={"origin": origin})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_foreign_page_is_refused_before_anything_happens(origin: str) -> None:
    asked = {"origin": origin, "access-control-request-method": "POST"}
    async with running(a={}) as app:
        preflight = await app.client.options(CHAT, headers=asked)
        # What a form or fetch may send without asking first: the body's type is text.
        answer = await app.client.post(
            "/api/chat", content=json.dumps(HI), headers={"origin": origin, "content-type": "text/plain"}
        )
        assert not app.engines["a"].requests
    assert preflight.status_code == answer.status_code == 403
    assert not [name for name in (*preflight.headers, *answer.headers) if name.startswith("access-control")]
    assert "browsers.origins" in answer.json()["error"]
    assert preflight.json()["error"]["code"] == "forbidden"


async def test_origins_are_configured() -> None:
    async with running({"browsers": {"origins": ["https://chat.example.com", "https://*.corp.example", "null"]}}, a={}) as app:

        async def status(origin: str) -> int:
            return (await app.client.get("/v1/models", headers={"origin": origin})).status_code

        allowed = ("https://chat.example.com", "https://a.b.corp.example", "null", PAGE)
        assert [await status(origin) for origin in allowed] == [200] * 4
        assert await status("https://corp.example") == await status("http://chat.example.com") == 403
        assert await status("https://chat_example.com") == 403
    async with running({"browsers": {"origins": ["*"]}}, a={}) as app:
        everyone = await app.client.get("/v1/models", headers={"origin": "https://evil.example"})
    assert (everyone.status_code, everyone.headers["access-control-allow-origin"]) == (200, "*")


async def test_a_page_behind_the_same_proxy_is_no_foreigner() -> None:
    async with running({"browsers": {"hosts": ["chat.example.com"]}}, a={}) as app:
        headers = {"origin": b"https://chat.example.com", "host": b"chat.example.com"}
        assert (await call(_asgi(app), CHAT, HI, headers=headers)).status == 200


@pytest.mark.parametrize("bad", ["https://a.example/", "https://a.example/x", "a.example", "localhost:3000", ""])
def test_an_origin_that_matches_nothing_is_refused_at_start(bad: str) -> None:
    with pytest.raises(ValidationError, match=r"browsers\.origins"):
        BrowserSettings(origins=(bad,))


@pytest.mark.parametrize("bad", ["http://a.example", "a.example:8000", "", "a b"])
def test_a_host_that_matches_nothing_is_refused_at_start(bad: str) -> None:
    with pytest.raises(ValidationError, match=r"browsers\.hosts"):
        BrowserSettings(hosts=(bad,))


OURS = [
    "localhost", "localhost:8000", "LocalHost.", "127.0.0.1:8000", "127.1:8000", "[::1]:8000", "[::1]", "0.0.0.0", "10.1.2.3",
    "8.8.8.8:80", "phi-serve:8000", "phi_serve", "phi-serve.phi.svc", "phi-serve.phi.svc.cluster.local:8000", "box.internal",
    "box.local", "", "a.localhost",
]  # fmt: skip
OTHERS = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "phi-serve.phi"]
BROKEN = [
    "a/b",
    "a b",
    "[",
    "[::1",
    "a?b",
    "a#b",
    "user@localhost",
    "localhost:8000:9",
    "localhost:port",
    "a\\b",
    "\x00/",
    "a\tb",
    "\xe9.a",
]


@pytest.mark.parametrize("server", [LOOPBACK, ("::1", 8000), LAN, None])
async def test_names_that_nobody_can_register_are_ours(server: Any) -> None:
    async with running(a={}) as app:
        for host in OURS:
            answer = await call(_asgi(app), "/v1/models", method="GET", headers={"host": host.encode()}, server=server)
            assert answer.status == 200, host


@pytest.mark.parametrize("path", [CHAT, "/api/tags", "/", "/openapi.json", "/v1/cluster", "/nowhere"])
async def test_a_rebound_name_is_refused_in_the_dialect_of_the_path(path: str) -> None:
    async with running(a={}) as app:
        for host in OTHERS:
            rebound = {"host": host.encode(), "origin": f"http://{host}".encode()}
            for server in (LOOPBACK, ("::ffff:127.0.0.1", 80), None):
                answer = await call(_asgi(app), path, HI, headers=rebound, server=server)
                assert answer.status == 403, host
                assert not [name for name in answer.headers if name.startswith("access-control")]
                error = answer.json()["error"]
                assert "browsers.hosts" in (error["message"] if isinstance(error, dict) else error)
                assert answer.headers["x-request-id"]
            remote = await call(_asgi(app), "/v1/models", method="GET", headers={"host": host.encode()}, server=LAN)
            assert remote.status == 200  # any name may be ours where other machines come in
        assert not app.engines["a"].requests


@pytest.mark.parametrize("path", [CHAT, f"{CHAT}/", "/nowhere", "/api/nowhere"])
async def test_a_host_that_is_none_is_400(path: str) -> None:
    async with running(a={}) as app:
        for host in BROKEN:
            for server in (LOOPBACK, LAN):
                answer = await call(_asgi(app), path, HI, headers={"host": host.encode("latin-1")}, server=server)
                assert (answer.status, answer.headers["content-type"]) == (400, "application/json"), host


@pytest.mark.parametrize("path", ["/livez", "/health", "/metrics"])
async def test_probes_come_under_any_name(path: str) -> None:
    async with running(a={}) as app:
        assert (await call(_asgi(app), path, method="GET", headers={"host": b"evil.example"})).status == 200
        assert (await call(_asgi(app), path, method="HEAD", headers={"host": b"evil.example"})).status == 200


async def test_names_are_configured_and_then_every_request_is_checked() -> None:
    settings = {"browsers": {"hosts": ["llm.example.com", "*.corp.example"]}, "public_url": "https://public.example:8443"}
    async with running(settings, a={}) as app:

        async def status(host: bytes, server: tuple[str, int] = LAN) -> int:
            return (await call(_asgi(app), "/v1/models", method="GET", headers={"host": host}, server=server)).status

        for host in (b"llm.example.com:8000", b"LLM.example.com", b"a.corp.example", b"public.example", b"localhost", b"10.0.0.1"):
            assert await status(host) == await status(host, LOOPBACK) == 200
        assert await status(b"evil.example") == await status(b"corp.example") == 403
    async with running({"browsers": {"hosts": ["*"]}}, a={}) as app:
        assert (await call(_asgi(app), "/v1/models", method="GET", headers={"host": b"evil.example"})).status == 200


def test_the_machines_own_name_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Box.lab.example")
    rules = BrowserRules(BrowserSettings())
    rules.require_host("box.lab.example:8000", "127.0.0.1")
    with pytest.raises(Forbidden):
        rules.require_host("other.lab.example", "127.0.0.1")
    with pytest.raises(InvalidRequest):
        rules.require_host("box/", "127.0.0.1")


async def test_an_app_that_is_unusable_keeps_to_the_same_rules() -> None:
    settings = AppSettings.model_validate({"engines": {"a": {"kind": "fake"}}, "access": "open"})
    view = FleetView(settings.engines, 60)
    dialects = (openai.DIALECT, ollama.DIALECT, reasoning.DIALECT)
    faults = {"m": ModelUnusable("no model")}
    app = create_unusable_app(settings, lambda: view.snapshot(0), dialects, lambda: faults, Access(settings.access))
    asked = {"origin": PAGE.encode(), "access-control-request-method": b"POST"}
    assert (await call(app, CHAT, method="OPTIONS", headers=asked)).status == 204
    seen = await call(app, CHAT, HI, headers={"origin": PAGE.encode()})
    assert (seen.status, seen.headers["access-control-allow-origin"]) == (503, PAGE)
    assert (await call(app, CHAT, HI, headers={"host": b"evil.example"})).status == 403
    assert (await call(app, "/livez", method="GET", headers={"host": b"evil.example"})).status == 200
    assert (await call(app, CHAT, HI, headers={"x-request-id": b"caf\xe9"}, query=b"\xff")).status == 503


OLD: list[tuple[str, dict[str, Any]]] = [
    (CHAT, HI | {"stream": True, "stream_options": {"include_usage": True}}), ("/v1/completions", {"prompt": "hi", "stream": True}),
    ("/api/chat", HI | {"model": "phi4-mini"}), ("/api/generate", {"model": "phi4-mini", "prompt": "hi"}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), OLD)
async def test_a_stream_to_http_1_0_comes_whole_with_its_length(path: str, body: dict[str, Any]) -> None:
    async with running(a={"text": "one two three"}) as app:
        old = await call(_asgi(app), path, body, version="1.0")
        new = await call(_asgi(app), path, body)
        assert app.engines["a"].load().running == app.gateway.active == 0
    assert new.messages > 2
    assert "content-length" not in new.headers
    assert old.messages == 1
    assert old.headers["content-length"] == str(len(old.body))
    assert old.headers["content-type"] == new.headers["content-type"]
    assert old.body.count(b"\n") == new.body.count(b"\n") > 3


async def test_http_1_0_changes_nothing_about_what_is_whole() -> None:
    async with running(a={}) as app:
        for path, method in (("/v1/models", "GET"), ("/v1/models", "HEAD"), ("/livez", "GET"), ("/nowhere", "GET"), (CHAT, "GET")):
            old, new = [await call(_asgi(app), path, method=method, version=version) for version in ("1.0", "1.1")]
            assert (old.status, old.headers["content-length"]) == (new.status, new.headers["content-length"])
            assert len(old.body) == len(new.body)


async def test_a_client_of_http_1_0_that_leaves_frees_its_slot() -> None:
    gone = asyncio.Event()
    pending = [{"type": "http.request", "body": json.dumps(HI | {"stream": True}).encode(), "more_body": False}]

    async def receive() -> dict[str, object]:
        if pending:
            return pending.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "query_string": b"", "http_version": "1.0",
             "asgi": {"version": "3.0", "spec_version": "2.4"}}  # fmt: skip
    async with running(a={"tokens_per_second": 2, "text": "one two three four"}) as app:
        served = asyncio.ensure_future(_asgi(app)(scope, receive, send))
        while not app.engines["a"].load().running:
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(served, 5)
        assert app.engines["a"].load().running == app.gateway.active == 0
    assert not sent


HEADERS = [
    "x-request-id", "x-engine", "x-task", "x-session-id", "x-timeout-s", "x-debug-route", "host", "origin", "content-type",
    "content-length", "accept", "authorization", "user-agent", "traceparent", "cookie", "access-control-request-headers",
]  # fmt: skip
READ = {"x-engine", "x-task", "x-timeout-s", "host", "origin"}
"""A value that none of ours means is refused; that of the others is left aside."""


@pytest.mark.parametrize("value", [b"caf\xe9", b"\xff\xfe", b"\xb2", "日本".encode()])
@pytest.mark.parametrize("path", [CHAT, "/api/chat", "/reasoning"])
async def test_header_bytes_that_are_no_ascii_never_fail_the_server(value: bytes, path: str) -> None:
    asked = {"origin": PAGE.encode(), "access-control-request-method": b"POST"}
    async with running(a={}) as app:
        for name in HEADERS:
            answer = await call(_asgi(app), path, HI | {"model": "phi4-mini", "prompt": "hi"}, headers={name: value})
            assert answer.status == ((403 if name == "origin" else 400) if name in READ else 200), name
            given = answer.headers["x-request-id"]
            assert given.isascii()
            assert given.isprintable()
            preflight = await call(_asgi(app), path, method="OPTIONS", headers=asked | {name: value})
            assert preflight.status in (204, 400, 403), name
        assert app.gateway.active == 0


@pytest.mark.parametrize("query", [b"\xff", b"a=caf\xe9&b=%FF", b"%", b"\xed\xa0\x80", b"\x00"])
async def test_query_bytes_that_are_no_ascii_never_fail_the_server(query: bytes) -> None:
    async with running(a={}) as app:
        for path in (CHAT, f"{CHAT}/", "/v1/models", "/v1/models/x", "/nowhere", "/api/tags", "/", "/health"):
            for method in ("GET", "POST"):
                answer = await call(_asgi(app), path, HI, method=method, query=query)
                assert answer.status < 500, path


@pytest.mark.parametrize("name", ["\udcff", "caf\ufffd", "a\x00b", "..", "%2e%2e", "\u2028", "a" * 5000, "/", "\\", "a?b#c"])
async def test_broken_paths_never_fail_the_server(name: str) -> None:
    async with running(a={}) as app:
        for path in ("/v1/models/{}", "/api/blobs/{}", "/{}", "/api/{}", "/v1/{}", "{}", "*"):
            for method in ("GET", "POST", "HEAD", "DELETE", "OPTIONS"):
                answer = await call(_asgi(app), path.format(name), {}, method=method)
                assert answer.status < 500, path
                assert answer.headers.get("content-type") != "text/plain; charset=utf-8", path


async def test_what_nobody_foresaw_has_the_dialects_shape_at_every_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(a={}) as app:
        monkeypatch.setattr("serve_app.http.status.show_cluster", lambda *_: 1 / 0)
        answer = await app.client.get("/v1/cluster", headers={"x-request-id": "mine", "origin": PAGE})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "Internal error. Quote request mine when you report it."
    assert (answer.headers["x-request-id"], answer.headers["access-control-allow-origin"]) == ("mine", PAGE)
