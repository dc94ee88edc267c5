"""Ollama's two generating endpoints as pure functions: bodies to requests, events to lines."""

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
"""Ollama's own, but for its repeat_penalty of 1.1: that counts the last 64 tokens only, and here would count the prompt too."""
_THINK_LEVELS = ("high", "medium", "low", "max")
"""How much a model shall think. No model here knows levels: each of them means `true`."""
_DURATION = re.compile(r"[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+)")


class GenerateCodec:
    """POST /api/generate."""

    body = GenerateBody

    def decode(self, body: GenerateBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`."""
        _check(body)
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
            prompts = (RawText(text=body.prompt) if body.raw else _asked(body, body.prompt),)
        with client_faults():
            form = AnswerForm(format=_decode_format(body.format))
        request = _request(body, request_id, prompts, form, with_tokens=bool(prompts) and not body.raw)
        return request, bool(prompts) and body.stream is not False

    def encode(self, completion: Completion, call: AnswerContext[GenerateBody]) -> JsonObject:
        """See `Codec.encode`."""
        if not completion.choices:
            return show_head(call) | {"response": ""} | show_loaded(call)
        choice = completion.choices[0]
        said = {"response": choice.text} | ({"thinking": choice.thoughts} if choice.thoughts else {})
        return show_head(call) | said | _logprobs(choice.logprobs, call) | _ended(choice.end, call)

    def encoder(self, call: AnswerContext[GenerateBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return GenerateEncoder(call)


class GenerateEncoder:
    """Lines of a generation."""

    media_type = MEDIA_TYPE

    def __init__(self, call: AnswerContext[GenerateBody]) -> None:
        self._call = call

    def push(self, event: AnswerEvent) -> Iterable[bytes]:
        """See `StreamEncoder.push`."""
        if isinstance(event, ChoiceEnd):
            yield encode_line(show_head(self._call) | {"response": ""} | _ended(event, self._call))
        elif not isinstance(event, Started | ToolCallDelta) and (event.text or event.logprobs):
            text = {"response": "", "thinking": event.text} if isinstance(event, ThoughtDelta) else {"response": event.text}
            yield encode_line(show_head(self._call) | text | _logprobs(event.logprobs, self._call) | {"done": False})

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """See `StreamEncoder.fail`."""
        yield encode_line(encode_error(error, self._call.request.request_id))


class ChatCodec:
    """POST /api/chat."""

    body = ChatBody

    def decode(self, body: ChatBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`."""
        _check(body)
        with client_faults():
            tools = parse_tools([tool.function for tool in body.tools or ()])
            form = AnswerForm(format=_decode_format(body.format))
        messages = tuple(_message(at, message, body.model) for at, message in enumerate(body.messages or ()))
        prompts: tuple[Prompt, ...] = (Chat(messages=messages, tools=tools, ending=_ending(messages)),) if messages else ()
        return _request(body, request_id, prompts, form), bool(prompts) and body.stream is not False

    def encode(self, completion: Completion, call: AnswerContext[ChatBody]) -> JsonObject:
        """See `Codec.encode`."""
        if not completion.choices:
            return show_head(call) | {"message": {"role": "assistant", "content": ""}} | show_loaded(call)
        choice = completion.choices[0]
        message = _assistant(choice.text, choice.tool_calls, choice.thoughts)
        return show_head(call) | {"message": message} | _logprobs(choice.logprobs, call) | show_end(choice.end, call)

    def encoder(self, call: AnswerContext[ChatBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return ChatEncoder(call)


class ChatEncoder:
    """Lines of a chat. A tool call comes in one line, when it is whole."""

    media_type = MEDIA_TYPE

    def __init__(self, call: AnswerContext[ChatBody]) -> None:
        self._call = call
        self._calling: ToolCall | None = None

    def push(self, event: AnswerEvent) -> Iterable[bytes]:
        """See `StreamEncoder.push`."""
        if isinstance(event, ToolCallDelta):
            if event.id:
                yield from self._called()
            self._calling = (self._calling or ToolCall(name="", arguments="")).extend_by(event)
            return
        if isinstance(event, Started):
            return
        yield from self._called()
        if isinstance(event, ChoiceEnd):
            yield encode_line(show_head(self._call) | {"message": _assistant("")} | show_end(event, self._call))
        elif event.text or event.logprobs:
            message = _assistant("", thoughts=event.text) if isinstance(event, ThoughtDelta) else _assistant(event.text)
            yield self._line(message, event.logprobs)

    def fail(self, error: ServeError) -> Iterable[bytes]:
        """See `StreamEncoder.fail`."""
        yield encode_line(encode_error(error, self._call.request.request_id))

    def _called(self) -> Iterable[bytes]:
        call, self._calling = self._calling, None
        if call is not None:
            yield self._line(_assistant("", (call,)), ())

    def _line(self, message: JsonObject, logprobs: tuple[TextLogprob, ...]) -> bytes:
        return encode_line(show_head(self._call) | {"message": message} | _logprobs(logprobs, self._call) | {"done": False})


def _check(body: GenerationBody) -> None:
    """Refuse what holds for both endpoints."""
    if not body.model:
        raise InvalidRequest("model is required", param="model")
    if isinstance(body.think, str) and body.think not in _THINK_LEVELS:
        levels = ", ".join(f'"{level}"' for level in _THINK_LEVELS)
        raise InvalidRequest(f'invalid think value: "{body.think[:40]}" (must be {levels}, true, or false)', param="think")
    if isinstance(body.keep_alive, str) and not _DURATION.fullmatch(body.keep_alive):
        raise InvalidRequest(f"keep_alive: invalid duration '{body.keep_alive[:40]}'; write 5m, 24h, 0 or -1s", param="keep_alive")


def _request(
    body: GenerationBody, request_id: str, prompts: tuple[Prompt, ...], form: AnswerForm, *, with_tokens: bool = False
) -> GenerateRequest:
    options = _options(body.options or {})
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


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options in their own types; unknown ones are logged and dropped, as Ollama does."""
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


def _asked(body: GenerateBody, prompt: str) -> Chat:
    system = (Message(role="system", content=body.system),) if body.system else ()
    user = Message(role="user", content=prompt)
    return Chat(messages=(*system, user), template=body.template or "", context=tuple(body.context or ()))


def _message(at: int, message: ChatMessage, model: str) -> Message:
    if message.images:
        raise Unsupported(f'"{shorten_name(model)}" does not support images', param=f"messages.{at}.images")
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequest(f"messages.{at}: only the assistant has tool_calls", param=f"messages.{at}.tool_calls")
    calls = tuple(
        ToolCall(name=call.function.name, arguments=json.dumps(call.function.arguments or {}, ensure_ascii=False), id=call.id or "")
        for call in message.tool_calls or ()
    )
    return Message(role=message.role, content=message.content or "", tool_calls=calls)


def _ending(messages: tuple[Message, ...]) -> Ending:
    """An assistant's last text is continued. One that called tools is complete: nothing but their results could follow."""
    last = messages[-1]
    return Ending.CONTINUED if last.role == "assistant" and not last.tool_calls else Ending.OPENED


def _decode_format(wanted: str | dict[str, Any] | None) -> Constraint | None:
    if isinstance(wanted, dict):
        return parse_schema(wanted, "format", lenient=True)
    if not wanted:
        return None
    if wanted != "json":
        raise InvalidValue("format", 'must be "json" or a JSON schema object')
    return ANY_OBJECT


def _assistant(text: str, calls: tuple[ToolCall, ...] = (), thoughts: str = "") -> JsonObject:
    shown_calls = [told for call in calls if (told := show_call(call)) is not None]
    text += "".join(write_call(call) for call in calls if show_call(call) is None)
    message: JsonObject = {"role": "assistant", "content": text} | ({"thinking": thoughts} if thoughts else {})
    return message | ({"tool_calls": shown_calls} if shown_calls else {})


def _logprobs(logprobs: tuple[TextLogprob, ...], call: AnswerContext[ChatBody] | AnswerContext[GenerateBody]) -> JsonObject:
    return {"logprobs": show_logprobs(logprobs)} if call.body.logprobs and logprobs else {}


def _ended(end: ChoiceEnd, call: AnswerContext[GenerateBody]) -> JsonObject:
    told = show_end(end, call)
    return told | {"context": list(end.tokens)} if call.request.with_tokens else told
