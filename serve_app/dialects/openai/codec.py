"""OpenAI's API: decodes bodies into requests, encodes completions. Pure."""

from collections.abc import Mapping

from serve_app.conversation import (
    Chat,
    CompletedChoice,
    Completion,
    Ending,
    GenerateRequest,
    Message,
    Prompt,
    RawText,
    RawTokens,
    Tool,
)
from serve_app.dialects.base import (
    AnswerContext,
    Dialect,
    Generate,
    JsonObject,
    Query,
    QueryContext,
    StreamEncoder,
    decode_sampling,
    decode_stops,
    given_fields,
)
from serve_app.dialects.openai.constraints import decode_form, decode_tools
from serve_app.dialects.openai.messages import decode_messages
from serve_app.dialects.openai.shapes import (
    ERROR_SCHEMA,
    encode_error,
    show_call,
    show_chat_logprobs,
    show_completion_usage,
    show_finish_reason,
    show_function_call,
    show_head,
    show_text_logprobs,
)
from serve_app.dialects.openai.stream import MEDIA_TYPE, ChatEncoder, CompletionEncoder
from serve_app.dialects.openai.wire import ChatBody, CompletionBody, DetokenizeBody, GenerationBody, TokenizeBody
from serve_app.dialects.shared_wire import show_invalid
from serve_app.errors import InvalidRequest, Unsupported
from serve_app.model_info import ModelInfo
from serve_app.types import Sampling

_DEFAULT_COMPLETION_TOKENS = 16


class ChatCodec:
    """POST /v1/chat/completions."""

    body = ChatBody

    def decode(self, body: ChatBody, request_id: str) -> tuple[GenerateRequest, bool]:
        """See `Codec.decode`."""
        tools, form = decode_tools(body)
        if body.top_logprobs is not None and not body.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        if any(kind != "text" for kind in body.modalities or ()):
            raise Unsupported("modalities: this model answers with text only", param="modalities")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        request = GenerateRequest(
            request_id=request_id,
            prompts=(_decode_chat(body, tools),),
            form=form,
            sampling=_decode_sampling(
                body, body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens, logprobs
            ),
            explicit=_list_explicit(body) | ({"max_tokens"} if body.max_completion_tokens is not None else frozenset()),
            model=body.model,
            demands_model=True,
            stop=decode_stops([body.stop] if isinstance(body.stop, str) else body.stop, "stop"),
            n=body.n or 1,
            one_call=bool(body.functions),
        )
        return request, _is_streamed(body)

    def encode(self, completion: Completion, context: AnswerContext[ChatBody]) -> JsonObject:
        """See `Codec.encode`."""
        choices, legacy = [], bool(context.body.functions)
        for index, choice in enumerate(completion.choices):
            logprobs = {"content": show_chat_logprobs(choice.logprobs), "refusal": None} if context.body.logprobs else None
            choices.append(
                {
                    "index": index,
                    "message": _show_message(choice, legacy),
                    "logprobs": logprobs,
                    "finish_reason": show_finish_reason(choice.end, legacy),
                }
                | show_invalid(choice.end)
            )
        return show_head(context, "chat.completion") | {"choices": choices, "usage": show_completion_usage(completion, context)}

    def encoder(self, context: AnswerContext[ChatBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return ChatEncoder(context, "chat.completion.chunk")


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
            prompts=_decode_prompts(body.prompt),
            form=decode_form(body),
            sampling=_decode_sampling(
                body, _DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens, body.logprobs
            ),
            explicit=_list_explicit(body),
            model=body.model,
            demands_model=True,
            stop=decode_stops([body.stop] if isinstance(body.stop, str) else body.stop, "stop"),
            n=body.n or 1,
            echo=bool(body.echo),
        )
        return request, _is_streamed(body)

    def encode(self, completion: Completion, context: AnswerContext[CompletionBody]) -> JsonObject:
        """See `Codec.encode`."""
        choices = [
            {
                "index": index,
                "text": choice.text,
                "logprobs": show_text_logprobs(choice.logprobs, 0) if context.body.logprobs is not None else None,
                "finish_reason": choice.end.reason,
            }
            for index, choice in enumerate(completion.choices)
        ]
        return show_head(context, "text_completion") | {"choices": choices, "usage": show_completion_usage(completion, context)}

    def encoder(self, context: AnswerContext[CompletionBody]) -> StreamEncoder:
        """See `Codec.encoder`."""
        return CompletionEncoder(context, "text_completion")


def _is_streamed(body: GenerationBody) -> bool:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is only allowed with stream: true", param="stream_options")
    return bool(body.stream)


def _show_message(choice: CompletedChoice, legacy: bool) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message["content"] = choice.text or None
        message |= show_function_call(choice.tool_calls[0]) if legacy else {"tool_calls": list(map(show_call, choice.tool_calls))}
    if choice.thoughts:
        message |= {"reasoning": choice.thoughts, "reasoning_content": choice.thoughts}
    return message


def _decode_prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[Prompt, ...]:
    if isinstance(prompt, str):
        return (_decode_text(prompt),)
    if not prompt:
        raise InvalidRequest("prompt must not be empty", param="prompt")
    if all(isinstance(item, int) for item in prompt):
        return (RawTokens(ids=tuple(item for item in prompt if isinstance(item, int))),)
    return tuple(_decode_text(item) if isinstance(item, str) else RawTokens(ids=tuple(_decode_ids(item))) for item in prompt)


def _decode_text(text: str) -> RawText:
    if not text:
        raise InvalidRequest("prompt must not be empty", param="prompt")
    return RawText(text=text)


def _decode_ids(item: int | list[int]) -> list[int]:
    return [item] if isinstance(item, int) else item


def _decode_sampling(body: GenerationBody, max_tokens: int | None, logprobs: int | None) -> Sampling:
    return decode_sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=0 if body.top_k == -1 else body.top_k,  # vLLM's way to say "all"
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_decode_bias(body.logit_bias),
        seed=body.seed,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=body.ignore_eos,
        logprobs=logprobs,
    )


def _list_explicit(body: GenerationBody) -> frozenset[str]:
    return given_fields(body.model_dump(include={*GenerationBody.model_fields}))


def _decode_bias(bias: Mapping[str, float] | None) -> dict[int, float] | None:
    if bias is None:
        return None
    if not all(token.isascii() and token.isdigit() and len(token) < 12 for token in bias):
        raise InvalidRequest("logit_bias must map token ids, written as strings, to numbers", param="logit_bias")
    return {int(token): float(value) for token, value in bias.items()}


def _show_model(model: ModelInfo) -> JsonObject:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.modified),
        "owned_by": "phi-serve",
        "root": model.root,
        "parent": None if model.name == model.root else model.parent or model.root,
        "max_model_len": model.context_length,
    }


async def _list_models(context: QueryContext, _: None) -> JsonObject:
    return {"object": "list", "data": [_show_model(model) for model in context.models.list()]}


async def _find_model(context: QueryContext, _: None) -> JsonObject:
    name = context.parameters["model"]
    return _show_model(context.models.find(name)) | {"id": name}


def _decode_chat(body: ChatBody, tools: tuple[Tool, ...]) -> Chat:
    messages = decode_messages(body.messages)
    return Chat(messages=messages, tools=tools, ending=_decode_ending(body, messages[-1]))


def _decode_ending(body: ChatBody, last: Message) -> Ending:
    """Return how the prompt ends, from vLLM's two fields; raises `InvalidRequest` where they contradict each other or the chat."""
    if not body.continue_final_message:
        return Ending.CLOSED if body.add_generation_prompt is False else Ending.OPENED
    if body.add_generation_prompt is not False:
        fault = (
            "continue_final_message needs add_generation_prompt: false; an answer continues the last message or begins a new one"
        )
        raise InvalidRequest(fault, param="add_generation_prompt")
    if last.role != "assistant" or last.tool_calls:
        fault = "continue_final_message needs a last message of the assistant's that has text and no tool_calls"
        raise InvalidRequest(fault, param="continue_final_message")
    return Ending.CONTINUED


async def _render_chat(context: QueryContext, body: ChatBody) -> JsonObject:
    rendered = await context.render(body.model, _decode_chat(body, decode_tools(body)[0]))
    return {"prompt": rendered.text, "prompt_token_ids": list(rendered.ids), "count": len(rendered.ids)}


async def _tokenize(context: QueryContext, body: TokenizeBody) -> JsonObject:
    rendered = await context.render(body.model, _decode_tokenize(body))
    return {"count": len(rendered.ids), "max_model_len": rendered.context_length, "tokens": list(rendered.ids)}


def _decode_tokenize(body: TokenizeBody) -> Prompt:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("give either prompt or messages", param="prompt")
    if body.messages is None:
        if body.continue_final_message:
            raise InvalidRequest("continue_final_message needs messages", param="continue_final_message")
        return RawText(text=body.prompt or "")
    chat = ChatBody(**{name: getattr(body, name) for name in TokenizeBody.model_fields if name != "prompt"})
    return _decode_chat(chat, decode_tools(chat)[0])


async def _detokenize(context: QueryContext, body: DetokenizeBody) -> JsonObject:
    if any(token < 0 for token in body.tokens):
        raise InvalidRequest("tokens must not be negative", param="tokens")
    return {"prompt": (await context.render(body.model, RawTokens(ids=tuple(body.tokens)))).text}


DIALECT = Dialect(
    name="openai",
    prefix="/v1/",
    endpoints=(
        Generate("/v1/chat/completions", ChatCodec(), MEDIA_TYPE),
        Generate("/v1/completions", CompletionCodec(), MEDIA_TYPE),
        Query(path="/v1/chat/completions/render", method="POST", body=ChatBody, answer=_render_chat),
        Query(path="/tokenize", method="POST", body=TokenizeBody, answer=_tokenize),
        Query(path="/detokenize", method="POST", body=DetokenizeBody, answer=_detokenize),
        Query(path="/v1/models", answer=_list_models),
        Query(path="/v1/models/{model:path}", answer=_find_model),
    ),
    encode_error=encode_error,
    error_schema=ERROR_SCHEMA,
)
