"""The Responses API without stored state: decodes bodies into requests, encodes completions. Pure."""

from serve_app.conversation import Completion, GenerateRequest
from serve_app.dialects.base import AnswerContext, JsonObject, Query, QueryContext, StreamEncoder, decode_sampling, given_fields
from serve_app.dialects.openai.responses import shapes
from serve_app.dialects.openai.responses.items import decode_chat
from serve_app.dialects.openai.responses.stream import ResponsesEncoder
from serve_app.dialects.openai.responses.tools import decode_tools
from serve_app.dialects.openai.responses.wire import CountBody, ResponsesBody
from serve_app.dialects.shared_wire import show_invalid
from serve_app.errors import Unsupported

_MAX_SESSION_CHARS = 200
_THINKS = {"none": False}


class ResponsesCodec:
    """POST /v1/responses."""

    body = ResponsesBody

    def decode(self, body: ResponsesBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`."""
        if body.background:
            raise Unsupported("background: responses are not stored here, so none can be fetched later", param="background")
        tools, form = decode_tools(body)
        given = {"temperature": body.temperature, "top_p": body.top_p, "max_tokens": body.max_output_tokens}
        wants_logprobs = body.top_logprobs is not None or shapes.LOGPROBS in (body.include or ())
        request = GenerateRequest(
            request_id=request_id,
            prompts=(decode_chat(body, tools),),
            form=form,
            sampling=decode_sampling(
                {"max_tokens": "max_output_tokens"}, **given, logprobs=(body.top_logprobs or 0) if wants_logprobs else None
            ),
            explicit=given_fields(given),
            model=body.model,
            think=_THINKS.get(body.reasoning.effort or "") if body.reasoning else None,
            session=(body.prompt_cache_key or "")[:_MAX_SESSION_CHARS] or None,
        )
        return request, bool(body.stream)

    def encode(self, completion: Completion, context: AnswerContext[ResponsesBody]) -> JsonObject:
        """See `Codec.encode`."""
        (choice,) = completion.choices
        status = shapes.find_status(choice.end)
        output = shapes.show_output(choice, context)
        return shapes.show_response(context, status, output, choice.end) | show_invalid(choice.end)

    def encoder(self, context: AnswerContext[ResponsesBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return ResponsesEncoder(context)


async def _count_tokens(context: QueryContext, body: CountBody) -> JsonObject:
    rendered = await context.render(body.model, decode_chat(body, decode_tools(body)[0]))
    return {"object": "response.input_tokens", "input_tokens": len(rendered.ids)}


COUNT = Query(path="/v1/responses/input_tokens", method="POST", body=CountBody, answer=_count_tokens)
