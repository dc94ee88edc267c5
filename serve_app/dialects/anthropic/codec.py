"""Anthropic's messages: decodes bodies into requests, encodes completions. Pure."""

from serve_app.conversation import Completion, GenerateRequest
from serve_app.dialects.anthropic.messages import decode_chat
from serve_app.dialects.anthropic.shapes import show_content, show_head, show_stop, show_usage
from serve_app.dialects.anthropic.stream import MessagesEncoder
from serve_app.dialects.anthropic.tools import decode_tools
from serve_app.dialects.anthropic.wire import MessagesBody
from serve_app.dialects.base import (
    AnswerContext,
    JsonObject,
    StreamEncoder,
    decode_sampling,
    decode_session,
    decode_stops,
    given_fields,
)
from serve_app.dialects.shared_wire import show_invalid

_THINKS = {"enabled": True, "disabled": False}


class MessagesCodec:
    """POST /v1/messages."""

    body = MessagesBody

    def decode(self, body: MessagesBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`."""
        tools, form = decode_tools(body)
        given = {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k, "max_tokens": body.max_tokens}
        request = GenerateRequest(
            request_id=request_id,
            prompts=(decode_chat(body, tools),),
            form=form,
            sampling=decode_sampling(**given),
            explicit=given_fields(given | {"stop": body.stop_sequences}),
            model=body.model,
            demands_model=True,
            stop=decode_stops(body.stop_sequences, "stop_sequences"),
            think=None if body.thinking is None else _THINKS.get(body.thinking.type),
            session=decode_session(body.metadata.user_id if body.metadata else None),
        )
        return request, bool(body.stream)

    def encode(self, completion: Completion, context: AnswerContext[MessagesBody]) -> JsonObject:
        """See `Codec.encode`."""
        (choice,) = completion.choices
        message = show_head(context, show_usage(choice.end.usage)) | {"content": show_content(choice)}
        return message | show_stop(choice.end) | show_invalid(choice.end)

    def encoder(self, context: AnswerContext[MessagesBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return MessagesEncoder(context)
