"""Ollama's two generating endpoints: decodes bodies into requests, encodes events as lines. Pure."""

import json
import logging
import re
from collections.abc import Iterable
from typing import Any

from serve_app import parameters as ollama
from serve_app.chat.constraint import ANY_OBJECT, parse_schema, parse_tools
from serve_app.conversation import (
    AnswerEvent,
    AnswerForm,
    Chat,
    ChoiceEnd,
    Completion,
    Ending,
    GenerateRequest,
    Message,
    Prompt,
    RawText,
    Started,
    TextLogprob,
    ThoughtDelta,
    ToolCall,
    ToolCallDelta,
)
from serve_app.dialects.base import AnswerContext, JsonObject, StreamEncoder, decode_sampling
from serve_app.dialects.ollama.shapes import (
    MEDIA_TYPE,
    encode_error,
    encode_line,
    show_call,
    show_end,
    show_head,
    show_loaded,
    show_logprobs,
    write_call,
)
from serve_app.dialects.ollama.wire import ChatBody, ChatMessage, GenerateBody, GenerationBody
from serve_app.errors import InvalidRequest, ServeError, Unsupported
from serve_app.faults import client_faults
from serve_app.model_names import shorten_name
from serve_app.types import Constraint, InvalidValue

logger = logging.getLogger(__name__)

_DEFAULTS: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's defaults, without its repeat_penalty of 1.1: there it counts the last 64 tokens, here it would count the prompt too."""
_THINK_LEVELS = ("high", "medium", "low", "max")
"""Ollama's levels of thinking. No model here has levels; each means `true`."""
_DURATION = re.compile(r"[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+)")


class GenerateCodec:
    """POST /api/generate."""

    body = GenerateBody

    def decode(self, body: GenerateBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`."""
        _require_valid(body)
        if body.suffix:
            raise Unsupported(f'"{shorten_name(body.model)}" does not support insert', param="suffix")
        if body.images:
            raise Unsupported(f'"{shorten_name(body.model)}" does not support images', param="images")
        if body.raw and (body.template or body.system or body.context):
            raise InvalidRequest("raw mode does not support template, system, or context", param="raw")
        if any(token < 0 for token in body.context or ()):
            raise InvalidRequest("context must hold the token ids of an earlier answer", param="context")
        prompts: tuple[Prompt, ...] = ()
        if body.prompt:
            prompts = (RawText(text=body.prompt) if body.raw else _build_chat(body, body.prompt),)
        with client_faults():
            form = AnswerForm(format=_decode_format(body.format))
        request = _build_request(body, request_id, prompts, form, with_tokens=bool(prompts) and not body.raw)
        return request, bool(prompts) and body.stream is not False

    def encode(self, completion: Completion, context: AnswerContext[GenerateBody]) -> JsonObject:
        """See `Codec.encode`."""
        if not completion.choices:
            return show_head(context) | {"response": ""} | show_loaded(context)
        choice = completion.choices[0]
        text = {"response": choice.text} | ({"thinking": choice.thoughts} if choice.thoughts else {})
        return show_head(context) | text | _show_logprobs(choice.logprobs, context) | _show_end(choice.end, context)

    def encoder(self, context: AnswerContext[GenerateBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return GenerateEncoder(context)


class GenerateEncoder:
    """Lines of a generation."""

    media_type = MEDIA_TYPE

    def __init__(self, context: AnswerContext[GenerateBody]) -> None:
        self._context = context

    def push(self, event: AnswerEvent) -> Iterable[bytes]:
        """See `StreamEncoder.push`."""
        if isinstance(event, ChoiceEnd):
            yield encode_line(show_head(self._context) | {"response": ""} | _show_end(event, self._context))
        elif not isinstance(event, Started | ToolCallDelta) and (event.text or event.logprobs):
            text = {"response": "", "thinking": event.text} if isinstance(event, ThoughtDelta) else {"response": event.text}
            yield encode_line(show_head(self._context) | text | _show_logprobs(event.logprobs, self._context) | {"done": False})

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """See `StreamEncoder.fail`."""
        yield encode_line(encode_error(error, self._context.request.request_id))


class ChatCodec:
    """POST /api/chat."""

    body = ChatBody

    def decode(self, body: ChatBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`."""
        _require_valid(body)
        with client_faults():
            tools = parse_tools([tool.function for tool in body.tools or ()])
            form = AnswerForm(format=_decode_format(body.format))
        messages = tuple(_decode_message(at, message, body.model) for at, message in enumerate(body.messages or ()))
        prompts: tuple[Prompt, ...] = (Chat(messages=messages, tools=tools, ending=_choose_ending(messages)),) if messages else ()
        return _build_request(body, request_id, prompts, form), bool(prompts) and body.stream is not False

    def encode(self, completion: Completion, context: AnswerContext[ChatBody]) -> JsonObject:
        """See `Codec.encode`."""
        if not completion.choices:
            return show_head(context) | {"message": {"role": "assistant", "content": ""}} | show_loaded(context)
        choice = completion.choices[0]
        message = _show_message(choice.text, choice.tool_calls, choice.thoughts)
        return show_head(context) | {"message": message} | _show_logprobs(choice.logprobs, context) | show_end(choice.end, context)

    def encoder(self, context: AnswerContext[ChatBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return ChatEncoder(context)


class ChatEncoder:
    """Lines of a chat. A tool call is one line, sent when the call is complete."""

    media_type = MEDIA_TYPE

    def __init__(self, context: AnswerContext[ChatBody]) -> None:
        self._context = context
        self._pending_call: ToolCall | None = None

    def push(self, event: AnswerEvent) -> Iterable[bytes]:
        """See `StreamEncoder.push`."""
        if isinstance(event, ToolCallDelta):
            if event.id:
                yield from self._flush_call()
            self._pending_call = (self._pending_call or ToolCall(name="", arguments="")).extend_by(event)
            return
        if isinstance(event, Started):
            return
        yield from self._flush_call()
        if isinstance(event, ChoiceEnd):
            yield encode_line(show_head(self._context) | {"message": _show_message("")} | show_end(event, self._context))
        elif event.text or event.logprobs:
            message = _show_message("", thoughts=event.text) if isinstance(event, ThoughtDelta) else _show_message(event.text)
            yield self._encode_line(message, event.logprobs)

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """See `StreamEncoder.fail`."""
        yield encode_line(encode_error(error, self._context.request.request_id))

    def _flush_call(self) -> Iterable[bytes]:
        call, self._pending_call = self._pending_call, None
        if call is not None:
            yield self._encode_line(_show_message("", (call,)), ())

    def _encode_line(self, message: JsonObject, logprobs: tuple[TextLogprob, ...]) -> bytes:
        return encode_line(
            show_head(self._context) | {"message": message} | _show_logprobs(logprobs, self._context) | {"done": False}
        )


def _require_valid(body: GenerationBody) -> None:
    """Raise `InvalidRequest` for the faults that both endpoints share."""
    if not body.model:
        raise InvalidRequest("model is required", param="model")
    if isinstance(body.think, str) and body.think not in _THINK_LEVELS:
        levels = ", ".join(f'"{level}"' for level in _THINK_LEVELS)
        raise InvalidRequest(f'invalid think value: "{body.think[:40]}" (must be {levels}, true, or false)', param="think")
    require_keep_alive(body.keep_alive)


def require_keep_alive(given: str | float | None) -> None:
    """Raise `InvalidRequest` for a text that is no duration."""
    if isinstance(given, str) and not _DURATION.fullmatch(given):
        raise InvalidRequest(f"keep_alive: invalid duration '{given[:40]}'; write 5m, 24h, 0 or -1s", param="keep_alive")


def _build_request(
    body: GenerationBody, request_id: str, prompts: tuple[Prompt, ...], form: AnswerForm, *, with_tokens: bool = False
) -> GenerateRequest:
    options = check_options(body.options or {})
    fields = ollama.read_sampling_fields(options)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return GenerateRequest(
        request_id=request_id,
        prompts=prompts,
        sampling=decode_sampling(ollama.NAMES, **(_DEFAULTS | fields), logprobs=logprobs),
        form=form,
        explicit=frozenset(fields) | (options.keys() & {"stop"}),
        model=body.model,
        stop=ollama.read_stops(options),
        window=ollama.read_window(options),
        think=None if body.think is None else bool(body.think),
        with_tokens=with_tokens,
    )


def check_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options in their own types; unknown options are logged and dropped, as in Ollama."""
    options = {}
    for name, value in given.items():
        if name not in ollama.KNOWN:
            logger.warning("option %r is not known and has no effect", name[:40])
        elif value is not None:
            try:
                options[name] = ollama.check_parameter(name, value)
            except InvalidValue as error:
                raise InvalidRequest(f'option "{name}" {error.fault}', param=f"options.{name}") from error
    return options


def _build_chat(body: GenerateBody, prompt: str) -> Chat:
    system = (Message(role="system", content=body.system),) if body.system else ()
    user = Message(role="user", content=prompt)
    return Chat(messages=(*system, user), template=body.template or "", context=tuple(body.context or ()))


def _decode_message(at: int, message: ChatMessage, model: str) -> Message:
    if message.images:
        raise Unsupported(f'"{shorten_name(model)}" does not support images', param=f"messages.{at}.images")
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequest(f"messages.{at}: only the assistant has tool_calls", param=f"messages.{at}.tool_calls")
    calls = tuple(
        ToolCall(name=call.function.name, arguments=json.dumps(call.function.arguments or {}, ensure_ascii=False), id=call.id or "")
        for call in message.tool_calls or ()
    )
    return Message(role=message.role, content=message.content or "", tool_calls=calls)


def _choose_ending(messages: tuple[Message, ...]) -> Ending:
    """Continue a last message of the assistant, unless it calls tools: only their results could follow."""
    last = messages[-1]
    return Ending.CONTINUED if last.role == "assistant" and not last.tool_calls else Ending.OPENED


def _decode_format(format: str | dict[str, Any] | None) -> Constraint | None:
    if isinstance(format, dict):
        return parse_schema(format, "format", lenient=True)
    if not format:
        return None
    if format != "json":
        raise InvalidValue("format", 'must be "json" or a JSON schema object')
    return ANY_OBJECT


def _show_message(text: str, calls: tuple[ToolCall, ...] = (), thoughts: str = "") -> JsonObject:
    shown_calls = [shown for call in calls if (shown := show_call(call)) is not None]
    text += "".join(write_call(call) for call in calls if show_call(call) is None)
    message: JsonObject = {"role": "assistant", "content": text} | ({"thinking": thoughts} if thoughts else {})
    return message | ({"tool_calls": shown_calls} if shown_calls else {})


def _show_logprobs(logprobs: tuple[TextLogprob, ...], context: AnswerContext[ChatBody] | AnswerContext[GenerateBody]) -> JsonObject:
    return {"logprobs": show_logprobs(logprobs)} if context.body.logprobs and logprobs else {}


def _show_end(end: ChoiceEnd, context: AnswerContext[GenerateBody]) -> JsonObject:
    end_fields = show_end(end, context)
    return end_fields | {"context": list(end.tokens)} if context.request.with_tokens else end_fields
