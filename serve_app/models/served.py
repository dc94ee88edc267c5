"""A served model: the facts of one model, and how a request for it is prepared.

Knows its tokenizer, chat format and weights; no group, engine or dialect.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from serve_app.chat.answer_parser import AnswerParser
from serve_app.chat.constraint import find_lenient_schema
from serve_app.chat.formats.base import ChatFormat
from serve_app.chat.formats.registry import build_format
from serve_app.chat.grammar import GrammarCheck, constraint_error
from serve_app.chat.prefill import find_answer_prefix, set_thinking, suppress_thoughts
from serve_app.chat.text_stream import TextStream
from serve_app.chat.tokenizer import Tokenizer
from serve_app.chat.window import fit_to_window
from serve_app.config import ModelSettings
from serve_app.conversation import Chat, GenerateRequest, Prompt, RawText, Tool
from serve_app.errors import ContextOverflow, Unsupported
from serve_app.model_names import shorten_name
from serve_app.models.weights import Weights
from serve_app.types import MAX_SEED, MAX_TOKENS, Constraint, ContextLimits, InvalidValue, Sampling, TokenRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPrompt:
    """One prompt as engines get it."""

    source: Prompt
    ids: tuple[int, ...]
    dropped_messages: int = 0
    """Turns that were left out to fit into the window that the client asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedChoice:
    """One choice: the request for an engine, and the text stream that reads its tokens."""

    prompt: Prompt
    request: TokenRequest
    text: TextStream
    tools: tuple[Tool, ...]
    """Tools that the answer may call."""
    schema: str
    """JSON schema that an answer without calls should fit, though its constraint may not enforce all of it; empty: none."""
    echo: str
    """Text that stands before the answer."""
    with_tokens: bool
    """Whether its end should hold prompt and answer as token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """A request that its model has made ready for engines."""

    request: GenerateRequest
    prompts: tuple[PreparedPrompt, ...]
    constraint: Constraint | None
    """Constraint of every answer."""

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.ids) for prompt in self.prompts)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def dropped_messages(self) -> int:
        """Turns that were left out of all prompts."""
        return sum(prompt.dropped_messages for prompt in self.prompts)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model under its own name."""

    name: str
    settings: ModelSettings
    tokenizer: Tokenizer
    format: ChatFormat
    weights: Weights
    grammars: GrammarCheck

    @classmethod
    def load(cls, name: str, settings: ModelSettings, folder: Path) -> "ServedModel":
        """Read tokenizer and configuration in `folder`; raises `ModelUnusable` where they cannot be used."""
        return cls.build(name, settings, Tokenizer.load(folder), Weights.read(folder), folder)

    @classmethod
    def build(
        cls, name: str, settings: ModelSettings, tokenizer: Tokenizer, weights: Weights, folder: Path | None = None
    ) -> "ServedModel":
        """Return the model over a tokenizer that has been read; `folder` has its chat template, if the model needs one."""
        chat_format = build_format(tokenizer, folder, chat_format=settings.chat_format, call_parser=settings.tool_call_parser)
        return cls(name, settings, tokenizer, chat_format, weights, GrammarCheck(tokenizer))

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it can do, in Ollama's words."""
        return ("completion", *self.format.capabilities, *(("thinking",) if self.settings.think_tags else ()))

    @property
    def go_template(self) -> str:
        """The prompt template in Ollama's language."""
        return self.format.go_template

    def count_least(self, chat: Chat) -> int:
        """Return the tokens that the prompt of a chat has at least, whatever the format writes between the messages."""
        kept = chat.messages if self.format.keeps_text else ()
        texts = sum(len(self.tokenizer.encode(message.content, special=False)) for message in kept)
        return texts + self.format.count_control_tokens(chat)

    def decode_ids(self, ids: tuple[int, ...]) -> str:
        """Return the text of token ids, control tokens by their names."""
        return b"".join(map(self.tokenizer.raw, ids)).decode("utf-8", "replace")

    def require_supported(self, request: GenerateRequest) -> None:
        """Raise `Unsupported` where a request asks for thoughts and the model marks none, or offers tools and it calls none."""
        name = shorten_name(request.model or self.name)
        if request.think and self.settings.think_tags is None:
            raise Unsupported(f'"{name}" does not support thinking', param="think")
        offers_tools = any(isinstance(prompt, Chat) and prompt.tools for prompt in request.prompts)
        if offers_tools and "tools" not in self.format.capabilities:
            raise Unsupported(f'"{name}" does not support tools', param="tools")

    async def prepare(self, request: GenerateRequest, limits: ContextLimits) -> PreparedRequest:
        """Return the request made ready: prompts rendered and cut to the window, the constraint compiled once.

        Raises `ContextOverflow` when a prompt cannot fit, `InvalidRequest` for a constraint that cannot be used, `InvalidValue` for
        values out of range.
        """
        tags = self.settings.think_tags
        if request.think is not None and self.format.switches_thoughts:
            request = replace(request, prompts=tuple(set_thinking(prompt, think=request.think) for prompt in request.prompts))
        elif request.think is False and tags is not None:
            request = replace(request, prompts=tuple(suppress_thoughts(prompt, tags) for prompt in request.prompts))
        request = replace(request, window=_clamp_window(request, limits))
        constraint = await self._build_constraint(request, limits.longest)
        prompts = [await self._prepare_prompt(prompt, request.window, limits) for prompt in request.prompts]
        return PreparedRequest(request=request, prompts=tuple(prompts), constraint=constraint)

    def build_choices(self, prepared: PreparedRequest, timeout_s: float) -> list[PreparedChoice]:
        """Return the choices of a request, `n` per prompt; raises `InvalidValue` for values that no engine takes."""
        n = prepared.request.n
        return [
            self._build_choice(prepared, prompt, at * n + copy, copy, timeout_s)
            for at, prompt in enumerate(prepared.prompts)
            for copy in range(n)
        ]

    def _build_choice(
        self, prepared: PreparedRequest, prompt: PreparedPrompt, number: int, copy: int, timeout_s: float
    ) -> PreparedChoice:
        request = prepared.request
        tools = prompt.source.tools if isinstance(prompt.source, Chat) else ()
        echo = (prompt.source.text if isinstance(prompt.source, RawText) else self.decode_ids(prompt.ids)) if request.echo else ""
        return PreparedChoice(
            prompt=prompt.source,
            request=TokenRequest(
                request_id=request.request_id if number == 0 else f"{request.request_id}-{number}",
                prompt=prompt.ids,
                sampling=self._build_sampling(request, len(prompt.ids), copy),
                constraint=prepared.constraint,
                timeout_s=timeout_s,
            ),
            text=TextStream(
                self.tokenizer,
                request.stop,
                parser=self._build_parser(request, prompt, tools),
                choice=number,
                min_tokens=request.sampling.min_tokens,
                one_call=request.one_call,
                hide_thoughts=request.think is False,
            ),
            tools=tools,
            schema=find_lenient_schema(prepared.constraint),
            echo=echo,
            with_tokens=request.with_tokens,
        )

    def _build_sampling(self, request: GenerateRequest, prompt_tokens: int, copy: int) -> Sampling:
        """Return how engines sample the `copy`-th answer to a prompt: its own seed, the model's stop tokens, the window's limit."""
        sampling = request.sampling
        stops = sampling.stop_token_ids if sampling.ignore_eos else (*sampling.stop_token_ids, *self.tokenizer.vocabulary.stop_ids)
        seed = None if sampling.seed is None else (sampling.seed + copy) % MAX_SEED
        if request.window is not None:
            room = min(max(1, request.window - prompt_tokens), MAX_TOKENS)
            limit = min(sampling.max_tokens or room, room)
            sampling = replace(sampling, max_tokens=limit, min_tokens=min(sampling.min_tokens, limit))
        return replace(sampling, stop_token_ids=tuple(dict.fromkeys(stops)), seed=seed)

    def _build_parser(self, request: GenerateRequest, prompt: PreparedPrompt, tools: tuple[Tool, ...]) -> AnswerParser:
        tags = self.settings.think_tags
        return AnswerParser(
            (lambda begun: self.format.build_call_parser(tools, begun=begun)) if tools else None,
            self.format.markers,
            think_tags=tags if isinstance(prompt.source, Chat) or request.think else None,
            prefill=find_answer_prefix(prompt.source, prompt.ids, self.tokenizer, tags),
        )

    async def render(self, prompt: Prompt, limits: ContextLimits) -> tuple[int, ...]:
        """Return a prompt's token ids; raises `ContextOverflow` early for one that fits nowhere, whatever its tokens are."""
        if isinstance(prompt, Chat):
            text_bytes = 0
            if self.format.keeps_text and not prompt.template:
                text_bytes = sum(len(message.content.encode()) for message in prompt.messages)
                text_bytes += sum(len(tool.function.encode()) for tool in prompt.tools)
            self._require_room(text_bytes, self.format.count_control_tokens(prompt), limits)
            return await self.format.render(prompt)
        if isinstance(prompt, RawText):
            self._require_room(len(prompt.text.encode()), 0, limits)
            ids, prefix = await self.tokenizer.encode_async(prompt.text, special=True), self.tokenizer.vocabulary.prefix_ids
            return tuple(ids) if tuple(ids[: len(prefix)]) == prefix else (*prefix, *ids)
        return prompt.ids

    def _require_room(self, text_bytes: int, control_tokens: int, limits: ContextLimits) -> None:
        least = control_tokens + text_bytes // self.tokenizer.vocabulary.longest_token_bytes
        if limits.complete and limits.longest is not None and least > limits.longest:
            raise ContextOverflow(
                f"This model's maximum context length is {limits.longest} tokens, but the prompt has at least {least} tokens. "
                "Shorten the prompt.",
            )

    async def _build_constraint(self, request: GenerateRequest, longest: int | None) -> Constraint | None:
        """Return the checked constraint of every answer; an optional one is left out where it would do harm."""
        prompt = request.prompts[0]
        try:
            constraint = self.format.build_constraint(prompt.tools if isinstance(prompt, Chat) else (), request.form)
        except InvalidValue:
            raise
        except ValueError as error:  # llguidance cannot read a pattern at all
            raise constraint_error(str(error)) from error
        if constraint is None or (constraint.optional and not self._wants_guidance(request)):
            return None
        return constraint if await self.grammars.passes(constraint, longest) else None

    def _wants_guidance(self, request: GenerateRequest) -> bool:
        """Return whether optional constraints help here: one would forbid thoughts whose tags are control tokens."""
        thinks = self.settings.think_tags is not None and request.think is not False
        return self.settings.guided_calls and not thinks and not request.sampling.ignore_eos

    async def _prepare_prompt(self, prompt: Prompt, window: int | None, limits: ContextLimits) -> PreparedPrompt:
        if window is None:
            return PreparedPrompt(source=prompt, ids=await self.render(prompt, limits))
        if isinstance(prompt, Chat) and not prompt.context:
            ids, dropped = await fit_to_window(self.format.render, prompt, window)
        else:
            ids, dropped = await self.render(prompt, limits), 0
        if len(ids) >= window:
            raise ContextOverflow(
                f"The context asked for (num_ctx) is {window} tokens, but the prompt has {len(ids)} tokens and one at least is "
                "needed for the answer. Ask for more, or shorten the prompt.",
            )
        return PreparedPrompt(source=prompt, ids=ids, dropped_messages=dropped)


def _clamp_window(request: GenerateRequest, limits: ContextLimits) -> int | None:
    """Return the context that the client asked for, cut to the groups' longest as in Ollama; None where it asked for none."""
    if request.window is None or limits.window is None or request.window <= limits.window:
        return request.window
    logger.warning(
        "request %s asks for a context of %d tokens; %d is the most here", request.request_id, request.window, limits.window
    )
    return limits.window
