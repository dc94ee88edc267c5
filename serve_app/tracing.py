"""One OpenTelemetry span a request, by the conventions for generative AI (`gen_ai.*`), a child of Serve's own.

Serve's tracing hook decides whether and where spans go; without it they cost next to nothing. No text is recorded.
"""

from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from serve_app.conversation import Chat, GenerateRequest
from serve_app.types import FinishReason

_TRACER = trace.get_tracer("serve_app")
_NO_FAULT = frozenset({"ok", "cancelled"})


def begin(request: GenerateRequest, model: str) -> Span:
    """Start the span of a request, with what the client asked for."""
    operation = "chat" if isinstance(request.prompts[0], Chat) else "text_completion"
    sampling = request.sampling
    asked: dict[str, AttributeValue | None] = {
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
    attributes = {f"gen_ai.{name}": value for name, value in asked.items() if value is not None}
    return _TRACER.start_span(f"{operation} {model}", attributes=attributes)


def end(span: Span, told: Mapping[str, str | int | float], reasons: Sequence[FinishReason]) -> None:
    """End it with what the request's log line tells: usage under `gen_ai.`, its way under `phi_serve.`."""
    usage = {"gen_ai.usage.input_tokens": told["prompt_tokens"], "gen_ai.usage.output_tokens": told["completion_tokens"]}
    way = {f"phi_serve.{name}": told[name] for name in ("request_id", "task", "engine", "reason", "attempts", "outcome")}
    span.set_attributes(usage | way | {"gen_ai.response.finish_reasons": [reason.value for reason in reasons]})
    if told["outcome"] not in _NO_FAULT:
        span.set_attribute("error.type", told["outcome"])
        span.set_status(Status(StatusCode.ERROR))
    span.end()
