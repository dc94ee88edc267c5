"""Phi-4-mini's chat format: prompts, constraints and parsers. See `serve_app.chat.formats.base`."""

from collections.abc import Mapping, Sequence

from serve_app.chat.answer_parser import CallParser
from serve_app.chat.formats.phi4.call_grammar import build_calls_or_answer, build_forced_calls, build_guided_calls
from serve_app.chat.formats.phi4.calls import Phi4CallParser
from serve_app.chat.formats.phi4.render import GO_TEMPLATE, Phi4Template
from serve_app.chat.formats.phi4.tokens import MARKERS
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import AnswerForm, Chat, Ending, Tool, ToolChoice
from serve_app.types import Constraint


class Phi4Format:
    """The format over one tokenizer; raises `KeyError` at construction when a control token is missing."""

    go_template = GO_TEMPLATE
    capabilities: tuple[str, ...] = ("tools",)
    markers: Mapping[str, str] = MARKERS

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Look up the control tokens once."""
        self._template = Phi4Template(tokenizer)

    async def render(self, chat: Chat) -> tuple[int, ...]:
        """See `ChatFormat.render`."""
        return await self._template.render(chat)

    def count_control_tokens(self, chat: Chat) -> int:
        """See `ChatFormat.count_control_tokens`: a message has its role and its end, and an opened answer adds a role."""
        return 2 * len(chat.messages) + len(chat.context) - (chat.ending is Ending.CONTINUED)

    def build_constraint(self, tools: Sequence[Tool], form: AnswerForm) -> Constraint | None:
        """See `ChatFormat.build_constraint`."""
        if not tools:
            return form.format
        if form.tool_choice is ToolChoice.REQUIRED:
            callable_tools = [tool for tool in tools if not form.callable or tool.name in form.callable]
            return build_forced_calls(callable_tools, parallel=form.parallel)
        if form.format is None and form.parallel:
            return build_guided_calls(tuple(tools))
        return build_calls_or_answer(form.format, tools, parallel=form.parallel)

    def build_call_parser(self, tools: Sequence[Tool], *, begun: bool) -> CallParser:
        """See `ChatFormat.build_call_parser`; a strict tool is called with the model's own marker only."""
        return Phi4CallParser({tool.name for tool in tools}, marked_only=any(tool.strict for tool in tools), begun=begun)
