"""The Responses API: decodes bodies into requests, encodes completions, and keeps both where the client wants that."""

from serve_app.conversation import Completion, GenerateRequest
from serve_app.dialects.base import (
    AnswerContext,
    Archive,
    JsonObject,
    Query,
    QueryContext,
    StreamEncoder,
    decode_sampling,
    decode_session,
    given_fields,
)
from serve_app.dialects.openai.responses import shapes
from serve_app.dialects.openai.responses.exchange import Exchange, name_items
from serve_app.dialects.openai.responses.items import decode_chat
from serve_app.dialects.openai.responses.references import fill_in
from serve_app.dialects.openai.responses.stream import ResponsesEncoder
from serve_app.dialects.openai.responses.tools import decode_tools
from serve_app.dialects.openai.responses.wire import CountBody, ResponsesBody
from serve_app.dialects.shared_wire import show_invalid
from serve_app.errors import InvalidRequest, ServeError, StoreUnavailable, Unsupported
from serve_app.types import MAX_TOKENS

_THINKS = {"none": False}


class ResponsesCodec:
    """POST /v1/responses. With a key it is the codec of one request, whose answer is kept under it."""

    body = ResponsesBody

    def __init__(self, key: str = "", archive: Archive | None = None, *, detached: bool = False) -> None:
        """Keep the answer in `archive` under `key`; with the empty key keep nothing. `detached`: the client does not wait."""
        self._key = key
        self._archive = archive
        self.detached_key = key if detached else ""

    async def recall(self, body: ResponsesBody, archive: Archive) -> "tuple[ResponsesBody, ResponsesCodec]":
        """See `RecallingCodec.recall`."""
        items = await fill_in(body.input, body.previous_response_id, archive)
        key = "" if body.store is False else await archive.reserve()
        if body.background:
            _check_background(body, key, archive)
        whole = body.model_copy(update={"input": name_items(items, key) if key else items})
        return whole, ResponsesCodec(key, archive, detached=bool(body.background))

    def decode(self, body: ResponsesBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`."""
        tools, form = decode_tools(body)
        given = {
            "temperature": body.temperature,
            "top_p": body.top_p,
            "presence_penalty": body.presence_penalty,
            "frequency_penalty": body.frequency_penalty,
            "max_tokens": body.max_output_tokens,
        }
        wants_logprobs = shapes.wants_logprobs(body)
        request = GenerateRequest(
            request_id=request_id,
            prompts=(decode_chat(body, tools),),
            form=form,
            sampling=decode_sampling(
                {"max_tokens": "max_output_tokens"}, **given, logprobs=(body.top_logprobs or 0) if wants_logprobs else None
            ),
            explicit=given_fields(given),
            model=body.model,
            demands_model=True,
            window=MAX_TOKENS if body.truncation == "auto" else None,
            think=_THINKS.get(body.reasoning.effort or "") if body.reasoning else None,
            session=decode_session(body.prompt_cache_key),
        )
        return request, bool(body.stream)

    def encode(self, completion: Completion, context: AnswerContext[ResponsesBody]) -> JsonObject:
        """See `Codec.encode`."""
        (choice,) = completion.choices
        exchange = self._build_exchange(context)
        response = shapes.show_response(exchange, shapes.find_status(choice.end), shapes.show_output(choice, exchange), choice.end)
        return response | show_invalid(choice.end)

    def encoder(self, context: AnswerContext[ResponsesBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return ResponsesEncoder(self._build_exchange(context))

    async def keep(self, answer: JsonObject, context: AnswerContext[ResponsesBody], *, again: bool = False) -> JsonObject:
        """See `KeepingCodec.keep`."""
        return answer | {"store": await self._build_exchange(context).keep(answer, again=again)}

    def encode_unfinished(
        self, context: AnswerContext[ResponsesBody], error: ServeError | None = None, *, cancelled: bool = False
    ) -> JsonObject:
        """See `KeepingCodec.encode_unfinished`."""
        exchange = self._build_exchange(context)
        if error is not None:
            return shapes.show_response(exchange, "failed") | {"error": shapes.show_error(error)}
        return shapes.show_response(exchange, "cancelled" if cancelled else "in_progress")

    def _build_exchange(self, context: AnswerContext[ResponsesBody]) -> Exchange:
        return Exchange(context, self._key, self._archive)


def _check_background(body: ResponsesBody, key: str, archive: Archive) -> None:
    """Raise `ServeError` where a response cannot be fetched later."""
    if body.stream:
        raise Unsupported("background: such a response is fetched with GET, and not streamed; leave out stream", param="stream")
    if body.store is False or not archive.keeps:
        reason = "the operator turned that off (responses.keep)" if not archive.keeps else "store is false"
        raise InvalidRequest(f"background: a response is fetched later only where it is kept, and {reason}", param="background")
    if not key:
        raise StoreUnavailable(
            "the store is away, so no response can be fetched later; try again", reason="away", retry_after_s=1.0
        )


async def _count_tokens(context: QueryContext, body: CountBody) -> JsonObject:
    items = await fill_in(body.input, body.previous_response_id, context.archive)
    whole = body.model_copy(update={"input": items})
    rendered = await context.render(body.model, decode_chat(whole, decode_tools(whole)[0]))
    return {"object": "response.input_tokens", "input_tokens": len(rendered.ids)}


COUNT = Query(path="/v1/responses/input_tokens", method="POST", body=CountBody, answer=_count_tokens)
