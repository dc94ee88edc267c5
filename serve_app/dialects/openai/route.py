"""POST /v1/route: previews the route of a request, or measures the classification of labelled texts. Our own endpoint."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from serve_app.conversation import GenerateRequest, RawText, RoutePreview, TaskExample
from serve_app.dialects.base import JsonObject, Query, QueryContext, WireBody, parse
from serve_app.dialects.openai.codec import ChatCodec, CompletionCodec
from serve_app.dialects.openai.wire import ChatBody, CompletionBody
from serve_app.errors import InvalidRequest
from serve_app.types import Task

_MAX_TEXTS = 1000
_FORMS = ("text", "texts", "messages", "prompt")


class LabelledText(WireBody):
    """A text with the task it is."""

    text: str
    task: Literal["math", "coding", "reasoning", "general"]


class RouteBody(WireBody):
    """One of a text, a body of /v1/chat/completions or /v1/completions, or labelled texts."""

    text: str | None = None
    texts: list[LabelledText] | None = Field(None, min_length=1, max_length=_MAX_TEXTS)
    messages: list[Any] | None = None
    prompt: Any = None


async def answer(context: QueryContext, body: RouteBody) -> JsonObject:
    """Answer one body; raises `InvalidRequest` unless it has exactly one of its forms."""
    given = [form for form in _FORMS if getattr(body, form) is not None]
    if len(given) != 1:
        raise InvalidRequest(f"give exactly one of {', '.join(_FORMS)}", param=given[1] if given else "text")
    if body.texts is not None:
        examples = [TaskExample(text=item.text, task=Task(item.task)) for item in body.texts]
        return encode_confusion(await context.confusion(examples))
    return encode_preview(await context.preview_route(_decode_request(context, body)))


def _decode_request(context: QueryContext, body: RouteBody) -> GenerateRequest:
    if body.text is not None:
        return GenerateRequest(request_id=context.request_id, prompts=(RawText(text=body.text),))
    if body.messages is not None:
        return ChatCodec().decode(parse(ChatBody, context.raw_body), context.request_id)[0]
    return CompletionCodec().decode(parse(CompletionBody, context.raw_body), context.request_id)[0]


def encode_preview(preview: RoutePreview) -> JsonObject:
    """Return the decision and the route."""
    decision = preview.decision
    return {
        "object": "route",
        "model": preview.model,
        "model_reason": preview.model_reason,
        "task": decision.task,
        "task_reason": decision.reason,
        "abstained": decision.reason == "abstained",
        "probabilities": {task: round(chance, 4) for task, chance in decision.probabilities.items()},
        "candidates": list(preview.candidates),
        "reason": preview.reason,
    }


def encode_confusion(counts: Mapping[Task, Mapping[Task, int]]) -> JsonObject:
    """Return accuracy and the confusion matrix, rows by the given task."""
    total = sum(sum(row.values()) for row in counts.values())
    right = sum(row[task] for task, row in counts.items())
    return {
        "object": "route.evaluation",
        "texts": total,
        "accuracy": round(right / total, 4),
        "confusion": {given: dict(row) for given, row in counts.items()},
    }


ROUTE = Query(path="/v1/route", method="POST", body=RouteBody, answer=answer)
