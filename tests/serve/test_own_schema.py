"""Our own /openapi.json against the running application, driven by schemathesis: every answer is one that the document names."""

import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from serve_app.dialects import anthropic, ollama, openai, reasoning
from serve_app.http.openapi import describe
from serve_app.http.status import STATUS_PATHS
from tests.live import LiveApp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # schemathesis' own
    import schemathesis

    dialects = (anthropic.DIALECT, openai.DIALECT, ollama.DIALECT, reasoning.DIALECT)
    schema = schemathesis.openapi.from_dict(describe(dialects, STATUS_PATHS))

_YOUNG = r"^/v1/(responses|messages|embeddings)|^/api/embed"
"""Operations that get more examples."""
_BUSY = (503, 504, 529)
"""A random x-timeout-s is often too short."""
answered: dict[str, set[int]] = {}
"""Statuses by operation."""


@pytest.mark.slow
@schema.exclude(path_regex=_YOUNG).parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(1800)
def test_every_answer_is_one_that_the_document_names(case: Any, app: LiveApp) -> None:
    _judge(case, app)


@pytest.mark.slow
@schema.include(path_regex=_YOUNG).parametrize()
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(1800)
def test_every_answer_of_young_operations_too(case: Any, app: LiveApp) -> None:
    _judge(case, app)


def _judge(case: Any, app: LiveApp) -> None:
    _shorten(case)
    response = case.call(base_url=app.url, timeout=120)
    answered.setdefault(case.operation.label, set()).add(response.status_code)
    assert response.status_code < 500 or response.status_code in _BUSY, (response.status_code, response.text)
    checks = schemathesis.specs.openapi.checks
    case.validate_response(
        response,
        checks=[
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_headers_conformance,
            checks.response_schema_conformance,
        ],
    )


@pytest.mark.slow
def test_good_answers_were_among_them() -> None:
    assert len(answered) > 20
    never = {label for label, statuses in answered.items() if not statuses & {200, 201}}
    refused = {
        "POST /api/push",
        "POST /api/embed",
        "POST /api/embeddings",
        "POST /v1/embeddings",
        "GET /v1/responses/{response_id}",
        "DELETE /v1/responses/{response_id}",
        "GET /v1/responses/{response_id}/input_items",
        "POST /v1/responses/{response_id}/cancel",
        "DELETE /api/delete",
        "HEAD /api/blobs/{digest}",
    }
    assert never <= refused | {"POST /api/blobs/{digest}", "POST /api/copy", "POST /api/create", "GET /v1/models/{model}"}


def _shorten(case: Any) -> None:
    """Ask for few tokens of the model that is served, where a body says so at all."""
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = "phi4-mini"
    if case.operation.path.startswith("/v1/") and ("messages" in body or "prompt" in body):
        if len(str(body)) % 2:  # most random values of so many fields are out of range: every other case has none
            for field in set(body) - {"model", "messages", "prompt", "stream"}:
                del body[field]
            body |= {"messages": [{"role": "user", "content": "hi"}]} if "messages" in body else {"prompt": "hi"}
        body |= {"model": "phi4-mini", "max_tokens": 4, "n": 1}
        for field in ("max_completion_tokens", "min_tokens", "best_of"):
            body.pop(field, None)
    if case.operation.path == "/v1/responses":
        if len(str(body)) % 2:
            for field in set(body) - {"model", "input", "stream"}:
                del body[field]
        body |= {"max_output_tokens": 4}
    if case.operation.path in ("/api/chat", "/api/generate"):
        body["options"] = {"num_predict": 4}
    if case.operation.path == "/reasoning":
        body["max_length"] = 4
