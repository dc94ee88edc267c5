"""Ollama's published OpenAPI against the running application, driven by schemathesis.

The document is not part of this project: OLLAMA_OPENAPI names it. Ten examples an operation, and in the slow tests 300.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tests.live import LiveApp

PATH = os.environ.get("OLLAMA_OPENAPI")
MODEL = "phi4-mini"
_WEB = ("/api/web_search", "/api/web_fetch")
"""Ollama's cloud, no part of a server."""

if PATH is None:
    pytest.skip("OLLAMA_OPENAPI is not set to the path of Ollama's openapi.yaml", allow_module_level=True)


@contextmanager
def _loading() -> Iterator[Any]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # schemathesis' own
        import schemathesis

        yield schemathesis


with _loading() as schemathesis:

    @schemathesis.deserializer("application/x-ndjson")
    def _lines(ctx: Any, response: Any) -> Any:
        """Return the last line, after every line has been read as an object; the others differ from it in what they leave out."""
        assert response.content.endswith(b"\n")
        lines = [json.loads(line) for line in response.content.splitlines()]
        assert lines
        assert all(isinstance(line, dict) for line in lines)
        return lines[-1]

    schema = schemathesis.openapi.from_path(PATH)

served = schema.exclude(path=list(_WEB))
answered: dict[str, set[int]] = {}
"""Statuses by path."""


def _examples(count: int) -> Any:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@served.parametrize()
@_examples(10)
@pytest.mark.filterwarnings("ignore")
def test_every_answer_is_as_published(case: Any, app: LiveApp) -> None:
    _judge(case, app)


@pytest.mark.slow
@served.parametrize()
@_examples(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(1800)
def test_every_answer_is_as_published_300_times(case: Any, app: LiveApp) -> None:
    _judge(case, app)


def _judge(case: Any, app: LiveApp) -> None:
    if isinstance(case.body, dict) and case.operation.path != "/api/delete":
        # Most names are unknown; half of the cases ask for one that is served.
        for field in ("model", "source", "from"):
            if field in case.body and len(json.dumps(case.body)) % 2:
                case.body[field] = MODEL
        if case.operation.path == "/api/create" and case.body.get("from") == MODEL:
            case.body["model"] = "made-by-schema"
            for refused in ("quantize", "renderer", "parser", "template"):
                case.body.pop(refused, None)
        if case.operation.path in ("/api/chat", "/api/generate") and isinstance(case.body.setdefault("options", {}), dict):
            case.body["options"]["num_predict"] = 8
    response = case.call(base_url=app.url, timeout=60)
    answered.setdefault(case.operation.path, set()).add(response.status_code)
    assert response.status_code < 500, (response.status_code, response.text)
    if response.status_code == 200:
        checks = schemathesis.specs.openapi.checks
        case.validate_response(response, checks=[checks.response_schema_conformance, checks.content_type_conformance])
    else:
        assert set(json.loads(response.content)) == {"error"}
        assert response.status_code in (400, 404, 405, 413)


def test_good_answers_were_among_them() -> None:
    assert set(answered) == {path for path in served.raw_schema["paths"] if path not in _WEB}
    never = {path for path, statuses in answered.items() if 200 not in statuses}
    assert never <= {"/api/embed", "/api/push", "/api/delete"}  # what is refused, or needs a model that was created before


def test_every_operation_is_served(app: LiveApp) -> None:
    served_here = httpx.get(f"{app.url}/openapi.json").json()["paths"]
    wanted = {(path, method) for path, verbs in served.raw_schema["paths"].items() if path not in _WEB for method in verbs}
    assert {(path, method) for path, method in wanted if method not in served_here.get(path, ())} == set()
