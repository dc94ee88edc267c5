"""OpenAI's API as pure functions: bodies to requests, events to chunks, errors to their shape."""

from collections.abc import Iterable, Mapping

from serve_app.dialects.base import Call, Dialect, Generate, JsonObject, Lookup, Served, StreamEncoder, dump, sampling
from serve_app.dialects.openai.wire import ChatBody, ChatMessage, CompletionBody, GenerationBody
from serve_app.errors import CapacityError, InvalidRequest, QuotaExceeded, RequestError, ServeError, Unauthenticated, Unsupported
from serve_app.models.catalog import Catalog
from serve_app.types import (
    Chat,
    Completion,
    Finished,
    GenerateRequest,
    Message,
    Prompt,
    RawText,
    RawTokens,
    Sampling,
    TextDelta,
    TextEvent,
    TextLogprob,
    Usage,
    total_usage,
)

_DEFAULT_COMPLETION_TOKENS = 16
_MAX_STOPS = 16


class ChatCodec:
    """POST /v1/chat/completions."""

    body = ChatBody

    def decode(self, body: ChatBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`."""
        if body.tools and body.tool_choice != "none":
            raise Unsupported("tools are not served yet; leave them out or set tool_choice to 'none'", param="tools")
        if body.response_format is not None and body.response_format.type != "text":
            raise Unsupported(f"response_format {body.response_format.type} is not served yet; use text", param="response_format")
        if body.top_logprobs is not None and not body.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        request = GenerateRequest(
            request_id=request_id,
            prompts=(Chat(messages=tuple(Message(role=message.role, content=_text(message)) for message in body.messages)),),
            sampling=_sampling(
                body, body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens, logprobs
            ),
            model=body.model,
            stop=_stops(body.stop),
            n=body.n or 1,
        )
        return request, _streamed(body)

    def encode(self, completion: Completion, call: Call[ChatBody], served: Served) -> JsonObject:
        """See `Codec.encode`."""
        choices = []
        for index, choice in enumerate(completion.choices):
            logprobs = {"content": _chat_logprobs(choice.logprobs), "refusal": None} if call.body.logprobs else None
            choices.append(
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None},
                    "logprobs": logprobs,
                    "finish_reason": choice.finished.reason,
                }
            )
        return _head(call, "chat.completion") | {"choices": choices, "usage": _completion_usage(completion, call)}

    def encoder(self, call: Call[ChatBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return _ChatEncoder(call, "chat.completion.chunk")


class CompletionCodec:
    """POST /v1/completions."""

    body = CompletionBody

    def decode(self, body: CompletionBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`."""
        if body.suffix:
            raise Unsupported("suffix is not served: the model was not trained to fill in the middle", param="suffix")
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise Unsupported("best_of must equal n", param="best_of")
        if body.echo and body.logprobs is not None:
            raise Unsupported("echo with logprobs is not served: the prompt's own logprobs are not computed", param="echo")
        request = GenerateRequest(
            request_id=request_id,
            prompts=_prompts(body.prompt),
            sampling=_sampling(body, _DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens, body.logprobs),
            model=body.model,
            stop=_stops(body.stop),
            n=body.n or 1,
            echo=bool(body.echo),
        )
        return request, _streamed(body)

    def encode(self, completion: Completion, call: Call[CompletionBody], served: Served) -> JsonObject:
        """See `Codec.encode`."""
        choices = [
            {
                "index": index,
                "text": choice.text,
                "logprobs": _text_logprobs(choice.logprobs, 0) if call.body.logprobs is not None else None,
                "finish_reason": choice.finished.reason,
            }
            for index, choice in enumerate(completion.choices)
        ]
        return _head(call, "text_completion") | {"choices": choices, "usage": _completion_usage(completion, call)}

    def encoder(self, call: Call[CompletionBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return _CompletionEncoder(call, "text_completion")


class _Encoder:
    """Server-sent events: a chunk an event, an optional usage chunk, `[DONE]`."""

    media_type = "text/event-stream"

    def __init__(self, call: Call[ChatBody] | Call[CompletionBody], kind: str) -> None:
        self._call = call
        self._head = _head(call, kind)
        self._with_usage = bool(call.body.stream_options and call.body.stream_options.include_usage)
        if self._with_usage:
            self._head["usage"] = None
        self._open = len(call.request.prompts) * call.request.n
        self._ends: list[Finished] = []

    def push(self, event: TextEvent) -> Iterable[bytes]:
        """See `StreamEncoder.push`."""
        choices = self._choices(event)
        for choice in choices:
            yield _event(self._head | {"choices": [choice]})
        if isinstance(event, Finished):
            self._ends.append(event)
            if len(self._ends) == self._open:
                if self._with_usage:
                    usage = _usage(total_usage(self._ends, self._call.request.n))
                    yield _event(self._head | {"choices": [], "usage": usage})
                yield b"data: [DONE]\n\n"

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """See `StreamEncoder.fail`."""
        yield _event(encode_error(error, self._call.request.request_id))
        yield b"data: [DONE]\n\n"

    def _choices(self, event: TextEvent) -> list[JsonObject]:
        raise NotImplementedError


class _ChatEncoder(_Encoder):
    def __init__(self, call: Call[ChatBody], kind: str) -> None:
        super().__init__(call, kind)
        self._with_logprobs = bool(call.body.logprobs)
        self._begun: set[int] = set()

    def _choices(self, event: TextEvent) -> list[JsonObject]:
        parts = []
        if event.choice not in self._begun:
            self._begun.add(event.choice)
            parts.append(self._choice(event.choice, {"role": "assistant", "content": ""}))
        if isinstance(event, TextDelta):
            parts.append(self._choice(event.choice, {"content": event.text}, logprobs=event.logprobs))
        else:
            parts.append(self._choice(event.choice, {}, reason=event.reason))
        return parts

    def _choice(
        self, index: int, delta: JsonObject, *, logprobs: tuple[TextLogprob, ...] = (), reason: str | None = None
    ) -> JsonObject:
        shown = {"content": _chat_logprobs(logprobs), "refusal": None} if self._with_logprobs and logprobs else None
        return {"index": index, "delta": delta, "logprobs": shown, "finish_reason": reason}


class _CompletionEncoder(_Encoder):
    def __init__(self, call: Call[CompletionBody], kind: str) -> None:
        super().__init__(call, kind)
        self._with_logprobs = call.body.logprobs is not None
        self._offsets: dict[int, int] = {}

    def _choices(self, event: TextEvent) -> list[JsonObject]:
        if isinstance(event, Finished):
            return [{"index": event.choice, "text": "", "logprobs": None, "finish_reason": event.reason}]
        offset = self._offsets.get(event.choice, 0)
        self._offsets[event.choice] = offset + len(event.text)
        logprobs = _text_logprobs(event.logprobs, offset) if self._with_logprobs and event.logprobs else None
        return [{"index": event.choice, "text": event.text, "logprobs": logprobs, "finish_reason": None}]


def encode_error(error: ServeError, request_id: str) -> JsonObject:
    """Return OpenAI's error object; the request id is in a header and needs no field."""
    return {"error": {"message": error.message, "type": _error_type(error), "param": error.param, "code": error.code}}


def _error_type(error: ServeError) -> str:
    if isinstance(error, Unauthenticated):
        return "authentication_error"
    if isinstance(error, QuotaExceeded):
        return "rate_limit_error"
    if isinstance(error, RequestError):
        return "invalid_request_error"
    return "service_unavailable_error" if isinstance(error, CapacityError) else "server_error"


def _streamed(body: GenerationBody) -> bool:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is only allowed with stream: true", param="stream_options")
    return bool(body.stream)


def _text(message: ChatMessage) -> str:
    return message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[Prompt, ...]:
    if isinstance(prompt, str):
        return (_raw_text(prompt),)
    if not prompt:
        raise InvalidRequest("prompt must not be empty", param="prompt")
    if all(isinstance(item, int) for item in prompt):
        return (RawTokens(ids=tuple(item for item in prompt if isinstance(item, int))),)
    return tuple(_raw_text(item) if isinstance(item, str) else RawTokens(ids=tuple(_as_ids(item))) for item in prompt)


def _raw_text(text: str) -> RawText:
    if not text:
        raise InvalidRequest("prompt must not be empty", param="prompt")
    return RawText(text=text)


def _as_ids(item: int | list[int]) -> list[int]:
    return [item] if isinstance(item, int) else item


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MAX_STOPS or any(not text or len(text) > 1000 for text in stops):
        raise InvalidRequest(f"stop takes at most {_MAX_STOPS} strings of 1 to 1000 characters", param="stop")
    return stops


def _sampling(body: GenerationBody, max_tokens: int | None, logprobs: int | None) -> Sampling:
    return sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=0 if body.top_k == -1 else body.top_k,  # vLLM's way to say "all"
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_bias(body.logit_bias),
        seed=body.seed,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=body.ignore_eos,
        logprobs=logprobs,
    )


def _bias(bias: Mapping[str, float] | None) -> dict[int, float] | None:
    if bias is None:
        return None
    if not all(token.isascii() and token.isdigit() and len(token) < 12 for token in bias):
        raise InvalidRequest("logit_bias must map token ids, written as strings, to numbers", param="logit_bias")
    return {int(token): float(value) for token, value in bias.items()}


def _head(call: Call[ChatBody] | Call[CompletionBody], kind: str) -> JsonObject:
    prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
    return {"id": f"{prefix}-{call.request.request_id}", "object": kind, "created": call.created, "model": call.model}


def _completion_usage(completion: Completion, call: Call[ChatBody] | Call[CompletionBody]) -> JsonObject:
    return _usage(total_usage((choice.finished for choice in completion.choices), call.request.n))


def _usage(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _chat_logprobs(logprobs: tuple[TextLogprob, ...]) -> list[JsonObject]:
    return [
        {
            "token": entry.token,
            "bytes": list(entry.raw),
            "logprob": entry.logprob,
            "top_logprobs": [{"token": token, "bytes": list(raw), "logprob": value} for token, raw, value in entry.top],
        }
        for entry in logprobs
    ]


def _text_logprobs(logprobs: tuple[TextLogprob, ...], offset: int) -> JsonObject:
    offsets = []
    for entry in logprobs:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in logprobs],
        "token_logprobs": [entry.logprob for entry in logprobs],
        "top_logprobs": [{token: value for token, _, value in entry.top} for entry in logprobs],
        "text_offset": offsets,
    }


def _event(value: JsonObject) -> bytes:
    return b"data: " + dump(value) + b"\n\n"


def _model(catalog: Catalog, name: str) -> JsonObject:
    return {
        "id": name,
        "object": "model",
        "created": catalog.created,
        "owned_by": "phi-serve",
        "root": catalog.settings.name,
        "parent": None if name == catalog.settings.name else catalog.settings.name,
    }


def _list_models(catalog: Catalog, _: Mapping[str, str]) -> JsonObject:
    return {"object": "list", "data": [_model(catalog, name) for name in catalog.names]}


def _show_model(catalog: Catalog, parameters: Mapping[str, str]) -> JsonObject:
    catalog.resolve(parameters["model"])
    return _model(catalog, parameters["model"])


DIALECT = Dialect(
    name="openai",
    prefix="/v1/",
    endpoints=(
        Generate("/v1/chat/completions", ChatCodec()),
        Generate("/v1/completions", CompletionCodec()),
        Lookup("/v1/models", _list_models),
        Lookup("/v1/models/{model:path}", _show_model),
    ),
    encode_error=encode_error,
)
