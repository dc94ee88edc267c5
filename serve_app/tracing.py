"""Writes one OpenTelemetry span per request, by the conventions for generative AI (`gen_ai.*`), as a child of Serve's own span.

Serve's tracing hook decides whether and where spans are exported; without it they cost almost nothing. No text is recorded.
"""

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from serve_app.conversation import Chat, GenerateRequest
from serve_app.encoding import EmbedRequest
from serve_app.record import RequestRecord

_TRACER = trace.get_tracer("serve_app")
_NO_FAULT = frozenset({"ok", "cancelled"})


def begin(request: GenerateRequest, model: str) -> Span:
    """Start the span of a request, with the request's parameters."""
    operation = "chat" if isinstance(request.prompts[0], Chat) else "text_completion"
    sampling = request.sampling
    parameters: dict[str, AttributeValue | None] = {
        "operation.name": operation,
        "provider.name": "phi_serve",
        "request.model": model,
        "request.choice.count": len(request.prompts) * request.n,
        "request.max_tokens": sampling.max_tokens,
        "request.temperature": sampling.temperature,
        "request.top_p": sampling.top_p,
        "request.seed": sampling.seed,
        "request.stop_sequences": list(request.stop) or None,
        "conversation.id": request.session,
    }
    return _start(operation, model, parameters)


def begin_embedding(request: EmbedRequest, model: str) -> Span:
    """Start the span of a request for embeddings."""
    parameters: dict[str, AttributeValue | None] = {
        "operation.name": "embeddings",
        "provider.name": "phi_serve",
        "request.model": model,
        "embeddings.dimension.count": request.dimensions,
    }
    return _start("embeddings", model, parameters)


def _start(operation: str, model: str, parameters: Mapping[str, AttributeValue | None]) -> Span:
    attributes = {f"gen_ai.{name}": value for name, value in parameters.items() if value is not None}
    return _TRACER.start_span(f"{operation} {model}", attributes=attributes)


def end(span: Span, record: RequestRecord) -> None:
    """End a span with the request's record: usage under `gen_ai.`, routing under `phi_serve.`."""
    fields = record.log_fields()
    usage = {"gen_ai.usage.input_tokens": fields["prompt_tokens"], "gen_ai.usage.output_tokens": fields["completion_tokens"]}
    routing = {
        f"phi_serve.{name}": fields[name] for name in ("request_id", "model", "task", "engine", "reason", "attempts", "outcome")
    }
    reasons = [end.reason.value for end in record.ends]
    response = {"gen_ai.response.model": record.served_model} if record.served_model else {}
    span.set_attributes(usage | routing | response | {"gen_ai.response.finish_reasons": reasons})
    if record.outcome not in _NO_FAULT:
        span.set_attribute("error.type", record.outcome)
        span.set_status(Status(StatusCode.ERROR))
    span.end()
