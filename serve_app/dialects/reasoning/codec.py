"""The reasoning API: decodes its body, encodes its answer and errors. Pure."""

from serve_app.conversation import Chat, Completion, GenerateRequest, Message
from serve_app.dialects.base import (
    AnswerContext,
    Dialect,
    Generate,
    JsonObject,
    Query,
    QueryContext,
    StreamEncoder,
    decode_sampling,
)
from serve_app.dialects.reasoning.wire import ReasoningBody
from serve_app.errors import ServeError, Unsupported
from serve_app.types import Task

_INSTRUCTIONS = {
    Task.REASONING: "Reason step by step, then state the conclusion.",
    Task.MATH: "Work the problem out step by step, then state the result.",
    Task.CODING: "Answer with clean code and comments that explain it.",
}


class ReasoningCodec:
    """POST /reasoning."""

    body = ReasoningBody

    def decode(self, body: ReasoningBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`. The task chooses both the group and the system message."""
        task = Task(body.task_type)
        messages = (Message(role="system", content=_INSTRUCTIONS[task]), Message(role="user", content=body.prompt))
        request = GenerateRequest(
            request_id=request_id,
            prompts=(Chat(messages=messages),),
            model=body.model,
            sampling=decode_sampling({"max_tokens": "max_length"}, temperature=body.temperature, max_tokens=body.max_length),
            task=task,
        )
        return request, False

    def encode(self, completion: Completion, context: AnswerContext[ReasoningBody]) -> JsonObject:
        """See `Codec.encode`."""
        choice, seconds = completion.choices[0], context.elapsed()
        usage = choice.end.usage
        return {
            "generated_text": choice.text,
            "task_type": context.body.task_type,
            "inference_time": round(seconds, 3),
            "model": context.model,
            "engine": context.record.group or "",
            "finish_reason": choice.end.reason,
            "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
            "tokens_per_second": round(usage.completion_tokens / max(seconds, 0.001), 1),
        }

    def encoder(self, context: AnswerContext[ReasoningBody]) -> StreamEncoder:
        """Refuse: this API has no streamed form."""
        raise Unsupported("the reasoning API does not stream; use /v1/chat/completions")


def encode_error(error: ServeError, request_id: str) -> JsonObject:
    """Return the error as text, with its code, the field at fault and the request's id."""
    return {"error": error.message, "code": error.code, "param": error.param, "request_id": request_id}


_ERROR_SCHEMA: JsonObject = {
    "type": "object",
    "required": ["error", "code", "param", "request_id"],
    "properties": {
        "error": {"type": "string"},
        "code": {"type": "string"},
        "param": {"type": ["string", "null"]},
        "request_id": {"type": "string"},
    },
}


async def _describe(context: QueryContext, _: None) -> JsonObject:
    paths = ("/reasoning", "/v1/chat/completions", "/v1/completions", "/v1/models", "/api/chat", "/api/generate", "/api/tags")
    models = list(dict.fromkeys(model.root for model in context.models.list()))
    return {
        "name": "phi-serve",
        "model": models[0],
        "models": models,
        "endpoints": [*paths, "/health", "/livez", "/openapi.json"],
        "capabilities": [str(task) for task in _INSTRUCTIONS],
    }


DIALECT = Dialect(
    name="reasoning",
    prefix="/",
    base_url="it stands alone",
    endpoints=(Generate("/reasoning", ReasoningCodec()), Query(path="/", answer=_describe)),
    encode_error=encode_error,
    error_schema=_ERROR_SCHEMA,
)
