"""GET /openapi.json: valid, whole, and true of what the application answers."""

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from fastapi.routing import APIRoute

from serve_app.access.operator import find_operators
from serve_app.errors import ServeError
from tests.unit.app import running

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # schemathesis' own
    import schemathesis

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
async def document() -> Any:
    async with running(a={}) as app:
        return (await app.client.get("/openapi.json")).json()


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, verbs in document["paths"].items():
        for method, operation in verbs.items():
            yield path, method, operation


async def test_the_document_is_valid_openapi_3_1(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


async def test_every_reference_leads_to_a_schema_and_every_schema_is_used(document: Any) -> None:
    references = set(_references(document))
    assert {reference.removeprefix("#/components/schemas/") for reference in references} == set(document["components"]["schemas"])
    assert "$defs" not in json.dumps(document)
    assert '"default": null' not in json.dumps(document)  # generators take a field with a default for one that is always there
    titles = [schema.get("title", name) for name, schema in document["components"]["schemas"].items()]
    assert len(titles) == len(set(titles))  # they name the generated classes
    assert all(re.fullmatch(r"[\w.-]+", name) for name in document["components"]["schemas"])


async def test_path_parameters_are_declared_and_operations_named_once(document: Any) -> None:
    names = [operation["operationId"] for _, _, operation in _operations(document)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]\w+", name) for name in names)
    for path, _, operation in _operations(document):
        declared = [each for each in operation.get("parameters", ()) if each["in"] == "path"]
        assert {each["name"] for each in declared} == set(re.findall(r"\{([^}]*)\}", path))
        assert all(each["required"] and each["schema"] for each in declared)
    assert {"/v1/models/{model}", "/api/blobs/{digest}"} <= set(document["paths"])


async def test_every_endpoint_is_described_and_nothing_else(document: Any) -> None:
    async with running(a={}) as app:
        inner: Any = app.asgi.app
        routes = {
            (re.sub(r":\w+}", "}", route.path), method.lower())
            for route in inner.routes
            if isinstance(route, APIRoute)
            for method in route.methods
        }
    described = {(path, method) for path, method, _ in _operations(document)}
    assert described <= routes
    assert {(path, method) for path, method in routes - described if method != "head"} == set()


async def test_streams_have_their_media_type(document: Any) -> None:
    streamed = {path: "text/event-stream" for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")}
    streamed |= {path: "application/x-ndjson" for path in ("/api/chat", "/api/generate", "/api/create", "/api/pull")}
    others = {"/v1/operations": {"text/event-stream"}, "/v1/operations/bundle": {"application/zip"}}
    for path, method, operation in _operations(document):
        content = {
            each for status, answer in operation["responses"].items() if status < "300" for each in answer.get("content", ())
        }
        told = content - {"application/json", "text/plain"}
        assert told == ({streamed[path]} if path in streamed and method == "post" else others.get(path, set())), path


CASES: list[tuple[str, str, Any, dict[str, str]]] = [
    ("POST", "/v1/chat/completions", HI, {}),
    ("POST", "/v1/chat/completions", HI | {"stream": True}, {}),
    ("POST", "/v1/chat/completions", {}, {}),
    ("POST", "/v1/chat/completions", HI | {"model": "none"}, {}),
    ("POST", "/v1/responses", {"model": "phi4-mini", "input": "x", "max_output_tokens": 4}, {}),
    ("POST", "/v1/responses", {"model": "phi4-mini", "input": "x", "stream": True}, {}),
    ("POST", "/v1/responses", {"input": 3}, {}),
    ("POST", "/v1/responses/input_tokens", {"input": "x"}, {}),
    ("GET", "/v1/responses/none", None, {}),
    ("DELETE", "/v1/responses/none", None, {}),
    ("GET", "/v1/responses/none/input_items", None, {}),
    ("POST", "/v1/responses/none/cancel", None, {}),
    ("POST", "/v1/messages", HI | {"max_tokens": 4}, {}),
    ("POST", "/v1/messages", HI | {"max_tokens": 4, "stream": True}, {}),
    ("POST", "/v1/messages", HI, {}),
    ("POST", "/v1/messages/count_tokens", HI, {}),
    ("GET", "/v1/models", None, {"anthropic-version": "2023-06-01"}),
    ("GET", "/v1/models/none", None, {"anthropic-version": "2023-06-01"}),
    ("POST", "/v1/completions", {"prompt": "x"}, {}),
    ("POST", "/v1/completions", {"prompt": "x", "stream": True}, {}),
    ("POST", "/v1/completions", {"prompt": 3}, {}),
    ("POST", "/v1/chat/completions/render", HI, {}),
    ("POST", "/tokenize", {"prompt": "x"}, {}),
    ("POST", "/detokenize", {"tokens": [5]}, {}),
    ("POST", "/detokenize", {"tokens": [-5]}, {}),
    ("GET", "/v1/models", None, {}),
    ("GET", "/v1/models/phi4-mini", None, {}),
    ("GET", "/v1/models/none", None, {}),
    ("POST", "/v1/embeddings", {"model": "mini", "input": ["x", "y"]}, {}),
    ("POST", "/v1/embeddings", {"model": "phi4-mini", "input": "x"}, {}),
    ("POST", "/v1/route", {"text": "x"}, {}),
    ("POST", "/v1/route", {}, {}),
    ("POST", "/api/chat", HI | {"model": "phi4-mini"}, {}),
    ("POST", "/api/chat", {"model": "none"}, {}),
    ("POST", "/api/generate", {"model": "phi4-mini", "prompt": "x", "stream": False}, {}),
    ("GET", "/api/version", None, {}),
    ("GET", "/api/tags", None, {}),
    ("GET", "/api/ps", None, {}),
    ("POST", "/api/show", {"model": "phi4-mini"}, {}),
    ("POST", "/api/show", {}, {}),
    ("POST", "/api/create", {"model": "new", "from": "phi4-mini"}, {}),
    ("POST", "/api/create", {"model": "new", "from": "none"}, {}),
    ("POST", "/api/copy", {"source": "phi4-mini", "destination": "new"}, {}),
    ("DELETE", "/api/delete", {"model": "none"}, {}),
    ("POST", "/api/pull", {"model": "phi4-mini"}, {}),
    ("POST", "/api/push", {"model": "phi4-mini"}, {}),
    ("POST", "/api/embed", {"model": "phi4-mini"}, {}),
    ("POST", "/api/embed", {"model": "mini", "input": "x"}, {}),
    ("POST", "/api/embeddings", {"model": "mini", "prompt": "x"}, {}),
    ("POST", "/api/embeddings", {"model": "none"}, {}),
    ("HEAD", "/api/blobs/sha256:abc", None, {}),
    ("POST", "/api/blobs/sha256:abc", b"abc", {}),
    ("POST", "/reasoning", {"prompt": "x"}, {}),
    ("POST", "/reasoning", {"prompt": ""}, {}),
    ("GET", "/", None, {}),
    ("GET", "/", None, {"host": "localhost:11434"}),
    ("GET", "/health", None, {}),
    ("GET", "/livez", None, {}),
    ("GET", "/metrics", None, {}),
    ("GET", "/v1/cluster", None, {}),
    ("GET", "/v1/usage", None, {}),
    ("GET", "/v1/usage?since=yesterday", None, {}),
    ("POST", "/reasoning", {"prompt": "x"}, {"origin": "https://evil.example"}),
    ("GET", "/api/tags", None, {"host": "evil.example"}),
    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 200_000}]}, {}),
]


OPERATOR_CASES: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("GET", "/state", None),
    ("GET", "/session", None),
    ("POST", "/session", {"ticket": "none"}),
    ("GET", "/requests", None),
    ("GET", "/requests?limit=many", None),
    ("GET", "/requests/none", None),
    ("POST", "/requests/none/cancel", {}),
    ("POST", "/groups/a/drain", {}),
    ("POST", "/groups/a/resume", {}),
    ("POST", "/groups/none/resume", {}),
    ("POST", "/groups/none/restart", {}),
    ("POST", "/groups/a/scale", {"min": 1}),
    ("POST", "/groups/a/wake", {}),
    ("GET", "/configuration", None),
    ("POST", "/configuration/diff", b"a: b"),
    ("GET", "/logs", None),
    ("GET", "/bundle", None),
]


async def test_answers_and_errors_are_as_described(document: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.operations.feed.LONGEST_S", 0.0)
    covered = set()
    extra = {
        "models_dir": str(tmp_path),
        "models": {"phi-4-mini-instruct": {"aliases": ["phi4-mini"]}, "mini": {}},
        "access": {"open": True, "keys_file": str(tmp_path / "keys.json"), "journal_dir": None},
    }
    operator = {"x-operator-token": find_operators(str(tmp_path / "keys.json")).read_secret()}
    operations = [(method, f"/v1/operations{path}", body, operator) for method, path, body in OPERATOR_CASES]
    refused = [(method, f"/v1/operations{path}", body, {}) for method, path, body in OPERATOR_CASES]
    async with running(extra, a={}, e={"kind": "onnx_encoder", "model": "mini"}) as app:
        for method, path, body, headers in CASES + operations + refused:
            sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
            answer = await app.client.request(method, path, headers=headers, **sent)
            covered.add(_judge(document, method, path, answer))
    assert covered == {(path, method) for path, method, _ in _operations(document)}


def _judge(document: Any, method: str, path: str, answer: httpx.Response) -> tuple[str, str]:
    """Hold an answer against the document; return the operation."""
    found = next(each for each in sorted(document["paths"], key=_count_parameters) if _fits(each, path.partition("?")[0]))
    described = document["paths"][found][method.lower()]["responses"].get(str(answer.status_code))
    assert described is not None, (method, path, answer.status_code)
    media_type = answer.headers.get("content-type", "").split(";")[0]
    assert method == "HEAD" or media_type in described["content"], (method, path, media_type)
    if media_type == "application/json" and method != "HEAD":
        jsonschema.validate(answer.json(), described["content"][media_type]["schema"] | {"components": document["components"]})
    return found, method.lower()


def _count_parameters(template: str) -> tuple[int, int]:
    return -len(re.sub(r"\{\w+\}", "", template)), len(template)


def _fits(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\{\w+\}", ".+", template), path) is not None


@pytest.mark.parametrize("error", [ServeError, *ServeError.__subclasses__()])
@pytest.mark.parametrize("path", ["/v1/nowhere", "/api/nowhere", "/nowhere"])
async def test_every_kind_of_error_fits_the_schema_of_its_dialect(document: Any, error: type[ServeError], path: str) -> None:
    from serve_app.dialects import ollama, openai, reasoning

    dialect = {"/v1/nowhere": openai.DIALECT, "/api/nowhere": ollama.DIALECT, "/nowhere": reasoning.DIALECT}[path]
    for raised in (error("wrong"), error("wrong", param="x")):
        jsonschema.validate(
            dialect.encode_error(raised, "id"), document["components"]["schemas"][f"{dialect.name.capitalize()}Error"]
        )
