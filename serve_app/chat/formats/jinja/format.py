"""The chat format of any model with a chat template. See `serve_app.chat.formats.base`.

The template's text is searched for control tokens; a client's text never counts as one, see `serve_app.chat.formats.jinja.split`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from serve_app.chat.answer_parser import CallOrText, CallParser
from serve_app.chat.formats.base import CallSyntax
from serve_app.chat.formats.custom_template import encode_opening, render_custom
from serve_app.chat.formats.jinja.probe import probe
from serve_app.chat.formats.jinja.renderer import Renderer
from serve_app.chat.formats.jinja.source import TemplateSource
from serve_app.chat.formats.jinja.split import ControlSplitter
from serve_app.chat.formats.jinja.template import CannotRender
from serve_app.chat.formats.jinja.variables import measure
from serve_app.chat.formats.names import find_format_tokens
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import AnswerForm, Chat, Tool, ToolChoice
from serve_app.types import Constraint, InvalidValue

_ASYNC_ABOVE_CHARS = 10_000
"""Shorter conversations render in a few milliseconds; longer ones leave the event loop."""


class JinjaFormat:
    """The format over one tokenizer and the templates of one folder; raises `ModelUnusable` for templates that cannot be used."""

    keeps_text = False

    def __init__(
        self, tokenizer: Tokenizer, source: TemplateSource, special_tokens: Mapping[str, str], syntax: CallSyntax | None = None
    ) -> None:
        """Compile the templates and try them on small conversations; `syntax` is None for a model that calls no tools.

        A template that lists no tools needs a syntax with `tools_as_text`; otherwise the model can call none.
        """
        self._tokenizer = tokenizer
        self._splitter = ControlSplitter(tokenizer.vocabulary)
        self._renderer = Renderer(source, special_tokens)
        self.go_template = source.default
        lists_tools = "tools" in self._renderer.variables
        self._rewrite = None if lists_tools or syntax is None else syntax.tools_as_text
        self._syntax = syntax if lists_tools or self._rewrite is not None else None
        self.capabilities: tuple[str, ...] = () if self._syntax is None else ("tools",)
        self.markers: Mapping[str, str] = MappingProxyType({}) if self._syntax is None else self._syntax.markers
        self.switches_thoughts = "enable_thinking" in self._renderer.variables
        vocabulary = tokenizer.vocabulary
        self._turn_end = vocabulary.added.get(find_format_tokens(vocabulary.added).turn_end, vocabulary.stop_ids[-1])
        probe(self._renderer, self._splitter, source.file)

    async def render(self, chat: Chat) -> tuple[int, ...]:
        """See `ChatFormat.render`."""
        opening = await encode_opening(self._tokenizer, chat)
        if self._rewrite is not None and not chat.template:
            chat = self._rewrite(chat)
        if chat.template:
            return (
                *self._join(chat, [self._turn_end] if chat.context else [], await render_custom(self._tokenizer, chat)),
                *opening,
            )
        try:
            if measure(chat) > _ASYNC_ABOVE_CHARS:
                parts = await asyncio.to_thread(self._render_parts, chat)
            else:
                parts = self._render_parts(chat)
        except CannotRender as error:
            verb = "are refused by" if error.refused else "cannot be rendered by"
            raise InvalidValue("messages", f"{verb} the model's chat template: {error.message}") from error
        ids: list[int] = []
        for part in parts:
            ids.extend([part] if isinstance(part, int) else await self._tokenizer.encode_async(part, special=False))
        if chat.context:
            repeated = ids[:1] == [chat.context[-1]] and ids[0] in self._tokenizer.vocabulary.control_ids
            ids = [*chat.context, *ids[repeated:]]
        return (*ids, *opening)

    def _render_parts(self, chat: Chat) -> list[str | int]:
        return self._splitter.split(self._renderer.render(chat))

    def _join(self, chat: Chat, end: list[int], ids: list[int]) -> list[int]:
        """Return the ids of a custom template's text after the conversation so far, or after the tokens that begin every text."""
        prefix = [] if chat.context else list(self._tokenizer.vocabulary.prefix_ids)
        return [*chat.context, *end, *(ids if ids[: len(prefix)] == prefix else [*prefix, *ids])]

    def count_control_tokens(self, chat: Chat) -> int:
        """See `ChatFormat.count_control_tokens`: a template may leave out messages, so only the conversation so far is certain."""
        return len(chat.context)

    def build_constraint(self, tools: Sequence[Tool], form: AnswerForm) -> Constraint | None:
        """See `ChatFormat.build_constraint`; raises `InvalidValue` where a call is required of a model that calls no tools."""
        if self._syntax is not None:
            return self._syntax.build_constraint(tools, form)
        if tools and form.tool_choice is ToolChoice.REQUIRED:
            raise InvalidValue("tool_choice", "cannot require a call: this model calls no tools")
        return form.format

    def build_call_parser(self, tools: Sequence[Tool], *, begun: bool) -> CallParser:
        """See `ChatFormat.build_call_parser`."""
        return _NoCalls() if self._syntax is None else self._syntax.build_call_parser(tools, begun=begun)


class _NoCalls:
    """The parser of a model that calls no tools."""

    def push(self, text: str) -> list[CallOrText]:
        """Return the text."""
        return [text] if text else []

    def finish(self) -> list[CallOrText]:
        """Return nothing: no text is kept back."""
        return []
