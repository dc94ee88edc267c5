"""What a request's span tells, over the whole application with fake engines."""

from collections.abc import Mapping

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serve_app import tracing
from tests.unit.app import running


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("test"))
    return exporter


async def _one(spans: InMemorySpanExporter, engine: Mapping[str, object], body: Mapping[str, object]) -> ReadableSpan:
    async with running(a={"text": "one two three"} | dict(engine)) as app:
        await app.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a secret"}]} | dict(body))
    (span,) = spans.get_finished_spans()
    return span


async def test_a_span_tells_what_was_asked_what_it_cost_and_who_answered(spans: InMemorySpanExporter) -> None:
    span = await _one(spans, {}, {"model": "phi-4-mini", "max_tokens": 2, "temperature": 0.5, "seed": 7})
    told = dict(span.attributes or {})
    assert span.name == "chat phi-4-mini"
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.request.max_tokens"] == 2
    assert told["gen_ai.request.temperature"] == 0.5
    assert told["gen_ai.request.seed"] == 7
    assert told["gen_ai.usage.output_tokens"] == 2
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert told["phi_serve.engine"] == "a"
    assert told["phi_serve.outcome"] == "ok"
    assert span.status.is_unset
    assert "secret" not in span.to_json()


async def test_a_failed_request_is_an_error_with_its_code(spans: InMemorySpanExporter) -> None:
    span = await _one(spans, {}, {"max_tokens": 2, "n": 10_000})
    assert not span.status.is_ok
    assert not span.status.is_unset
    assert dict(span.attributes or {})["error.type"] == "invalid_request"
