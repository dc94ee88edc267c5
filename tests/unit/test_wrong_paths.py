"""Paths that are a little wrong: which is named instead, and in whose words."""

import pytest

from tests.unit.app import running

RIGHT = {
    "/chat/completions": "/v1/chat/completions",
    "/completions": "/v1/completions",
    "/models": "/v1/models",
    "/models/phi4-mini": "/v1/models/phi4-mini",
    "/models/microsoft/Phi-4-mini-instruct": "/v1/models/microsoft/Phi-4-mini-instruct",
    "/chat/completions/render": "/v1/chat/completions/render",
    "/route": "/v1/route",
    "/v1/v1/chat/completions": "/v1/chat/completions",
    "/v1/v1/v1/models": "/v1/models",
    "/api/v1/chat/completions": "/v1/chat/completions",
    "/api/v1/models": "/v1/models",
    "/api/chat/completions": "/v1/chat/completions",
    "/api/completions": "/v1/completions",
    "/openai/v1/chat/completions": "/v1/chat/completions",
    "/openai/chat/completions": "/v1/chat/completions",
    "/serve/v1/completions": "/v1/completions",
    "//v1/chat/completions": "/v1/chat/completions",
    "/V1/Chat/Completions": "/v1/chat/completions",
    "/v1/tokenize": "/tokenize",
    "/v1/detokenize": "/detokenize",
    "/embeddings": "/v1/embeddings",
    "/v1/v1/embeddings": "/v1/embeddings",
    "/responses": "/v1/responses",
    "/audio/speech": "/v1/audio/speech",
}
OLLAMAS = {
    "/v1/api/chat": "/api/chat",
    "/v1/api/tags": "/api/tags",
    "/api/api/generate": "/api/generate",
    "/ollama/api/chat": "/api/chat",
    "/chat": "/api/chat",
    "/tags": "/api/tags",
    "/v1/api/blobs/sha256:00": "/api/blobs/sha256:00",
}


async def test_an_endpoint_that_others_have_is_no_wrong_method_of_a_template() -> None:
    async with running(a={}) as app:
        absent = await app.client.post("/v1/responses/compact", json={"input": "x"})
        assert (absent.status_code, absent.json()["error"]["code"]) == (404, "not_found")
        wrong = await app.client.post("/v1/responses/resp_1", json={})
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "DELETE, GET, HEAD")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", [*RIGHT, *OLLAMAS])
async def test_a_path_that_is_a_little_wrong_is_told_the_right_one(path: str, method: str) -> None:
    async with running(a={}) as app:
        response = await app.client.request(method, f"http://test{path}", json={"messages": []})
        right = (RIGHT | OLLAMAS)[path]
        assert (response.status_code, response.request.url.path) == (404, path)
        error = response.json()["error"]
        message = error if path in OLLAMAS else error["message"]
        assert message.startswith(f"no endpoint {method} {path}; ")
        assert f" {right}" in message
        served = (await app.client.request(method, right)).status_code != 404 or "{" in right or "models/" in right
        assert ("is not served either" not in message) is served
        if path not in OLLAMAS:
            assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "not_found", None)


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nope", "/v1/v1", "/v1/rerank", "/v1/chat/nope", "/v1/chat", "/v1/tags"])
async def test_a_path_that_is_like_none_is_answered_where_it_is(path: str) -> None:
    async with running(a={}) as app:
        error = (await app.client.get(path)).json()["error"]
        assert error["message"] == f"no endpoint GET {path}; GET /openapi.json lists them"
        for ollamas in ("/api/nope", "/api/rerank", "/api"):
            told = (await app.client.get(ollamas)).json()
            assert told == {"error": f"no endpoint GET {ollamas}; GET /openapi.json lists them"}
        assert (await app.client.get("/nope/chat/completion")).json()["code"] == "not_found"
