"""The application of a model that cannot be served says why, in every dialect."""

import httpx
import pytest

from serve_app.access.check import Access
from serve_app.config import AppSettings
from serve_app.dialects import ollama, openai, reasoning
from serve_app.errors import ModelUnusable
from serve_app.http.app import create_unusable_app
from serve_app.routing.fleet import FleetView

WHY = "tokenizer.json gives `<|end|>` the id 200020, but added_tokens.json the id 3; fetch the model again"


@pytest.fixture
def client() -> httpx.AsyncClient:
    settings = AppSettings.model_validate({"engines": {"a": {"kind": "fake"}}, "access": "open"})
    view = FleetView(settings.engines, 60)
    app = create_unusable_app(
        settings,
        lambda: view.snapshot(0),
        (openai.DIALECT, ollama.DIALECT, reasoning.DIALECT),
        lambda: {"phi-4-mini-instruct": ModelUnusable(WHY)},
        Access(settings.access),
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_health_names_the_cause(client: httpx.AsyncClient) -> None:
    health = await client.get("/health")
    assert health.status_code == 503
    assert health.json()["models"] == {"phi-4-mini-instruct": {"status": "failed", "groups": ["a"], "reason": WHY}}
    assert health.json()["groups"]["a"]["phase"] == "starting"
    assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/api/chat", "/reasoning", "/nowhere"])
async def test_every_request_hears_it_in_its_dialect(client: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST", "PATCH"):
        answer = await client.request(method, path, json={} if method == "POST" else None)
        assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")
        error = answer.json()["error"]
        assert (error["message"] if isinstance(error, dict) else error) == WHY
